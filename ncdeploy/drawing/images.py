"""Samples as pictures and files: grids, film strips, animations, folders of PNGs, arrays.

Samples come in model units (images fill [-1, 1]); files of numbers are written in the units of the data.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ncdeploy.drawing.scatter import Limits, plot_limits, scatter
from ncdeploy.errors import InputError
from ncdeploy.files import atomic_write, check_writable
from ncdeploy.modelinfo import ModelInfo

CELL = 48  # pixels: a smaller picture is enlarged to at least this side
GUTTER = 2
_GUTTER_GREY = 96  # parts black tiles as well as white ones

KINDS = ".png (grid or plot), .npz, .npy, or a folder of PNGs (a name without a suffix, or ending in /)"


def check_output(path: str | Path, info: ModelInfo) -> None:
    """Raise before any work is done: InputError for a kind that cannot hold these samples, FileError for the place.

    path: as `save_samples` takes it.
    """
    kind = _kind(path)
    if kind in (".npz", ".npy"):
        pass
    elif info.shape == (2,):
        if kind == "folder":
            raise InputError(f"{path}: a folder of pictures needs image samples; write points to .png, .npz or .npy")
    else:
        _check_image_shape(info.shape)
    check_writable(Path(path) / "0.png" if Path(path).is_dir() else path)


def save_samples(
    path: str | Path, samples: NDArray[Any], info: ModelInfo, *, labels: NDArray[np.int64] | None = None
) -> None:
    """Write samples [n, *shape] (model units) where `path` says: see `KINDS`.

    .npz holds `samples` in units of the data and `labels` where there are any; .npy the samples alone.
    A file appears whole or not at all. Raises InputError and FileError as `check_output` does.
    """
    check_output(path, info)
    kind, target = _kind(path), Path(path)
    if kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        digits = len(str(len(samples) - 1))
        for i, picture in enumerate(pixels(samples)):
            write_picture(target / f"{i:0{digits}}.png", [_picture(picture)])
    elif kind == ".png":
        write_picture(target, [grid_or_plot(samples, labels=labels)])
    else:
        data = info.to_data_units(np.asarray(samples, np.float64)).astype(np.float32)
        with atomic_write(target) as temporary:
            if kind == ".npy":
                np.save(temporary, data)
            elif labels is None:
                np.savez_compressed(temporary, samples=data)
            else:
                np.savez_compressed(temporary, samples=data, labels=labels)


def pixels(samples: ArrayLike) -> NDArray[np.uint8]:
    """Images [n, C, H, W] in [-1, 1] as bytes [n, H, W, C]; values outside are clipped.

    Raises InputError for other shapes, channel counts other than 1 and 3, and NaN.
    """
    array = np.asarray(samples, np.float64)
    if array.ndim != 4 or not len(array):
        raise InputError(f"pictures: got samples of shape {array.shape}, expected (n, C, H, W) with n >= 1")
    _check_image_shape(array.shape[1:])
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
    return _picture(sheet)


def grid_or_plot(
    samples: ArrayLike,
    *,
    labels: NDArray[np.int64] | None = None,
    columns: int | None = None,
    limits: Limits | None = None,
    size: int = 640,
) -> Image.Image:
    """A grid of images [n, C, H, W], or a plot of points [n, 2] of `size` pixels with one colour per label."""
    array = np.asarray(samples)
    if array.ndim == 2:
        return scatter(array, labels=labels, limits=limits, size=size)
    return grid(array, columns=columns)


def film_strip(states: ArrayLike, *, cell: int = CELL, gutter: int = GUTTER) -> Image.Image:
    """States [sweeps, n, *shape] of n samples: images as one row a sample and one column a sweep, points as plots."""
    array = np.asarray(states)
    if array.ndim == 3:
        limits = plot_limits(array[-1])
        return side_by_side([scatter(state, limits=limits, size=320) for state in array])
    sweeps, n = array.shape[:2]
    return grid(array.swapaxes(0, 1).reshape(n * sweeps, *array.shape[2:]), columns=sweeps, cell=cell, gutter=gutter)


def frames(states: ArrayLike, *, columns: int | None = None) -> list[Image.Image]:
    """One picture a sweep of states [sweeps, n, *shape], all of one size and with one scale."""
    array = np.asarray(states)
    limits = plot_limits(array[-1]) if array.ndim == 3 else None
    return [grid_or_plot(state, columns=columns, limits=limits, size=400) for state in array]


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in one row, aligned at the top."""
    width, height = sum(p.width for p in pictures), max(p.height for p in pictures)
    sheet = Image.new("RGB", (width, height), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width
    return sheet


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


def _kind(path: str | Path) -> str:
    text = str(path)
    suffix = Path(text).suffix.lower()
    if text.endswith(("/", "\\")) or not suffix or Path(text).is_dir():
        return "folder"
    if suffix not in (".png", ".npz", ".npy"):
        raise InputError(f"{text}: cannot write {suffix}; expected {KINDS}")
    return suffix


def _check_image_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[0] not in (1, 3):
        wanted = "pictures need (1 or 3, H, W), plots (2,)"
        raise InputError(f"samples of shape {shape} make no picture: {wanted}; write them to .npz or .npy")


def _picture(array: NDArray[np.uint8]) -> Image.Image:
    """Bytes [H, W, C] as a grey or colour picture."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
