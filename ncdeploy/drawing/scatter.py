"""Scatter plots of two-dimensional samples, drawn large with Pillow and reduced, so that edges are smooth."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from ncdeploy.errors import InputError

# Okabe and Ito's palette: eight colours that stay apart for colour-blind readers.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5cc0", "#444444")
_PAPER, _GRID, _TEXT = (255, 255, 255), (232, 234, 238), (84, 90, 102)
_OVERSAMPLING = 3

Limits = tuple[float, float, float, float]


def scatter(
    points: ArrayLike, *, labels: ArrayLike | None = None, limits: Limits | None = None, size: int = 640
) -> Image.Image:
    """Plot points [n, 2] into a square picture of `size` pixels; one colour per label [n].

    limits: (left, right, bottom, top) in the units of the points; by default `plot_limits(points)`.
    Points outside the limits are left out. Raises InputError for points of another shape.
    """
    xy = np.asarray(points, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise InputError(f"scatter plot: got points of shape {xy.shape}, expected (n, 2) with n >= 1")
    groups = np.zeros(len(xy), int) if labels is None else np.asarray(labels, int)
    if groups.shape != (len(xy),):
        raise InputError(f"scatter plot: got labels of shape {groups.shape}, expected ({len(xy)},)")
    left, right, bottom, top = limits or plot_limits(xy)

    big = size * _OVERSAMPLING
    margin = round(0.075 * big)
    inner = big - 2 * margin
    canvas = Image.new("RGB", (big, big), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(round(0.021 * big))
    hair = max(1, _OVERSAMPLING // 2)
    for value in ticks(left, right):
        at = margin + (value - left) / (right - left) * inner
        draw.line([(at, margin), (at, big - margin)], fill=_GRID, width=hair)
        draw.text((at, big - 0.55 * margin), f"{value:g}", fill=_TEXT, font=font, anchor="mm")
    for value in ticks(bottom, top):
        at = big - margin - (value - bottom) / (top - bottom) * inner
        draw.line([(margin, at), (big - margin, at)], fill=_GRID, width=hair)
        draw.text((0.85 * margin, at), f"{value:g}", fill=_TEXT, font=font, anchor="rm")

    pixels = np.array(canvas)
    column = margin + (xy[:, 0] - left) / (right - left) * inner
    row = big - margin - (xy[:, 1] - bottom) / (top - bottom) * inner
    radius = big * min(0.005, 0.12 / math.sqrt(len(xy)))
    alpha = min(0.8, max(0.12, 24 / math.sqrt(len(xy))))
    for group in np.unique(groups):
        hits = _discs(row[groups == group], column[groups == group], big, radius)
        colour = np.array(_rgb(PALETTE[group % len(PALETTE)]))
        inked = hits > 0
        cover = 1 - (1 - alpha) ** hits[inked][:, None]  # that many layers of ink
        pixels[inked] = np.round(pixels[inked] * (1 - cover) + colour * cover)
    picture = Image.fromarray(pixels)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def plot_limits(points: ArrayLike) -> Limits:
    """Equal spans on both axes around points [n, 2], with air; the furthest 1 in 1000 may fall outside."""
    xy = np.asarray(points, np.float64)
    low, high = np.quantile(xy, 0.0005, axis=0), np.quantile(xy, 0.9995, axis=0)
    centre, half = (low + high) / 2, max(0.55 * float((high - low).max()), 1e-6)
    return (centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half)


def ticks(low: float, high: float) -> list[float]:
    """Between three and nine round values inside [low, high], low < high: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _discs(row: NDArray[np.float64], column: NDArray[np.float64], size: int, radius: float) -> NDArray[np.int64]:
    """How many discs cover each pixel of a [size, size] picture."""
    reach = math.ceil(radius)
    span = np.arange(-reach, reach + 1)
    dy, dx = (d.ravel() for d in np.meshgrid(span, span, indexing="ij"))
    inside = dy**2 + dx**2 <= radius**2
    y = np.round(row).astype(int)[:, None] + dy[inside]
    x = np.round(column).astype(int)[:, None] + dx[inside]
    keep = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    return np.bincount(y[keep] * size + x[keep], minlength=size * size).reshape(size, size)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
