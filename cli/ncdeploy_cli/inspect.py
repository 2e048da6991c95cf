"""`ncdeploy inspect`: what a file holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console

if TYPE_CHECKING:
    from ncdeploy.inspection import Inspection
    from ncdeploy.modelinfo import ModelInfo


# Of a config: already in the description.
_SHOWN = ("shape", "num_classes", "unconditional", "sigma_min", "sigma_max", "sigma_data")


def inspect(
    file: Annotated[Path, typer.Argument(help="model.pt, model.onnx, samples.npz or a bundle.", show_default=False)],
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the Python code that a model imported from module:function names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with everything.")] = False,
) -> None:
    """Show what a model says of itself: shape, noise range, classes, default plan, weights, operators, training."""
    from ncdeploy.inspection import inspect_file

    found = inspect_file(file, allow_module=trust)
    if as_json:
        console.print_json(found.to_dict())
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
    """Counts on one line; settings and records one per line, long values shortened."""
    if values and all(isinstance(value, int) for value in values.values()):
        yield name, ", ".join(f"{key} {count}" for key, count in sorted(values.items(), key=lambda item: -item[1]))
        return
    for key, value in values.items():
        if name == "config" and key in _SHOWN:
            continue
        if isinstance(value, list) and len(value) > 8:
            yield f"{name} {key}", f"{len(value)} values (see --json)"
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"{name} {key}", text if len(text) <= 160 else f"{text[:150]} ... ({len(text)} characters; see --json)"
