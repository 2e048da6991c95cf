"""`ncdeploy check`: is an engine sound, and are data such as it takes?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ncdeploy_cli import console, options

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.health.check import Checkup


def check(
    engine: Annotated[
        Path, typer.Argument(help="What to check: model.onnx, model.pt, model.plan or a bundle.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data that it shall work on: .npy, .npz or .csv in their own units, a picture or a folder of them.",
            show_default="none",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples and the noise.")] = 0,
    device: Annotated[str, options.device()] = "cpu",
    threads: Annotated[int | None, options.threads()] = None,
    trust: Annotated[bool, options.trust()] = False,
    as_json: options.Json = False,
) -> None:
    """Find out whether an engine is wired rightly, without PyTorch and without another engine beside it.

    It draws a few samples, puts noise on them, and compares what the engine leaves of it with what the model file
    expects. Rows that are swapped, one sigma for a whole call, dead or scaled inputs and outputs are found, and with
    --data data of another range. Exit code 1 if anything is wrong.

    Example: [bold]ncdeploy check model.onnx[/bold]
    """
    from ncdeploy.backends import open_engine
    from ncdeploy.health.check import check_engine
    from ncdeploy.health.inputs import read_samples

    with open_engine(engine, device=device, threads=threads, allow_module=trust) as opened:
        samples = None if data is None else read_samples(data, opened.info)
        found = check_engine(opened, data=samples, seed=seed)
    if as_json:
        console.print_json(found.to_dict())
    else:
        if found.levels:
            console.stdout().print(_table(found))
        if not found.curve:
            console.warn("the model file has no error curve: only rows and noise levels were checked, not values")
        for fault in found.faults:
            console.error(fault)
        if found.ok:
            console.stdout().print(f"{engine.name} is sound, in {console.duration(found.seconds)}")
    if not found.ok:
        raise typer.Exit(1)


def _table(found: "Checkup") -> "Table":
    from rich.table import Table

    table = Table(box=None, title="residual energy by noise level", title_justify="left", title_style="bold")
    for heading in ("of", "sigma", "found", "expected", ""):
        table.add_column(heading, justify="left" if heading in ("of", "") else "right")
    for name, levels in (("samples", found.levels), ("data", found.data_levels)):
        for level in levels:
            band = f"± {level.allowed:.2f}"
            figures = (f"{level.sigma:.3g}", f"{level.found:.3f}", f"{level.expected:.3f} {band}")
            table.add_row(name, *figures, "" if level.ok else "outside")
    return table
