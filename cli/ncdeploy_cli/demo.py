"""`ncdeploy demo`: the whole way from data to samples on this machine, with a page that shows it."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.outputs import Force, claim


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for models, pictures and page.")] = Path(
        "demo"
    ),
    data: Annotated[
        str, typer.Option(help="digits, a 2-D set such as moons, or a folder of small pictures.")
    ] = "digits",
    updates: Annotated[
        int | None,
        typer.Option(min=1, help="Updates of the weights in training.", show_default="about 3 minutes on 2 cores"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and sampling.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Train, export, verify and sample on this machine: about 5 minutes on 2 cores, no GPU needed.

    Open [bold]index.html[/bold] in the folder when it is done.
    """
    from ncdeploy.demo.run import run_demo

    claim(output, force=force)
    start = time.perf_counter()
    with ExitStack() as stack:
        name, bar = "", stack.enter_context(console.progress("starting"))
        for step in run_demo(output, data=data, steps=updates, seed=seed, threads=threads):
            if step.name != name:
                name = step.name
                bar.update(1.0)
                stack.close()
                bar = stack.enter_context(console.progress(name, 1.0, keep=True))
            bar.update(step.done, note=step.note)
        bar.update(1.0)
    took = time.perf_counter() - start
    if as_json:
        figures = json.loads((output / "figures.json").read_text(encoding="utf-8"))
        console.print_json({"output": str(output), "wall_s": took, **figures})
        return
    console.stdout().print(f"done in {console.duration(took)}: open {output / 'index.html'}")
