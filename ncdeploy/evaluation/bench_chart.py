"""The chart of a bench: quality against wall time and against depth, both logarithmic; lower left is better."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from ncdeploy.errors import InputError
from ncdeploy.evaluation.bench import Bench, Row
from ncdeploy.files import atomic_write
from ncdeploy.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
SIZE = (10.5, 5.4)


def check_output(path: Path) -> None:
    """Raise InputError for a file that is neither .svg nor .png, DependencyError without matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a chart is written as {' or '.join(SUFFIXES)}")
    charts.check_matplotlib(str(path))


def write_chart(path: Path, found: Bench, *, title: str, pick: Row | None = None) -> None:
    """Write the chart, as its suffix says, with a ring around `pick`. Raises InputError if no row has a quality."""
    save(path, chart(found, title=title, pick=pick), SIZE)


def save(path: Path, paint: charts.Paint, size: tuple[float, float]) -> None:
    """Write a chart as its suffix says. Raises as `check_output`."""
    check_output(path)
    drawn = charts.render(paint, size, kind=path.suffix.lower()[1:], paper="white")
    with atomic_write(path) as temporary:
        temporary.write_bytes(drawn)


def chart(found: Bench, *, title: str, pick: Row | None = None) -> charts.Paint:
    """Both panels, with one colour per solver and one mark per driver. Raises InputError if no row has a quality."""
    rows = [(row, _height(row)) for row in found.rows if row.quality is not None]
    if not rows:
        raise InputError("chart: no plan solves the ODE, so none has a quality; give data, or a solver without noise")
    solvers, drivers = (list(dict.fromkeys(getattr(r, name) for r, _ in rows)) for name in ("solver", "driver"))
    skipped = dict.fromkeys(row.solver for row in found.rows if row.quality is None)
    note = f"{found.measure[0].upper()}{found.measure[1:]}, {found.judged} samples"
    note += f"; left out, because they draw noise: {', '.join(skipped)}." if skipped else "."
    samples = "one sample" if found.n == 1 else f"{found.n} samples"
    panels: list[tuple[str, Callable[[Row], float], Callable[[float], str]]] = [
        (f"wall time of {samples}", lambda r: r.wall_s, lambda v: f"{v * 1e3:g} ms" if v < 1 else f"{v:g} s"),
        ("depth: network calls, one after another", lambda r: r.depth, "{:g}".format),
    ]

    def paint(figure: "Figure") -> None:
        for axes, (name, value, words) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
            for (s, solver), (d, driver) in product(enumerate(solvers), reversed(list(enumerate(drivers)))):
                series = sorted((value(r), q, r.steps) for r, q in rows if (r.solver, r.driver) == (solver, driver))
                axes.plot(
                    [x for x, _, _ in series], [y for _, y, _ in series], f"C{s % 8}", **charts.mark(d),
                    linewidth=1.8 if d == 0 else 0.9,
                )  # fmt: skip
                for x, y, steps in series if d == 0 else ():
                    axes.annotate(f"{steps}", (x, y), (5, 5), textcoords="offset points", fontsize=8)
            if found.floor:
                axes.axhline(found.floor, color="0.45", linewidth=1)
                axes.annotate("real data", (1, found.floor), (0, -4), xycoords=("axes fraction", "data"),
                              textcoords="offset points", ha="right", va="top", fontsize=9)  # fmt: skip
            if pick is not None and pick.quality is not None:
                axes.plot(value(pick), _height(pick), "o", color="black", markersize=15, fillstyle="none")
            charts.logarithmic(axes.xaxis, words)
            charts.logarithmic(axes.yaxis, "{:.3g}".format)
            axes.set_xlabel(name)
            axes.label_outer()
        _legend(figure, solvers, drivers, ringed=pick is not None)
        figure.suptitle(title, x=0.01, ha="left")
        figure.axes[0].set_title(f"{note}\nLower left is better. Numbers are steps of the solver.", loc="left")

    return paint


def _height(row: Row) -> float:
    """The quality on a logarithmic axis: at least its standard error, below which it says nothing."""
    return max(row.quality or 0.0, row.error or 0.0)


def _legend(figure: "Figure", solvers: list[str], drivers: list[str], *, ringed: bool) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=f"C{i % 8}", label=name) for i, name in enumerate(solvers)]
    entries += [Line2D([], [], color="0.4", ls="", **charts.mark(i), label=name) for i, name in enumerate(drivers)]
    if ringed:
        entries.append(
            Line2D([], [], color="black", ls="", label="recommended", marker="o", markersize=11, fillstyle="none")
        )
    figure.legend(handles=entries, loc="outside lower left", ncols=7)
