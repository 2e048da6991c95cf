"""Samples from files, in the units of a model that is there already."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.training.arrays import read_csv, read_numpy
from ncdeploy.training.data import DATA_NAMES, load_data
from ncdeploy.training.pictures import SUFFIXES, read_folder, read_pictures


def read_samples(spec: str, info: ModelInfo) -> NDArray[np.float32]:
    """Samples [n, *shape] in model units: a table, .npy or .npz in the units of the model's data; a picture or a folder
    of them, whose black and white are -1 and 1; or the held-out part of a named data set.

    Raises InputError for samples of another shape, and for NaN or infinity; FileError for a file that cannot be read.
    """
    path = Path(spec)
    values: NDArray[Any]
    if spec in DATA_NAMES:
        values = load_data(spec).held_out
    elif path.is_dir() or path.suffix.lower() in SUFFIXES:
        values = (read_folder(path)[0] if path.is_dir() else read_pictures([path])) / 127.5 - 1
    else:
        raw = read_csv(path) if path.suffix.lower() == ".csv" else read_numpy(path)[0]
        if raw.dtype.kind not in "fiub":
            raise InputError(f"{spec}: holds {raw.dtype}, expected real numbers")
        values = (raw.astype(np.float64) - info.offset) / info.scale
    if values.shape == info.shape:
        values = values[None]
    elif values.shape[1:] == info.shape[1:] and info.shape[0] == 1 and len(info.shape) == 3:
        values = values[:, None]  # grey pictures without their channel
    elif values.ndim == 4 and values.shape[1:] == (*info.shape[1:], info.shape[0]):
        values = np.moveaxis(values, -1, 1)
    if values.shape[1:] != info.shape or not len(values):
        raise InputError(f"{spec}: holds {values.shape}; this model takes samples of {info.shape}")
    if not np.all(np.isfinite(values)):
        raise InputError(f"{spec}: holds NaN or infinity")
    return values.astype(np.float32)
