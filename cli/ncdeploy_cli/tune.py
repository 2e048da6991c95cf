"""`ncdeploy tune`: measure how long a model file takes for a batch, so that --window auto knows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.choices import BATCH_VALUES

if TYPE_CHECKING:
    from ncdeploy.auto.latency import Latency
    from ncdeploy.backends.base import Backend


def tune(
    engine: Annotated[Path, typer.Argument(help="Model to measure: model.onnx, model.pt or a bundle.")],
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most rows of a network call to measure, as of sample --rows.", show_default="by sample size"
        ),
    ] = None,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds to measure for.")] = 5.0,
    device: Annotated[str, options.device()] = "cpu",
    threads: Annotated[int | None, options.threads()] = None,
    trust: Annotated[bool, options.trust()] = False,
    as_json: options.Json = False,
) -> None:
    """Measure the seconds that a network call takes by its rows, and keep them for [bold]--window auto[/bold].

    `ncdeploy sample --parallel` does this at first use, more briefly.

    Example:  ncdeploy tune model.onnx
    """
    from dataclasses import asdict

    from ncdeploy.backends import open_engine

    backend = open_engine(engine, device=device, threads=threads, allow_module=trust)
    latency = tuned(engine, backend, rows or max(1, BATCH_VALUES // backend.info.dim), threads, budget=budget)
    backend.close()
    if as_json:
        console.print_json(asdict(latency))
        return
    from rich.table import Table

    table = Table(box=None, title=f"{engine.name} on {backend.name}", title_justify="left", title_style="bold")
    for heading in ("rows", "ms a call", "ms a row", "beside a row alone"):
        table.add_column(heading, justify="right")
    one = latency.seconds[0]
    for rows, seconds in zip(latency.rows, latency.seconds, strict=True):
        each = seconds / rows
        table.add_row(str(rows), f"{seconds * 1e3:.2f}", f"{each * 1e3:.3f}", f"{each / one:.2f}")
    console.stdout().print(table)
    if 1.5 * latency.rows[-1] < latency.asked:  # sizes are steps of that much apart
        console.stdout().print(f"larger batches, up to {latency.asked} rows, would take longer than --budget allows")
    console.stdout().print("kept for --window auto on this machine, with the same --device and --threads")


def tuned(
    engine: Path, backend: "Backend", rows: int, threads: int | None, *, budget: float | None = None
) -> "Latency":
    """The curve of an engine up to `rows`, with a bar while it is measured; anew if a budget is given."""
    from ncdeploy.auto.kept import tune as measure

    with console.progress(f"timing {engine.name}", 1.0) as bar:
        return measure(
            engine, backend, max_rows=rows, threads=threads, again=budget is not None, budget=budget,
            on_call=bar.update,
        )  # fmt: skip
