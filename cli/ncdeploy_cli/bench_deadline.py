"""`ncdeploy bench --deadline`: what runs that are cut short lack."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncdeploy_cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.backends.base import Backend
    from ncdeploy.evaluation.deadlines import Cut
    from ncdeploy.run import Window
    from ncdeploy.sampling.plan import Plan


def cut_short(
    engine: "Backend", plans: "Sequence[Plan]", windows: "Sequence[Window]", limits: Sequence[float], *,
    n: int, repetitions: int, output: Path | None, as_json: bool, **how: Any,
) -> None:  # fmt: skip
    """Measure, show and draw; how: further arguments of `against_deadlines`. Closes the engine."""
    from dataclasses import asdict

    from ncdeploy.evaluation.deadlines import against_deadlines, runs_of, write_chart

    limits = sorted(set(limits))
    with console.progress("measuring", runs_of(len(plans), len(windows), len(limits), repetitions), "runs") as bar:
        cuts = against_deadlines(
            engine, plans, windows, limits, n=n, repetitions=repetitions,
            on_run=lambda name: bar.update(more=1, note=name), **how,
        )  # fmt: skip
    engine.close()
    if output is not None:
        write_chart(output, cuts, title=f"{console.samples(n)} by a deadline on {engine.name}")
    if as_json:
        rows = [asdict(cut) for cut in cuts]
        console.print_json({"rows": rows, "engine": engine.name, "n": n, "output": output and str(output)})
        return
    out = console.stdout()
    out.print(_table(cuts, f"{engine.name}, {console.samples(n)} at once, {repetitions} runs of each"))
    if output is not None:
        out.print(f"wrote {output}")


def _table(cuts: "Sequence[Cut]", title: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left",
        title=title, title_style="bold", caption_style="",
        caption="late: the latest end after the deadline; whole: samples that came to their end; rms: to whole ones",
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    for name in ("deadline", "calls", "late", "whole", "rms"):
        table.add_column(name, justify="right", no_wrap=True)
    for before, cut in zip([None, *cuts], cuts, strict=False):
        way = (cut.plan, cut.driver)
        table.add_row(
            "" if before is not None and (before.plan, before.driver) == way else ", ".join(way),
            console.duration(cut.deadline_s),
            f"{cut.depth:.0f}",
            console.duration(cut.late_s) if cut.late_s else "",
            f"{cut.complete:.0%}",
            f"{cut.rms:.2g}",
        )
    return table
