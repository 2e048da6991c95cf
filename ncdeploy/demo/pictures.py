"""The pictures of a demo run."""

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ncdeploy.demo.watch import Pair, Watched
from ncdeploy.drawing.images import grid, write_picture
from ncdeploy.files import atomic_write
from ncdeploy.report import charts
from ncdeploy.report.pages import COLUMNS
from ncdeploy.report.samples import sheet as grid_or_plot
from ncdeploy.sampling.parallel import TOLERANCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIP_ROWS = 5
SHOWN = 5 * COLUMNS
OVERVIEW = (10.0, 4.4)  # inches
_SPAN = 1e3  # the heat map goes from the tolerance to so many times of it


def sheet(samples: NDArray[np.float32], *, most: int = SHOWN) -> Image.Image:
    """Up to `most` images in rows of eight, or all points as a plot."""
    return grid_or_plot(samples[:most] if samples.ndim == 4 else samples, columns=COLUMNS)


def difference_sheet(pair: Pair, *, most: int = SHOWN) -> tuple[Image.Image, float]:
    """|parallel - sequential| of images as a grid, brightened so that the 99th percentile is white; and that factor."""
    gap = np.abs(np.asarray(pair.parallel.result.samples) - np.asarray(pair.sequential.result.samples))[:most]
    factor = 2 / max(float(np.quantile(gap, 0.99)), 1e-6)
    return grid(np.clip(gap * factor, 0, 2) - 1, columns=COLUMNS), factor


def chosen_sweeps(calls: int) -> list[int]:
    """1, 2, 3, 5, 8, ... and the last one: sweep numbers that show the change, counted from 1."""
    a, b, chosen = 1, 2, []
    while a < calls:
        chosen.append(a)
        a, b = b, a + b
    return [*chosen, calls]


def strip_columns(run: Watched, sweeps: list[int]) -> list[Image.Image]:
    """One picture per sweep: a few samples one below the other, or the points as a plot."""
    return _columns(run.estimates[[s - 1 for s in sweeps]])


def final_column(run: Watched) -> Image.Image:
    """The finished samples in the form of `strip_columns`."""
    keep = run.estimates.shape[1]
    return _columns(np.asarray(run.result.samples)[None, :keep])[0]


def residual_map(run: Watched) -> charts.Paint:
    """Residuals over nodes (across) and sweeps (down), dark at the tolerance, open where no sample is at work."""
    return charts.heat_map(
        run.residuals[:, 1:], low=TOLERANCE, high=_SPAN * TOLERANCE, x_name="node, from pure noise to the sample",
        y_name="sweep", scale="change, relative to the noise level",
    )  # fmt: skip


def overview(short: Pair, long: Pair) -> charts.Paint:
    """Both ways in one figure: samples after successive sweeps, and the window that slides over the long plan."""
    sweeps = chosen_sweeps(len(short.parallel.estimates))
    columns = [*strip_columns(short.parallel, sweeps), final_column(short.sequential)]
    names = [*map(str, sweeps), "goal"]

    def paint(figure: "Figure") -> None:
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
        left, right = halves
        rows = 1 if columns[0].height > columns[0].width else 2
        for axes, picture, name in zip_longest(left.subplots(rows, -(-len(columns) // rows)).flat, columns, names):
            axes.set_axis_off()
            if picture is not None:
                axes.imshow(picture, cmap="gray", interpolation="nearest")
                axes.set_title(name)
        left.suptitle(f"{short.plan.evaluations} steps in {short.parallel.result.depth} sweeps", x=0.02, ha="left")
        left.supxlabel("samples after each sweep; goal: drawn step by step", fontsize=10)
        residual_map(long.parallel)(right)
        right.suptitle(f"{long.plan.evaluations:,} steps in {long.parallel.result.depth} sweeps", x=0.02, ha="left")

    return paint


def write_chart(path: Path, paint: charts.Paint, size: tuple[float, float]) -> None:
    """A chart on white as a .png."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(charts.render(paint, size, kind="png", paper="white"))


def write_animation(path: Path, run: Watched) -> None:
    """Every sweep of a run as a frame."""
    if run.estimates.ndim == 5:
        frames = [grid(state[: 3 * COLUMNS], columns=COLUMNS) for state in run.estimates]
    else:
        frames = _columns(run.estimates)
    write_picture(path, frames, ms=350, hold_ms=2500)


def _columns(states: NDArray[np.float32]) -> list[Image.Image]:
    if states.ndim == 5:
        return [grid(state[:STRIP_ROWS], columns=1) for state in states]
    limits = charts.plot_limits(states[-1])
    return [grid_or_plot(state, limits=limits, size=400) for state in states]
