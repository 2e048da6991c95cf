"""Numbers from files: .csv tables, .npy arrays and .npz archives, checked and brought to model units.

Model units: images (three or four axes) fill [-1, 1]; vectors (two axes) have zero mean and unit variance
over all their values together. The way back is data = offset + scale * model.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import FileError, InputError
from ncdeploy.files import regular_file
from ncdeploy.formats.arrays import read_arrays

SAMPLE_KEYS = ("x", "samples", "images")
_NARROWEST = 0.01  # a column with less than this share of the common spread would not be learned


def read_csv(path: Path) -> NDArray[np.float64]:
    """A table of numbers, float64 [rows, columns]; a first line that is not numbers is a header.

    Raises FileError for unreadable text, a ragged table or a cell that is not a number, naming its line.
    """
    try:
        with regular_file(path, "expected a table of numbers").open(newline="", encoding="utf-8-sig") as file:
            numbered = [(line, row) for line, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise FileError(f"{path}: cannot be read as text with comma-separated numbers: {e}") from e
    if numbered and not any(_is_number(cell) for cell in numbered[0][1]):
        numbered = numbered[1:]
    if not numbered:
        raise FileError(f"{path}: holds no rows of numbers")
    width = len(numbered[0][1])
    for line, row in numbered:
        if len(row) != width:
            raise FileError(f"{path}, line {line}: {len(row)} cells where the first row has {width}")
        wrong = next((cell for cell in row if not _is_number(cell)), None)
        if wrong is not None:
            raise FileError(f"{path}, line {line}: {wrong[:60]!r} is not a number; every column must be numeric")
    return np.array([[float(cell) for cell in row] for _, row in numbered], np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_numpy(path: Path, beside: Sequence[str] = ()) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Samples [N, ...] and labels (or None) of a .npy or .npz file.

    An archive holds its samples under x, samples or images, or as its only array beside `labels` and those in `beside`.
    Raises FileError as `read_arrays` does, and when there is no array to choose.
    """
    arrays = read_arrays(path)
    if "" in arrays:
        return arrays[""], None
    labels = arrays.pop("labels", None)
    arrays = {name: values for name, values in arrays.items() if name not in beside}
    key = next((k for k in SAMPLE_KEYS if k in arrays), None)
    if key is None:
        if len(arrays) != 1:
            found = ", ".join(sorted(arrays))[:60] or "none"
            raise FileError(f"{path}: name the samples one of {', '.join(SAMPLE_KEYS)}; found arrays: {found}")
        key = next(iter(arrays))
    return arrays[key], labels


def to_model_units(array: NDArray[Any], source: str) -> tuple[NDArray[np.float32], float, float]:
    """Samples float32 [N, d] or [N, C, H, W] in model units, with offset and scale.

    [N, H, W] gains a channel; [N, H, W, C] with 1 or 3 channels last is turned. uint8 images map 0 .. 255
    to [-1, 1]; other images map their own range. Raises InputError for what cannot be trained on.
    """
    if array.dtype.kind not in "fiub":
        raise InputError(f"{source}: holds {array.dtype}, expected real numbers")
    if array.ndim not in (2, 3, 4):
        raise InputError(
            f"{source}: has shape {array.shape}; expected [N, d] for vectors, [N, H, W] or [N, C, H, W] for images"
        )
    if array.size == 0:
        raise InputError(f"{source}: is empty, shape {array.shape}")
    values = array.astype(np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(f"{source}: {bad} of {values.size} values are NaN or infinite; remove those rows first")
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[-1] in (1, 3) and values.shape[1] not in (1, 3):
        values = np.moveaxis(values, -1, 1)
    if array.ndim > 2:
        low, high = (0.0, 255.0) if array.dtype == np.uint8 else (float(values.min()), float(values.max()))
        offset, scale = (high + low) / 2, (high - low) / 2
    else:
        with np.errstate(over="ignore"):
            offset, scale = float(values.mean()), float(values.std())
    if not np.isfinite(scale):
        raise InputError(f"{source}: holds numbers as large as {values.max():.3g}, whose spread overflows; scale them")
    if scale == 0 or values.min() == values.max():
        raise InputError(f"{source}: every value is the same, there is nothing to learn")
    model = (values - offset) / scale
    if array.ndim == 2:
        narrow = np.flatnonzero(model.std(axis=0) < _NARROWEST)
        if narrow.size:
            raise InputError(
                f"{source}: column {narrow[0] + 1} varies less than {_NARROWEST:.0%} of the whole table; "
                "bring the columns to similar spreads, or drop constant ones"
            )
    return model.astype(np.float32), offset, scale


def check_labels(labels: NDArray[Any], rows: int, source: str) -> NDArray[np.int64]:
    """Labels as int64 [rows], classes counted from 0. Raises InputError for anything else."""
    if labels.dtype.kind not in "iu" or labels.shape != (rows,):
        raise InputError(f"{source}: labels are {labels.dtype} {labels.shape}; expected integers ({rows},)")
    if rows and labels.min() < 0:
        raise InputError(f"{source}: labels start at {labels.min()}; number the classes from 0")
    return labels.astype(np.int64)
