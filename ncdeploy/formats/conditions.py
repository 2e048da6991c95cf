"""Conditions from files: "obs=obs.npy", or "obs=file.npz:key" for one array of several."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.formats.arrays import read_arrays
from ncdeploy.formats.parts import Part
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition, Value, take_all


def read_conditions(
    given: Sequence[str], info: ModelInfo, n: int | None = None, encoder: Part | None = None
) -> dict[str, NDArray[Any]]:
    """The conditions of a model for n samples, [n, *shape] each, from "name=file" or "name=file.npz:key".

    A file holds [m, *shape], repeated or cut to fill n, or one value [*shape] for every sample. Without n, all have as
    many samples as the longest. With the encoder of a bundle, what it takes may stand for what it makes.

    Raises InputError for text that is not so, and for names and values that do not fit the model; FileError for a file
    that cannot be read.
    """
    found = load_conditions(given, info, encoder)
    count = n or max((_length(values) for values in found.values()), default=1)
    return fill_conditions(found, info, range(count), encoder)


def load_conditions(given: Sequence[str], info: ModelInfo, encoder: Part | None = None) -> dict[str, NDArray[Any]]:
    """What the files hold, [m, *shape] each with an m of its own, for `fill_conditions`. Raises as above."""
    known = {value.name: value for value in _taken([text.partition("=")[0] for text in given], info, encoder)}
    found: dict[str, NDArray[Any]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise InputError(f"--condition {text}: expected NAME=FILE, such as obs=obs.npy or obs=file.npz:key")
        if name in found:
            raise InputError(f"--condition {text}: {name} is given twice")
        found[name] = read_array(file)
        if name in known and found[name].shape == known[name].shape:
            found[name] = found[name][None]
        if not _length(found[name]):
            raise InputError(f"--condition {name}: holds no values")
    return found


def fill_conditions(
    found: Mapping[str, NDArray[Any]], info: ModelInfo, samples: range, encoder: Part | None = None
) -> dict[str, NDArray[Any]]:
    """Those of some samples, [n, *shape] each. Raises InputError for values that do not fit the model."""
    at = np.arange(samples.start, samples.stop)
    filled = {name: values[at % len(values)] if values.ndim else values for name, values in found.items()}
    return take_all(_taken(found, info, encoder), filled, len(at))


def _length(values: NDArray[Any]) -> int:
    return len(values) if values.ndim else 1


def _taken(names: Iterable[str], info: ModelInfo, encoder: Part | None) -> tuple[Value, ...]:
    if encoder is None or not {value.name for value in encoder.inputs} & set(names):
        return info.conditions
    made = {value.name for value in encoder.outputs}
    return *encoder.inputs, *(condition for condition in info.conditions if condition.name not in made)


def parse_condition(text: str) -> Condition:
    """ "obs:float32:2x5" is an observation of shape (2, 5), "task:int64" a single number; ":0" after the shape (empty
    for a single number, "task:int64::0") is the null value. Raises InputError for anything else."""
    parts = text.split(":")
    try:
        name, dtype, sizes, null = [*parts, *[""] * (4 - len(parts))]
        return Condition(
            name=name, dtype=dtype, shape=tuple(int(size) for size in sizes.split("x") if sizes),
            null=float(null) if null else None,
        )  # fmt: skip
    except InputError as e:
        raise InputError(f"condition {text!a}: {e}") from e
    except ValueError as e:
        raise InputError(f"condition {text!a}: expected NAME:DTYPE:SHAPE:NULL, such as obs:float32:2x5:0") from e


def read_array(file: str) -> NDArray[Any]:
    """The array of "file.npy", or of "file.npz:key" one of several.

    Raises InputError for a key that is missing, FileError as `read_arrays` does.
    """
    path, colon, key = file.rpartition(":")
    if not colon or not path.endswith(".npz"):
        path, key = file, ""
    arrays = read_arrays(path)
    if not key and len(arrays) == 1:
        return next(iter(arrays.values()))
    if key not in arrays:
        names = ", ".join(sorted(arrays))[:60] or "none"
        raise InputError(f"--condition {file}: name one of its arrays, as in file.npz:key; it has {names}")
    return arrays[key]
