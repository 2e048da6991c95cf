"""Samples as files: a grid or a plot, a folder of PNGs, arrays.

Samples come in model units (images fill [-1, 1]); files of numbers are written in the units of the data.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ncdeploy.drawing.images import check_image_shape, grid, pixels, to_picture, write_picture
from ncdeploy.errors import InputError
from ncdeploy.files import atomic_write, check_writable
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.report import charts

KINDS = ".png (grid or plot), .npz, .npy, or a folder of PNGs (a name without a suffix, or ending in /)"


def check_output(path: str | Path, info: ModelInfo) -> None:
    """Raise before any work is done: InputError for a kind that cannot hold these samples, FileError for the place,
    DependencyError for a plot without matplotlib.

    path: as `save_samples` takes it.
    """
    kind = _kind(path)
    if kind in (".npz", ".npy"):
        pass
    elif info.shape == (2,):
        if kind == "folder":
            raise InputError(f"{path}: a folder of pictures needs image samples; write points to .png, .npz or .npy")
        charts.check_matplotlib(f"{path} (.npz and .npy need nothing)")
    else:
        check_image_shape(info.shape)
    check_writable(Path(path) / "0.png" if Path(path).is_dir() else path)


def save_samples(
    path: str | Path, samples: NDArray[Any], info: ModelInfo, *, labels: NDArray[np.int64] | None = None
) -> None:
    """Write samples [n, *shape] (model units) where `path` says: see `KINDS`.

    .npz holds `samples` in units of the data and `labels` where there are any; .npy the samples alone.
    A file appears whole or not at all. Raises what `check_output` does.
    """
    check_output(path, info)
    kind, target = _kind(path), Path(path)
    if kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        digits = len(str(len(samples) - 1))
        for i, picture in enumerate(pixels(samples)):
            write_picture(target / f"{i:0{digits}}.png", [to_picture(picture)])
    elif kind == ".png":
        write_picture(target, [sheet(samples, labels=labels)])
    else:
        data = info.to_data_units(np.asarray(samples, np.float64)).astype(np.float32)
        with atomic_write(target) as temporary:
            if kind == ".npy":
                np.save(temporary, data)
            elif labels is None:
                np.savez_compressed(temporary, samples=data)
            else:
                np.savez_compressed(temporary, samples=data, labels=labels)


def sheet(
    samples: ArrayLike, *, labels: ArrayLike | None = None, columns: int | None = None,
    limits: charts.Limits | None = None, size: int = 640,
) -> Image.Image:  # fmt: skip
    """A grid of images [n, C, H, W], or a plot of points [n, 2] of `size` pixels with one colour per label."""
    if np.ndim(samples) == 2:
        return charts.image(charts.scatter(samples, labels=labels, limits=limits), size)
    return grid(samples, columns=columns)


def _kind(path: str | Path) -> str:
    text = str(path)
    suffix = Path(text).suffix.lower()
    if text.endswith(("/", "\\")) or not suffix or Path(text).is_dir():
        return "folder"
    if suffix not in (".png", ".npz", ".npy"):
        raise InputError(f"{text}: cannot write {suffix}; expected {KINDS}")
    return suffix
