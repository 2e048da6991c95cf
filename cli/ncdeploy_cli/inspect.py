"""`ncdeploy inspect`: what a file holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy.errors import BackendError, DependencyError, InputError
from ncdeploy_cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.inspection import Inspection, LayerTimes
    from ncdeploy.modelinfo import ModelInfo


# Of a config: already in the description.
_SHOWN = ("shape", "num_classes", "unconditional", "sigma_min", "sigma_max", "sigma_data")


def inspect(
    file: Annotated[
        Path, typer.Argument(help="model.pt, model.onnx, model.plan, samples.npz or a bundle.", show_default=False)
    ],
    layers: Annotated[
        bool, typer.Option("--layers", help="Every layer of a TensorRT engine, its types and its time on this GPU.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(min=1, help="With --layers: rows of a call.", show_default="the engine's best")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the Python code that a model imported from module:function names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with everything.")] = False,
) -> None:
    """Show what a model says of itself: shape, noise range, classes, default plan, weights, operators, training.

    Of a TensorRT engine types, profiles, memory and the time of a call, as measured when it was built; that needs
    neither TensorRT nor a GPU, and --layers needs both.
    """
    from ncdeploy.inspection import inspect_file

    if rows is not None and not layers:
        raise InputError("--rows: goes with --layers")
    found = inspect_file(file, allow_module=trust)
    if layers and found.kind != "model.plan":
        raise InputError(f"--layers: {file} is a {found.kind}; layers are shown of a TensorRT engine, model.plan")
    timed = missing = None
    if layers:
        from ncdeploy.inspection import time_layers

        try:
            timed = time_layers(file, rows)
        except (DependencyError, BackendError) as e:
            missing = str(e)
    if as_json:
        record = found.to_dict()
        if layers:
            record["layers"], record["layers_missing"] = timed and timed.to_dict(), missing
        console.print_json(record)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(found):
        table.add_row(name, Text(value))
    out = console.stdout()
    out.print(Text(f"{file}: {found.kind}, {found.size:,} bytes"))
    out.print(table)
    if timed is not None:
        out.print(_layers(timed))
    if missing is not None:
        console.warn(f"no layers: {missing}")


def _layers(timed: "LayerTimes") -> "Table":
    from rich.table import Table
    from rich.text import Text

    total = sum(layer.milliseconds or 0.0 for layer in timed.layers)
    table = Table(
        box=None, title=f"{len(timed.layers)} layers, {total:.3f} ms for {timed.rows} rows, timed one by one",
        title_justify="left", title_style="bold",
    )  # fmt: skip
    for heading in ("ms", "%", "types", "kind", "layer"):
        table.add_column(heading, justify="right" if heading in ("ms", "%") else "left", overflow="fold")
    for layer in timed.layers:
        spent = layer.milliseconds
        time = ("", "") if spent is None else (f"{spent:.4f}", f"{100 * spent / total:.1f}" if total else "")
        table.add_row(*time, ", ".join(layer.types), layer.kind, Text(", ".join(layer.origins) or layer.name))
    return table


def _rows(found: "Inspection") -> Iterator[tuple[str, str]]:
    if found.info is not None:
        yield from _of_model(found.info)
    elif found.kind == "model.onnx":
        yield "description", "none: to run it, give --sigma-min, --sigma-max, --sigma-data (and --num-classes)"
    if found.parameters is not None:
        yield "parameters", f"{found.parameters:,}"
    for name, value in found.details.items():
        if isinstance(value, dict):
            yield from _of_dict(name.replace("_", " "), value)
        elif value:
            yield name.replace("_", " "), "; ".join(value) if isinstance(value, list) else str(value)


def _of_model(info: "ModelInfo") -> Iterator[tuple[str, str]]:
    from ncdeploy.inspection import summarize_curve
    from ncdeploy.parity import default_plan

    yield "data", f"{info.data or 'not named'}, data units = {info.offset:g} + {info.scale:g} * model units"
    yield "sample shape", " x ".join(map(str, info.shape))
    yield "trained noise", f"sigma {info.sigma_min:g} .. {info.sigma_max:g}, data std {info.sigma_data:.4g}"
    yield "labels", info.describe_labels() if info.num_classes else "none"
    for condition in info.conditions:
        null = "" if condition.null is None else ', with a value for "none"'
        yield "condition", f"{condition.describe()} of a sample{null}"
    if info.precision != "fp32":
        yield "precision", f"{info.precision} in convolutions and matrix products; inputs and output float32"
    if info.guidance:
        yield "guidance", "a weight per row, 1 if not given; the network sees every row twice"
    settings = ", ".join(
        f"{len(v)} {k}" if isinstance(v, list) else f"{k} {v}" for k, v in info.default_plan.items()
    )  # fmt: skip
    plan = default_plan(info)
    yield "default plan", f"{plan.name}, {plan.evaluations} evaluations" + (f" ({settings})" if settings else "")
    yield "denoising error", summarize_curve(info.error_curve)
    yield "weights", f"SHA-256 {info.weights_digest}" if info.weights_digest else "no digest"
    yield "written by", ", ".join(f"{k} {v}" for k, v in sorted(info.versions.items())) or "unknown"


def _of_dict(name: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Counts on one line; arrays, settings and records one per line, long values shortened."""
    if values and all(isinstance(value, int) for value in values.values()):
        yield name, ", ".join(f"{key} {count}" for key, count in sorted(values.items(), key=lambda item: -item[1]))
        return
    for key, value in values.items():
        if name == "arrays":
            spread = "from {min:.4g} to {max:.4g}, mean {mean:.4g}".format(**value) if "mean" in value else "empty"
            yield key, f"{' x '.join(map(str, value['shape']))} {value['dtype']}, {spread}"
            continue
        if name == "config" and key in _SHOWN:
            continue
        if isinstance(value, list) and len(value) > 8:
            yield f"{name} {key}", f"{len(value)} values (see --json)"
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"{name} {key}", text if len(text) <= 160 else f"{text[:150]} ... ({len(text)} characters; see --json)"
