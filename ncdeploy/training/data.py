"""Training data by name or path, split into a training and a held-out part.

digits                                        scikit-learn's 8 x 8 handwriting, 10 classes
moons, swiss-roll, checkerboard,              two-dimensional sets, generated
eight-gaussians, spirals
table.csv, array.npy, arrays.npz, folder/     your own
"""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import DependencyError, FileError, InputError, install
from ncdeploy.formats.conditions import read_array
from ncdeploy.ports import described, take_all
from ncdeploy.training.arrays import check_labels, read_csv, read_numpy, to_model_units
from ncdeploy.training.pictures import read_folder
from ncdeploy.training.toy import TOY_SETS, generate

DATA_NAMES = ("digits", *TOY_SETS)
TOY_POINTS = 10_000
FEWEST_ROWS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Samples in model units; data units = offset + scale * model units.

    Attributes:
        name: what the model will call its data
        x, held_out: float32 [N, *shape] and [M, *shape]
        labels, held_out_labels: int64 [N] and [M], or None
        num_classes: 0 without labels
        conditions, held_out_conditions: what a sample was seen under, [N, ...] and [M, ...] by name
        origin: arguments of `load_data` that make it again
    """

    name: str
    x: NDArray[np.float32]
    held_out: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None
    held_out_labels: NDArray[np.int64] | None = None
    num_classes: int = 0
    conditions: dict[str, NDArray[Any]] = field(default_factory=dict)
    held_out_conditions: dict[str, NDArray[Any]] = field(default_factory=dict)
    offset: float = 0.0
    scale: float = 1.0
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or self.x.shape[1:] != self.held_out.shape[1:] or not (len(self.x) and len(self.held_out)):
            raise InputError(f"dataset: x {self.x.shape} and held_out {self.held_out.shape} must be rows of one shape")
        if (self.labels is None) != (self.num_classes == 0):
            raise InputError("dataset: labels and num_classes go together; give both or neither")
        if list(self.conditions) != list(self.held_out_conditions):
            raise InputError("dataset: conditions and held_out_conditions have different names; give both")

    @property
    def digest(self) -> str:
        """SHA-256 of the training samples, their labels and conditions: does a resumed run see the same data?"""
        digest = hashlib.sha256(f"{self.x.shape}".encode() + self.x.tobytes())
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        for name, values in self.conditions.items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (d,) or (C, H, W)."""
        return tuple(int(n) for n in self.x.shape[1:])

    @property
    def sigma_data(self) -> float:
        """Standard deviation of all training values together, in model units."""
        return float(self.x.std(dtype=np.float64))

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean training sample, [*shape], in model units."""
        return np.asarray(self.x.mean(axis=0, dtype=np.float64))


def load_data(
    spec: str, *, seed: int = 0, held_out: float = 0.2, size: int | None = None, conditions: Sequence[str] = ()
) -> Dataset:
    """Load `spec` (see the top of this file) and split it; the same seed gives the same split.

    Args:
        seed: of the split, and of the points of a generated set
        held_out: share kept for measuring, above 0 and below 1
        size: side in pixels to bring a folder of pictures to
        conditions: of every sample, in the order of the data: "obs" for an array of that name in the .npz,
            "obs=obs.npy" or "obs=other.npz:key" for one elsewhere

    Raises:
        InputError: for data that cannot be trained on or a name that is not known
        FileError: for files that cannot be read
        DependencyError: when a reader's package is missing
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out: got {held_out}, expected a share between 0 and 1, for example 0.2")
    if seed < 0:
        raise InputError(f"seed: got {seed}, expected 0 or more")
    path = Path(spec)
    if size is not None and not path.is_dir():
        raise InputError(f"size: {spec} is not a folder of pictures; only those are brought to a size")
    name, labels, classes, offset, scale = spec, None, 0, 0.0, 1.0
    array: NDArray[Any]
    if spec in TOY_SETS:
        array = generate(spec, TOY_POINTS, seed=seed).astype(np.float32)
    elif spec == "digits":
        array, labels = _digits()
        classes, offset, scale = 10, 8.0, 8.0
    else:
        name = path.resolve().name
        raw, labels, classes = _read(path, size, [text for text in conditions if "=" not in text])
        array, offset, scale = to_model_units(raw, spec)
    rows = len(array)
    if rows < FEWEST_ROWS:
        raise InputError(f"{spec}: has {rows} rows; training takes at least {FEWEST_ROWS}")
    given = _conditions(conditions, spec, rows)
    order = np.random.default_rng(seed).permutation(rows)
    kept = min(max(round(held_out * rows), 1), rows - 1)
    held, train = order[:kept], order[kept:]
    return Dataset(
        name=name,
        x=array[train],
        held_out=array[held],
        labels=None if labels is None else labels[train],
        held_out_labels=None if labels is None else labels[held],
        num_classes=classes,
        conditions={name: values[train] for name, values in given.items()},
        held_out_conditions={name: values[held] for name, values in given.items()},
        offset=offset,
        scale=scale,
        origin={
            "spec": spec, "seed": seed, "held_out": held_out, "size": size,
            **({"conditions": list(conditions)} if conditions else {}),
        },
    )  # fmt: skip


def _conditions(texts: Sequence[str], spec: str, rows: int) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for text in texts:
        name, elsewhere, file = text.partition("=")
        if name in found:
            raise InputError(f"--condition {text}: {name} is given twice")
        if not elsewhere and not spec.endswith(".npz"):
            raise InputError(f"--condition {text}: {spec} has no arrays with names; give {name}=FILE.npy")
        found[name] = read_array(file if elsewhere else f"{spec}:{name}")
    return take_all(described(found), found, rows)


def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise DependencyError(f"the digits come with scikit-learn: {install('torch')}") from e
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32), labels.astype(np.int64)


def _read(path: Path, size: int | None, beside: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64] | None, int]:
    if path.is_dir():
        return read_folder(path, size=size)
    suffix = path.suffix.lower()
    if not path.exists():
        near = difflib.get_close_matches(str(path), DATA_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(DATA_NAMES)}"
        raise InputError(f"data: {path} is neither a known name nor an existing file or folder; {hint}")
    if suffix == ".csv":
        return read_csv(path), None, 0
    if suffix in (".npy", ".npz"):
        array, found = read_numpy(path, beside)
        if found is None:
            return array, None, 0
        labels = check_labels(found, len(array) if array.ndim else 0, str(path))
        return array, labels, int(labels.max(initial=-1)) + 1
    raise FileError(f"{path}: cannot read {suffix or 'a file without a suffix'}; expected .csv, .npy, .npz or a folder")
