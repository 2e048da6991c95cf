"""The pictures of a demo run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ncdeploy.demo.watch import Pair, Watched
from ncdeploy.drawing import heatmap
from ncdeploy.drawing.images import film_strip, frames, grid, grid_or_plot, write_picture
from ncdeploy.sampling.parallel import TOLERANCE

STRIP_ROWS = 6
COLUMNS = 8
DECADES = 3.0  # the heat map spans from the tolerance to this many powers of ten above it


def sheet(samples: NDArray[np.float32], *, most: int = 5 * COLUMNS) -> Image.Image:
    """Up to `most` images in rows of eight, or all points as a plot."""
    return grid_or_plot(samples[:most] if samples.ndim == 4 else samples, columns=COLUMNS)


def difference_sheet(pair: Pair, *, most: int = 5 * COLUMNS) -> tuple[Image.Image, float]:
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
    states = run.estimates[[s - 1 for s in sweeps]]
    return _columns(states)


def final_column(run: Watched) -> Image.Image:
    """The finished samples in the form of `strip_columns`."""
    keep = run.estimates.shape[1]
    return _columns(np.asarray(run.result.samples)[None, :keep])[0]


def residual_map(run: Watched) -> Image.Image:
    """Residuals over nodes (across) and sweeps (down), dark at the tolerance, bright where nothing is known yet."""
    with np.errstate(divide="ignore"):
        return heatmap.heat_map(np.log10(run.residuals[:, 1:] / TOLERANCE), low=0.0, high=DECADES)


def write_animation(path: Path, run: Watched) -> None:
    """Every sweep of a run as a frame."""
    states = run.estimates[:, : 3 * COLUMNS] if run.estimates.ndim == 5 else run.estimates
    write_picture(path, frames(states, columns=COLUMNS), ms=350, hold_ms=2500)


def write_strip(path: Path, run: Watched, sweeps: list[int]) -> None:
    """The sweeps side by side in one file: rows are samples, columns sweeps."""
    write_picture(path, [film_strip(run.estimates[[s - 1 for s in sweeps]][:, :STRIP_ROWS])])


def _columns(states: NDArray[np.float32]) -> list[Image.Image]:
    if states.ndim == 5:
        return [grid(state[:STRIP_ROWS], columns=1) for state in states]
    return frames(states)
