"""The chart of a bench: quality against wall time and against depth, both axes logarithmic; lower left is better."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ncdeploy.drawing.axes import LogAxis
from ncdeploy.drawing.scatter import PALETTE
from ncdeploy.drawing.vector import Drawing, Point
from ncdeploy.errors import InputError
from ncdeploy.evaluation.bench import Bench, Row
from ncdeploy.files import atomic_write

SUFFIXES = (".svg", ".png")
_INK, _SOFT, _GRID = "#1d2129", "#5b6472", "#e6e8ec"
_WIDTH, _PANEL, _HEIGHT = 1080, 440, 340  # of the drawing, and of what a panel's axes enclose
_LEFT, _BETWEEN = 76, 64
_R = 4.5


def check_output(path: Path) -> None:
    """Raise InputError for a file that is neither .svg nor .png."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a chart is written as {' or '.join(SUFFIXES)}")


def write_chart(path: Path, found: Bench, *, title: str, pick: Row | None = None) -> None:
    """Write the chart, as its suffix says, with a ring around `pick`. Raises InputError if no row has a quality."""
    check_output(path)
    drawing = chart(found, title=title, pick=pick)
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".svg":
            alt = f"{title}: {found.measure}, against wall time and against depth"
            temporary.write_text(drawing.svg(alt=alt), encoding="utf-8")
        else:
            drawing.picture().save(temporary, "PNG", optimize=True)


def chart(found: Bench, *, title: str, pick: Row | None = None) -> Drawing:
    """Both panels, with one colour per solver and one mark per driver. Raises InputError if no row has a quality."""
    rows = [row for row in found.rows if row.quality is not None]
    if not rows:
        raise InputError("chart: no plan solves the ODE, so none has a quality; give data, or a solver without noise")
    solvers, drivers = _distinct(r.solver for r in rows), _distinct(r.driver for r in rows)
    top = 166
    drawing = Drawing(_WIDTH, top + _HEIGHT + 64)
    drawing.text((_LEFT, 30), title, _INK, size=20)
    skipped = _distinct(r.solver for r in found.rows if r.quality is None)
    note = f"{found.measure}, {found.judged} samples"
    if skipped:
        note += f"; left out, because they draw noise: {', '.join(skipped)}"
    drawing.text((_LEFT, 56), f"{note[0].upper()}{note[1:]}.", _SOFT)
    drawing.text((_LEFT, 75), "Lower left is better. Numbers are steps of the solver.", _SOFT)
    _legend(drawing, [(name, PALETTE[i % len(PALETTE)], 0) for i, name in enumerate(solvers)], 108)
    marks = [(name, _SOFT, i) for i, name in enumerate(drivers)]
    _legend(drawing, [*marks, *([("recommended", _INK, -1)] if pick is not None else [])], 132)

    ys = [q for r in rows if (q := r.quality) is not None]
    y_axis = LogAxis([*ys, *([found.floor] if found.floor else [])], top + _HEIGHT, top)
    samples = "one sample" if found.n == 1 else f"{found.n} samples"
    panels: list[tuple[str, Callable[[Row], float], Callable[[float], str]]] = [
        (f"wall time of {samples}", lambda r: r.wall_s, _seconds),
        ("depth: network calls, one after another", lambda r: r.depth, lambda v: f"{v:g}"),
    ]
    for i, (name, value, words) in enumerate(panels):
        left = _LEFT + i * (_PANEL + _BETWEEN)
        x_axis = LogAxis([value(r) for r in rows], left, left + _PANEL)
        _frame(drawing, x_axis, y_axis, words, name, found.floor)
        places = {id(r): (x_axis(value(r)), y_axis(r.quality or 0.0)) for r in rows}
        for s, solver in enumerate(solvers):
            for d, driver in reversed(list(enumerate(drivers))):  # sequential on top
                series = sorted((r for r in rows if (r.solver, r.driver) == (solver, driver)), key=lambda r: r.steps)
                colour = PALETTE[s % len(PALETTE)]
                if not series:
                    continue
                drawing.line([places[id(r)] for r in series], colour, width=2.0 if d == 0 else 1.0)
                for r in series:
                    _mark(drawing, places[id(r)], d, colour)
        for r in rows:
            if r.window is None:
                x, y = places[id(r)]
                drawing.text((x + 8, y - 9), f"{r.steps}", _SOFT, size=11)
        if pick is not None and pick.quality is not None:
            drawing.circle((x_axis(value(pick)), y_axis(pick.quality)), 10, fill=None, stroke=_INK, width=1.5)
    return drawing


def _frame(
    drawing: Drawing, x: LogAxis, y: LogAxis, words: Callable[[float], str], name: str, floor: float | None
) -> None:
    for value in y.ticks():
        drawing.line([(x.a, y(value)), (x.b, y(value))], _GRID)
        drawing.text((x.a - 8, y(value)), f"{value:.3g}", _SOFT, size=12, anchor="end")
    for value in x.ticks():
        drawing.line([(x(value), y.a), (x(value), y.b)], _GRID)
        drawing.text((x(value), y.a + 16), words(value), _SOFT, size=12, anchor="middle")
    drawing.text(((x.a + x.b) / 2, y.a + 42), name, _INK, anchor="middle")
    if floor:
        drawing.line([(x.a, y(floor)), (x.b, y(floor))], _SOFT, width=1.5)
        drawing.text((x.b, y(floor) + 11), "real data", _SOFT, size=12, anchor="end")


def _legend(drawing: Drawing, entries: Sequence[tuple[str, str, int]], y: float) -> None:
    """A row of (name, colour, mark), where mark -1 is the ring."""
    x = float(_LEFT)
    for name, colour, kind in entries:
        if kind < 0:
            drawing.circle((x + 6, y), 7, fill=None, stroke=colour)
        else:
            _mark(drawing, (x + 6, y), kind, colour)
        drawing.text((x + 18, y), name, _INK)
        x += 40 + 8.2 * len(name)


def _mark(drawing: Drawing, at: Point, kind: int, colour: str) -> None:
    """A disc for the first driver, open shapes for the others."""
    (x, y), fill = at, drawing.paper
    corners = {2: (45, 4), 3: (90, 3), 4: (0, 4)}.get(kind)
    if corners is None:
        drawing.circle(at, _R - 0.5, fill=colour if kind == 0 else fill, stroke=colour)
        return
    turn, count = corners
    angles = [math.radians(turn + 360 * i / count) for i in range(count)]
    drawing.polygon(
        [(x + 1.25 * _R * math.cos(t), y - 1.25 * _R * math.sin(t)) for t in angles], fill=fill, stroke=colour
    )


def _seconds(value: float) -> str:
    return f"{value * 1e3:g} ms" if value < 1 else f"{value:g} s"


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
