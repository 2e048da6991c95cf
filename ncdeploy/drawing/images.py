"""Images as pictures: grids and animations. They come in model units and fill [-1, 1]."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ncdeploy.errors import InputError
from ncdeploy.files import atomic_write

CELL = 48  # pixels: a smaller picture is enlarged to at least this side
GUTTER = 2
_GUTTER_GREY = 96  # parts black tiles as well as white ones


def pixels(samples: ArrayLike) -> NDArray[np.uint8]:
    """Images [n, C, H, W] in [-1, 1] as bytes [n, H, W, C]; values outside are clipped.

    Raises InputError for other shapes, channel counts other than 1 and 3, and NaN.
    """
    array = np.asarray(samples, np.float64)
    if array.ndim != 4 or not len(array):
        raise InputError(f"pictures: got samples of shape {array.shape}, expected (n, C, H, W) with n >= 1")
    check_image_shape(array.shape[1:])
    if not np.isfinite(array).all():
        raise InputError("pictures: the samples hold NaN or infinity")
    return np.round((np.clip(array, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


def grid(samples: ArrayLike, *, columns: int | None = None, cell: int = CELL, gutter: int = GUTTER) -> Image.Image:
    """Images [n, C, H, W] row by row in one picture, small ones enlarged to sharp squares of >= `cell` pixels.

    columns: by default as many as make the grid about square.
    """
    tiles = pixels(samples)
    n, height, width, channels = tiles.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    zoom = max(1, math.ceil(cell / max(height, width)))
    height, width = height * zoom, width * zoom
    rows = math.ceil(n / columns)
    size = (rows * (height + gutter) - gutter, columns * (width + gutter) - gutter, channels)
    sheet = np.full(size, _GUTTER_GREY, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (height + gutter), (i % columns) * (width + gutter)
        sheet[y : y + height, x : x + width] = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return to_picture(sheet)


def write_picture(path: str | Path, pictures: Sequence[Image.Image], *, ms: int = 120, hold_ms: int = 1500) -> None:
    """Write one picture, or several as an animation that plays for ever, to a .png, .gif or .webp file.

    ms: time of a frame; hold_ms: of the last one. Raises InputError for another kind, FileError for the place.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".gif", ".webp"):
        raise InputError(
            f"{path}: cannot write a picture as {suffix or 'a file without suffix'}; expected .png, .gif or .webp"
        )
    first, *rest = pictures
    animation: dict[str, Any] = (
        {"append_images": rest, "duration": [ms] * len(rest) + [hold_ms], "loop": 0} if rest else {}
    )
    quality: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {"optimize": True}
    with atomic_write(path) as temporary:
        first.save(temporary, save_all=bool(rest), **animation, **quality)


def check_image_shape(shape: tuple[int, ...]) -> None:
    """Raise InputError for samples of a shape other than (1 or 3, H, W)."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        wanted = "pictures need (1 or 3, H, W), plots (2,)"
        raise InputError(f"samples of shape {shape} make no picture: {wanted}; write them to .npz or .npy")


def to_picture(array: NDArray[np.uint8]) -> Image.Image:
    """Bytes [H, W, C] as a grey or colour picture."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
