"""`ncdeploy verify`: do two model files compute the same?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ncdeploy_cli import console, options

if TYPE_CHECKING:
    from rich.table import Table

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
    """
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
