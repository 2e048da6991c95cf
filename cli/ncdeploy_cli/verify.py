"""`ncdeploy verify`: do two model files compute the same?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ncdeploy.evaluation.layers import LayerDifference
    from ncdeploy.parity import ParityReport


def verify(
    reference: Annotated[Path, typer.Argument(help="The file to trust: model.pt or model.onnx.", show_default=False)],
    candidate: Annotated[Path, typer.Argument(help="The file to check against it.", show_default=False)],
    tolerance: options.Tolerance = None,
    trajectory_tolerance: options.TrajectoryTolerance = None,
    device: Annotated[str, typer.Option(help="Where the candidate runs: cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the inputs.")] = 0,
    condition: Annotated[list[str] | None, options.condition()] = None,
    trust: Annotated[bool, options.trust()] = False,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Find the first layer whose output leaves the tolerance, of two model.onnx."),
    ] = False,
    as_json: options.Json = False,
    shape: Annotated[
        str | None, typer.Option(help='Sizes of one sample, such as "3,64,64".', rich_help_panel=options.UNDESCRIBED)
    ] = None,
    sigma_min: Annotated[
        float | None, typer.Option(help="Lowest trained noise level.", rich_help_panel=options.UNDESCRIBED)
    ] = None,
    sigma_max: Annotated[
        float | None, typer.Option(help="Highest trained noise level.", rich_help_panel=options.UNDESCRIBED)
    ] = None,
    sigma_data: Annotated[
        float | None, typer.Option(help="Standard deviation of the training data.", rich_help_panel=options.UNDESCRIBED)
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=0, help="Number of classes.", rich_help_panel=options.UNDESCRIBED)
    ] = None,
) -> None:
    """Compare two models over all noise levels, several batch sizes and whole sampled trajectories.

    An ONNX file without a description takes that of the other. Exits with 1 if they disagree.

    With --layers, layer by layer instead: two graphs of one model, such as fp32 and fp16, on ONNX Runtime's CPU, and
    the tolerance is that of a layer's rms difference over the rms of its output.
    """
    if layers:
        others = {
            "--device": None if device == "cpu" else device, "--trust": trust or None, "--threads": threads,
            "--trajectory-tolerance": trajectory_tolerance, "--shape": shape, "--sigma-min": sigma_min,
            "--sigma-max": sigma_max, "--sigma-data": sigma_data, "--num-classes": num_classes,
        }  # fmt: skip
        _layers(reference, candidate, tolerance, seed, others, as_json=as_json)
        return
    from ncdeploy.errors import ParityError
    from ncdeploy.formats.conditions import read_conditions
    from ncdeploy.formats.describe import describes_itself, info_from_flags
    from ncdeploy.parity import compare, open_pair

    silent = [path for path in (reference, candidate) if not describes_itself(path)]
    info = info_from_flags(
        silent[0] if silent else reference,
        shape=shape,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        sigma_data=sigma_data,
        num_classes=num_classes,
    )
    with console.progress("comparing"):
        a, b = open_pair(reference, candidate, device=device, threads=threads, info=info, allow_module=trust)
        report = compare(
            a, b, tolerance=tolerance, trajectory_tolerance=trajectory_tolerance, seed=seed,
            conditions=read_conditions(condition, a.info) if condition else None,
        )  # fmt: skip
    if as_json:
        console.print_json(report.to_dict())
    else:
        out = console.stdout()
        out.print(f"reference: {reference} on {report.reference}\ncandidate: {candidate} on {report.candidate}")
        out.print(_table(report))
    if not report.ok:
        raise ParityError(f"{candidate} disagrees with {reference}: {report.summary}")
    if not as_json:
        out.print(f"they agree: {report.summary}")


def _layers(
    reference: Path, candidate: Path, tolerance: float | None, seed: int, others: dict[str, Any], *, as_json: bool
) -> None:
    from ncdeploy.errors import InputError, ParityError
    from ncdeploy.evaluation.layers import compare_layers, first_apart

    for option, value in others.items():
        if value is not None:
            raise InputError(f"{option}: does nothing with --layers; leave one of them out")
    with console.stderr().status("comparing layers"):
        found = compare_layers(reference, candidate, tolerance=tolerance, seed=seed)
    first = first_apart(found)
    if as_json:
        named = None if first is None else first.layer
        console.print_json({"ok": first is None, "first": named, "layers": [layer.to_dict() for layer in found]})
    else:
        console.stdout().print(_layer_table(found))
    if first is not None:
        raise ParityError(
            f"{candidate} leaves {reference} first in layer {first.layer} ({first.operator}): relative rms "
            f"{first.rms:.2g}, cosine {first.cosine:.4f}; if only its precision is too low, export with "
            f"--keep-fp32 {first.layer}"
        )
    if not as_json:
        console.stdout().print(f"all {len(found)} agree, within {max(layer.rms for layer in found):.2g}")


def _layer_table(found: "Sequence[LayerDifference]") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("relative rms", "cosine", "PSNR, dB", "operator"):
        table.add_column(heading, justify="left" if heading == "operator" else "right", overflow="fold")
    for layer in found:
        cells = f"{layer.rms:.2e}", f"{layer.cosine:.6f}", f"{layer.psnr:.1f}"
        table.add_row(*cells, Text(layer.operator), style=None if layer.ok else "bold red")
    return table


def _table(report: "ParityReport") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("sigma", "max |difference|", "allowed"):
        table.add_column(heading, justify="right")
    for level in report.levels:
        style = None if level.max_abs <= level.allowed else "bold red"
        table.add_row(f"{level.sigma:.4g}", f"{level.max_abs:.2e}", f"{level.allowed:.1e}", style=style)
    return table
