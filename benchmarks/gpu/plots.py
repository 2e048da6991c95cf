"""The charts: latency against rows, and the gain of parallel sampling against the window and the number of samples."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.table import engine_name, measured
from ncdeploy.files import atomic_write
from ncdeploy.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Panels = dict[str, dict[str, list[tuple[float, float]]]]  # by network: the points of each series


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
            paint = draw(title, panels, x_name, y_name)
            with atomic_write(folder / f"{name}.svg") as temporary:
                temporary.write_bytes(charts.render(paint, (max(1.6, len(panels)) * 4.6, 5.2), paper="white"))
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


def draw(title: str, panels: Panels, x_name: str, y_name: str) -> charts.Paint:
    """A panel for each network, with axes of its own; one colour and mark for each series, the same in all panels."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))

    def paint(figure: "Figure") -> None:
        from matplotlib.lines import Line2D

        for axes, (network, series) in zip(
            figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True
        ):
            for name, line in series.items():
                i = names.index(name)
                axes.plot(*zip(*line, strict=True), f"C{i % 8}", **charts.mark(i // 8, 4))
            charts.logarithmic(axes.xaxis)
            charts.logarithmic(axes.yaxis)
            if y_name == "gain":
                axes.axhline(1, color="0.45", linewidth=1)
            axes.set_xlabel(x_name)
            axes.set_title(f"{network}: {y_name}", loc="left")
        handles = [Line2D([], [], color=f"C{i % 8}", **charts.mark(i // 8, 4), label=n) for i, n in enumerate(names)]
        figure.legend(handles=handles, loc="outside lower left", ncols=max(1, len(panels)))
        figure.suptitle(title, x=0.01, ha="left")

    return paint
