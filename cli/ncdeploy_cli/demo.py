"""`ncdeploy demo`: the whole way from data to samples on this machine, with a page that shows it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ncdeploy_cli import console

if TYPE_CHECKING:
    from ncdeploy.demo.run import Step


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for models, pictures and page.")] = Path(
        "demo"
    ),
    data: Annotated[
        str, typer.Option(help="digits, a 2-D set such as moons, or a folder of small pictures.")
    ] = "digits",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps.", show_default="about 3 minutes on 2 cores")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of training and sampling.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
) -> None:
    """Train, export, verify and sample on this machine: about 5 minutes on 2 cores, no GPU needed.

    Open [bold]index.html[/bold] in the folder when it is done.
    """
    from ncdeploy.demo.run import run_demo

    start = time.perf_counter()
    with _Steps() as shown:
        for step in run_demo(output, data=data, steps=steps, seed=seed, threads=threads):
            shown.show(step)
    took = console.duration(time.perf_counter() - start)
    console.stdout().print(f"done in {took}: open {output / 'index.html'}")


class _Steps:
    """A line per stage on stderr, the current one with a bar; without a terminal, a line when a stage ends."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = console.stderr()
        columns = (
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._name, self._note, self._start = "", "", 0.0

    def __enter__(self) -> "_Steps":
        self._bars.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if not failed:
            self._finish()
        self._bars.stop()

    def show(self, step: "Step") -> None:
        if step.name != self._name:
            self._finish()
            self._name, self._start = step.name, time.perf_counter()
            self._task = self._bars.add_task(step.name, total=1.0, note="")
        self._note = step.note
        self._bars.update(self._task, completed=min(step.done, 0.999), note=step.note)

    def _finish(self) -> None:
        if not self._name:
            return
        self._bars.update(self._task, completed=1.0)
        if not self._console.is_terminal:
            took = console.duration(time.perf_counter() - self._start)
            self._console.print(f"{self._name}: {took}  {self._note}".rstrip(), markup=False)
