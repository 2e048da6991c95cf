"""Samples as files: a grid or a plot, a folder of PNGs, arrays.

Samples come in model units (images fill [-1, 1]); files of numbers are written in the units of the data.
"""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ncdeploy.drawing.images import check_image_shape, grid, pixels, to_picture, write_picture
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import atomic_write, check_writable, sync, temporary_beside
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.report import charts

KINDS = ".png (grid or plot), .npz, .npy, .csv, or a folder of PNGs (a name without a suffix, or ending in /)"
_NUMBERED = re.compile(r"\d+\.png")  # a picture in a folder of samples


def check_output(path: str | Path, info: ModelInfo) -> None:
    """Raise before any work is done: InputError for a kind that cannot hold these samples, FileError for the place,
    DependencyError for a plot without matplotlib.

    path: as `save_samples` takes it.
    """
    kind = kind_of(path)
    if kind in (".npz", ".npy"):
        pass
    elif kind == ".csv":
        if len(info.shape) != 1:
            raise InputError(f"{path}: a row of a table is a vector, samples here are {info.shape}; write .npz or .npy")
    elif info.shape == (2,):
        if kind == "folder":
            raise InputError(f"{path}: a folder of pictures needs image samples; write points to .png, .npz or .npy")
        charts.check_matplotlib(f"{path} (.npz and .npy need nothing)")
    else:
        check_image_shape(info.shape)
    folder = Path(path)
    if folder.is_dir():
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        other = next((name for name in names if not _NUMBERED.fullmatch(name)), None)
        if other is not None:
            raise FileError(f"{path}: holds {other}, which is no numbered picture; choose a folder for samples alone")
    check_writable(folder / "0.png" if folder.is_dir() else path)


def save_samples(
    path: str | Path, samples: NDArray[Any], info: ModelInfo, *, labels: NDArray[np.int64] | None = None
) -> None:
    """Write samples [n, *shape] (model units) where `path` says: see `KINDS`.

    .npz holds `samples` in units of the data and `labels` where there are any; .npy and .csv the samples alone.
    A file appears whole or not at all. In a folder, numbered pictures of an earlier call go.

    Raises what `check_output` does.
    """
    check_output(path, info)
    kind, target = kind_of(path), Path(path)
    if kind == "folder":
        _save_folder(target, pixels(samples))
    elif kind == ".png":
        write_picture(target, [sheet(samples, labels=labels)])
    else:
        data = info.to_data_units(np.asarray(samples, np.float64)).astype(np.float32)
        with atomic_write(target) as temporary:
            if kind == ".npy":
                buffer = io.BytesIO()  # straight to a file, a full disk would be a matter of counts
                np.save(buffer, data)
                temporary.write_bytes(buffer.getbuffer())
            elif kind == ".csv":
                np.savetxt(temporary, data, fmt="%.9g", delimiter=",")  # nine digits give float32 back
            elif labels is None:
                np.savez_compressed(temporary, samples=data)
            else:
                np.savez_compressed(temporary, samples=data, labels=labels)


def save_single(path: str | Path, sample: NDArray[Any]) -> None:
    """Write one image [C, H, W] (model units) as a .png of its own size. Raises as `save_samples` does."""
    write_picture(path, [to_picture(pixels(sample[None])[0])])


def _save_folder(target: Path, pictures: NDArray[np.uint8]) -> None:
    """Number the pictures [n, H, W, C] in a folder, new or not; nothing there changes before all are written."""
    digits, old = len(str(len(pictures) - 1)), target.is_dir()
    try:
        with temporary_beside(target / "pictures" if old else target, folder=True) as (new, _):
            names = [f"{i:0{digits}}.png" for i in range(len(pictures))]
            for name, picture in zip(names, pictures, strict=True):
                to_picture(picture).save(new / name, optimize=True)
                sync(new / name)
            if not old:
                new.replace(target)
                sync(target.parent)
                return
            for name in names:
                (new / name).replace(target / name)
            for file in target.iterdir():
                if _NUMBERED.fullmatch(file.name) and file.name not in names:
                    file.unlink()
            sync(target)
    except OSError as e:
        raise FileError(f"{target}: cannot be written: {e.strerror or e}") from e


def sheet(
    samples: ArrayLike, *, labels: ArrayLike | None = None, columns: int | None = None,
    limits: charts.Limits | None = None, size: int = 640,
) -> Image.Image:  # fmt: skip
    """A grid of images [n, C, H, W], or a plot of points [n, 2] of `size` pixels with one colour per label."""
    if np.ndim(samples) == 2:
        return charts.image(charts.scatter(samples, labels=labels, limits=limits), size)
    return grid(samples, columns=columns)


def default_output(info: ModelInfo) -> str:
    """Where samples go if nobody says: a picture of what can be one, else an archive."""
    return "samples.png" if len(info.shape) == 3 or info.shape == (2,) else "samples.npz"


def kind_of(path: str | Path) -> str:
    """What a name asks for: a suffix among `KINDS`, or "folder". Raises InputError for another suffix."""
    text = str(path)
    suffix = Path(text).suffix.lower()
    if text.endswith(("/", "\\")) or not suffix or Path(text).is_dir():
        return "folder"
    if suffix not in (".png", ".npz", ".npy", ".csv"):
        raise InputError(f"{text}: cannot write {suffix}; expected {KINDS}")
    return suffix
