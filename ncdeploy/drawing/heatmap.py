"""Maps of numbers as coloured cells, for pages with a light or a dark background."""

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ncdeploy.errors import InputError

# From dark to bright with even steps of lightness, readable without colour vision.
COLOURS = ("#2b1d52", "#3b3f86", "#2f6b8e", "#21918c", "#4fb96d", "#a8d64a", "#fbe34c")


def heat_map(values: ArrayLike, *, low: float, high: float) -> Image.Image:
    """One pixel a cell of values [rows, columns]: `low` and below is dark, `high` and above bright, NaN transparent.

    Raises InputError for other shapes and for low >= high.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or not array.size or not low < high:
        raise InputError(f"heat map: got values {array.shape} from {low} to {high}, expected a table and low < high")
    known = np.isfinite(array)
    u = np.clip((np.where(known, array, low) - low) / (high - low), 0, 1) * (len(COLOURS) - 1)
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], float)
    rgb = [np.interp(u, np.arange(len(COLOURS)), anchors[:, channel]) for channel in range(3)]
    return Image.fromarray(np.round(np.stack([*rgb, 255.0 * known], axis=-1)).astype(np.uint8))
