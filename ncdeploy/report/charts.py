"""Charts by matplotlib: one look, on light and on dark paper. A chart is a function that paints a figure.

Words are drawn as they are: no mathematics is read into names that hold a dollar sign, and in an SVG they are text.
"""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ncdeploy.errors import DependencyError, InputError, install

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Paint = Callable[["Figure"], None]
Limits = tuple[float, float, float, float]  # left, right, bottom, top
Series = Mapping[str, Sequence[tuple[float, float]]]  # points of each curve, by its name

MARKS = "osD^vP*X"
DPI = 160


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; the series are those of Okabe and Ito, which stay apart for colour-blind readers."""

    ink: str
    soft: str
    line: str
    series: tuple[str, ...]


LIGHT = Theme(
    "#1d2129", "#5b6472", "#e4e2dc",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5cc0", "#444444"),
)  # fmt: skip
DARK = Theme(
    "#e7e9ed", "#a0a8b5", "#2f3641",
    ("#5db3ec", "#f08a4b", "#3ecb9f", "#e6a3cb", "#f0bb4a", "#9cd3f5", "#b9a8f2", "#b5bcc8"),
)  # fmt: skip


def check_matplotlib(what: str = "charts") -> None:
    """Raise DependencyError, with the line that installs it, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise DependencyError(f"{what}: drawing needs matplotlib: {install('report')}") from e


def render(
    paint: Paint, size: tuple[float, float], *, kind: str = "svg", dark: bool = False, paper: str = "none",
    dpi: int = DPI,
) -> bytes:  # fmt: skip
    """A chart as the bytes of an .svg or .png of `size` inches; paper: a colour, or "none" to stand on any ground.

    Raises DependencyError without matplotlib.
    """
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context(_look(DARK if dark else LIGHT, paper)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name with letters that no font here has, or too long for the picture
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def image(paint: Paint, size: int = 640) -> Image.Image:
    """A chart as a picture on white, `size` pixels wide and high."""
    drawn = render(paint, (size / DPI, size / DPI), kind="png", paper="white")
    return Image.open(io.BytesIO(drawn)).convert("RGB")


def curves(series: Series, *, x_name: str, y_name: str = "", log_x: bool = False) -> Paint:
    """Lines over one another, named in a legend where there are several. Raises InputError for points not finite."""
    points = [p for curve in series.values() for p in curve]
    if not points or not all(math.isfinite(v) for p in points for v in p):
        raise InputError("chart: expected curves of finite points")

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for name, curve in series.items():
            axes.plot(*zip(*curve, strict=True), label=name)
        axes.set(xlabel=x_name, ylabel=y_name)
        if log_x:
            logarithmic(axes.xaxis)
        if len(series) > 1:
            axes.legend().set_in_layout(False)

    return paint


def bars(values: Mapping[str, float], *, reference: str = "") -> Paint:
    """Horizontal bars from zero, from the top: names above them, values behind them; the reference is grey."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        soft = axes.xaxis.label.get_color()
        drawn = axes.barh(
            range(len(values)), list(values.values()), height=0.4,
            color=[soft if name == reference else "C0" for name in values],
        )  # fmt: skip
        for i, name in enumerate(values):
            axes.text(0, i - 0.25, name, in_layout=False)  # however long
        axes.bar_label(drawn, fmt="%.4g", padding=5)
        axes.grid(visible=False)
        axes.margins(x=0.16)
        axes.set(xticks=[], yticks=[], ylim=(len(values) - 0.6, -0.7))
        axes.spines.bottom.set_visible(False)

    return paint


def heat_map(values: ArrayLike, *, low: float, high: float, x_name: str, y_name: str, scale: str) -> Paint:
    """Cells of values [rows, columns] on a logarithmic scale of colours from low to high, NaN left open.

    Rows and columns are counted from 1; scale: the name of the colours. Raises InputError for other shapes.
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not table.size or not 0 < low < high:
        raise InputError(f"heat map: got {table.shape} from {low} to {high}, expected a table and 0 < low < high")
    rows, columns = table.shape

    def paint(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        cells = axes.imshow(
            np.ma.masked_invalid(table), norm="log", cmap="viridis", aspect="auto", interpolation="nearest",
            extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
        )  # fmt: skip
        cells.set_clim(low, high)
        axes.set(xlabel=x_name, ylabel=y_name)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        bar = figure.colorbar(cells, ax=axes, location="top", aspect=30, shrink=0.5, anchor=(0.0, 0.5), format="{x:g}")
        bar.set_label(scale, loc="left")
        bar.minorticks_off()
        bar.outline.set_visible(False)  # type: ignore[operator]

    return paint


def scatter(points: ArrayLike, *, labels: ArrayLike | None = None, limits: Limits | None = None) -> Paint:
    """Points [n, 2] on axes of one scale, a colour for each label [n]; those outside the limits are left out.

    Raises InputError for points of another shape.
    """
    xy = np.asarray(points, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise InputError(f"scatter plot: got points of shape {xy.shape}, expected (n, 2) with n >= 1")
    groups = np.zeros(len(xy), int) if labels is None else np.asarray(labels, int)
    if groups.shape != (len(xy),):
        raise InputError(f"scatter plot: got labels of shape {groups.shape}, expected ({len(xy)},)")
    left, right, bottom, top = limits or plot_limits(xy)
    faint: dict[str, Any] = {"s": min(30.0, 4000 / len(xy)) + 4, "alpha": min(0.85, max(0.2, 18 / math.sqrt(len(xy))))}

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for group in np.unique(groups):
            axes.scatter(*xy[groups == group].T, color=f"C{group % 8}", linewidths=0, **faint)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")

    return paint


def plot_limits(points: ArrayLike) -> Limits:
    """Equal spans on both axes around points [n, 2], with air; the furthest 1 in 1000 may fall outside."""
    xy = np.asarray(points, np.float64)
    low = np.quantile(xy, 0.0005, axis=0, method="lower")
    high = np.quantile(xy, 0.9995, axis=0, method="higher")
    centre, half = (low + high) / 2, max(0.55 * float((high - low).max()), 1e-6)
    return (centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half)


def logarithmic(axis: Any, words: Callable[[float], str] = "{:g}".format) -> None:
    """A logarithmic scale with round values, written out, beside it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(float(f"{value:.6g}"))))


def mark(i: int, size: float = 5.5) -> dict[str, Any]:
    """How to draw the points of the i-th kind: full for the first, open for the others."""
    return {"marker": MARKS[i % len(MARKS)], "markersize": size, "markerfacecolor": None if i == 0 else "white"}


def _look(theme: Theme, paper: str) -> dict[str, Any]:
    from matplotlib.rcsetup import cycler

    return {
        "svg.fonttype": "none", "svg.hashsalt": "ncdeploy", "text.parse_math": False,
        "font.sans-serif": ["Inter", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "DejaVu Sans"],
        "font.size": 10, "figure.facecolor": paper, "axes.facecolor": "none", "savefig.facecolor": paper,
        "text.color": theme.ink, "axes.labelcolor": theme.soft, "xtick.color": theme.soft, "ytick.color": theme.soft,
        "axes.titlecolor": theme.soft, "axes.titlesize": 10, "figure.titlesize": 14, "figure.titleweight": "bold",
        "axes.prop_cycle": cycler(color=theme.series), "axes.grid": True, "axes.axisbelow": True,
        "grid.color": theme.line, "grid.linewidth": 0.8, "axes.edgecolor": theme.line, "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "xtick.bottom": False, "ytick.left": False,
        "lines.linewidth": 1.8, "legend.frameon": False, "legend.fontsize": 10,
    }  # fmt: skip
