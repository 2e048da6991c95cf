"""The charts: latency against rows, and the gain of parallel sampling against the window and the number of samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.table import engine_name, measured
from ncdeploy.drawing.axes import LogAxis
from ncdeploy.drawing.scatter import PALETTE
from ncdeploy.drawing.vector import Drawing, Point
from ncdeploy.files import atomic_write

Panels = dict[str, dict[str, list[Point]]]  # by network: the points of each series

_INK, _SOFT, _GRID = "#1d2129", "#5b6472", "#e6e8ec"
_PANEL, _HEIGHT, _LEFT, _BETWEEN, _LINE = 360, 320, 70, 60, 20


def write_plots(document: dict[str, Any], folder: Path) -> list[Path]:
    """latency.svg, windows.svg and samples.svg, of those for which there are figures; returns what was written."""
    machine = document["machine"]
    where = machine["gpu"] or machine["cpu"]
    written = []
    for name, title, panels, x_name, y_name in (
        ("latency", f"Time of a network call on {where}", latencies(document), "rows of a call", "milliseconds"),
        ("windows", f"One sample: sequential over parallel time on {where}", windows(document), "window", "gain"),
        ("samples", f"Sequential over parallel time on {where}", samples(document), "samples at once", "gain"),
    ):
        if panels:
            drawing = draw(title, panels, x_name, y_name)
            with atomic_write(folder / f"{name}.svg") as temporary:
                temporary.write_text(drawing.svg(alt=f"{title}: {y_name} against {x_name}"), encoding="utf-8")
            written.append(folder / f"{name}.svg")
    return written


def latencies(document: dict[str, Any]) -> Panels:
    """t(B) in milliseconds, a series for each engine."""
    panels: Panels = {}
    for cell in measured(document, "latency"):
        points = zip(cell["result"]["rows"], (1e3 * s for s in cell["result"]["seconds"]), strict=True)
        panels.setdefault(cell["network"], {})[engine_name(cell)] = list(points)
    return panels


def windows(document: dict[str, Any]) -> Panels:
    """The gain at each fixed window, for one sample, a series for each engine and plan."""
    panels: Panels = {}
    for cell in measured(document, "sampling"):
        if cell["samples"] == 1:
            points = [(w["asked"], w["gain"]) for w in cell["result"]["parallel"] if w["asked"] != "auto"]
            panels.setdefault(cell["network"], {})[_series(cell)] = sorted(points)
    return panels


def samples(document: dict[str, Any]) -> Panels:
    """The gain with the best fixed window, a series for each engine and plan that was measured at several numbers."""
    panels: Panels = {}
    for cell in measured(document, "sampling"):
        best = max(w["gain"] for w in cell["result"]["parallel"] if w["asked"] != "auto")
        panels.setdefault(cell["network"], {}).setdefault(_series(cell), []).append((cell["samples"], best))
    several = {n: {name: sorted(p) for name, p in series.items() if len(p) > 1} for n, series in panels.items()}
    return {network: series for network, series in several.items() if series}


def _series(cell: dict[str, Any]) -> str:
    return f"{engine_name(cell)}, {cell['plan']}"


def draw(title: str, panels: Panels, x_name: str, y_name: str) -> Drawing:
    """A panel for each network, with axes of its own; one colour and line for each series, the same in all panels."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    columns = max(1, len(panels))
    width = max(_LEFT + columns * (_PANEL + _BETWEEN), 640)
    per_line = max(1, (width - _LEFT) // 270)
    top = 92 + _LINE * -(-len(names) // per_line)
    drawing = Drawing(width, top + _HEIGHT + 64)
    drawing.text((_LEFT, 28), title, _INK, size=18)
    for i, name in enumerate(names):
        x, y = _LEFT + 270 * (i % per_line), 60 + _LINE * (i // per_line)
        drawing.line([(x, y), (x + 22, y)], PALETTE[i % len(PALETTE)])
        _mark(drawing, (x + 11, y), i)
        drawing.text((x + 30, y), name, _INK, size=12)
    for column, (network, series) in enumerate(panels.items()):
        left = _LEFT + column * (_PANEL + _BETWEEN)
        points = [point for one in series.values() for point in one]
        x_axis = LogAxis([x for x, _ in points], left, left + _PANEL)
        y_axis = LogAxis([y for _, y in points], top + _HEIGHT, top)
        _frame(drawing, x_axis, y_axis, network, x_name, y_name)
        for name, line in series.items():
            i = names.index(name)
            places = [(x_axis(x), y_axis(y)) for x, y in line]
            drawing.line(places, PALETTE[i % len(PALETTE)])
            for place in places:
                _mark(drawing, place, i)
    return drawing


def _mark(drawing: Drawing, at: Point, i: int) -> None:
    """Full discs for the first series of a colour, rings for the second, small discs for the third."""
    colour, turn = PALETTE[i % len(PALETTE)], i // len(PALETTE)
    drawing.circle(at, 2.0 if turn == 2 else 3.5, fill=colour if turn != 1 else drawing.paper, stroke=colour)


def _frame(drawing: Drawing, x: LogAxis, y: LogAxis, title: str, x_name: str, y_name: str) -> None:
    words: Callable[[float], str] = "{:g}".format
    drawing.text((x.a, y.b - 14), f"{title}: {y_name}", _INK)
    for value in y.ticks():
        drawing.line([(x.a, y(value)), (x.b, y(value))], _INK if value == 1 and y_name == "gain" else _GRID)
        drawing.text((x.a - 8, y(value)), words(value), _SOFT, size=12, anchor="end")
    for value in x.ticks():
        drawing.line([(x(value), y.a), (x(value), y.b)], _GRID)
        drawing.text((x(value), y.a + 16), words(value), _SOFT, size=12, anchor="middle")
    drawing.text(((x.a + x.b) / 2, y.a + 40), x_name, _INK, anchor="middle")
