"""Reading what `torch.save` wrote, as plain values and dense tensors, within what the file can hold."""

import argparse
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncdeploy.errors import FileError
from ncdeploy.files import regular_file
from ncdeploy.formats.archive import check_archive, is_archive

MAX_VALUES = 1_000_000  # plain values, names and containers; a list that holds itself has more
MAX_NESTING = 50
TIED = 4  # at most so many times the values of a file do its tensors have
HEAD = 1 << 22  # bytes
# What a number of NumPy, such as a loss that was kept beside the weights, is made of in a file.
_scalar = np.float64(0).__reduce__()[0]
NUMBERS: list[Any] = [
    np.dtype, (_scalar, "numpy.core.multiarray.scalar"), (_scalar, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
    argparse.Namespace,  # the options of a script, which training leaves beside the weights
]  # fmt: skip


def read_torch(path: str | os.PathLike[str]) -> Any:
    """Plain values, numbers of NumPy, tensors on the CPU, and lists, tuples and mappings of them; nothing is run.

    Of a zip archive every checksum is compared; PyTorch's files of before 2020 have none. Tensors are dense, no larger
    than their storage, and all together not much larger than the file.

    Raises FileError for anything else.
    """
    file = regular_file(path, "expected a file of torch.save")
    try:
        if is_archive(file):
            check_archive(file)
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(NUMBERS):
            payload = torch.load(file, map_location="cpu", weights_only=True)
        check_payload(payload, file.stat().st_size)
    except FileError as e:
        raise FileError(f"{path}: {e}") from e
    except pickle.UnpicklingError as e:
        found = re.search(r"Unsupported global: GLOBAL ([\w.]{1,80})", str(e))
        what = f"Python objects ({found[1]})" if found else "Python objects"
        raise FileError(
            f"{path}: holds {what} that could run code, so it was not opened; save its plain weights alone"
        ) from e
    except Exception as e:  # a damaged or hostile file may fail anywhere inside the reader
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
        raise FileError(f"{path}: damaged, cannot be read ({reason}); copy or train the file again") from e
    return payload


def pickle_head(file: Path) -> bytes:
    """The first bytes of the pickle in a PyTorch file, in which the names stand; b"" where there is none."""
    try:
        if not file.is_file():
            return b""
        if not is_archive(file):
            with file.open("rb") as f:
                return f.read(HEAD)
        with zipfile.ZipFile(file) as archive:
            inner = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            if inner is None:
                return b""
            with archive.open(inner) as f:
                return f.read(HEAD)
    except Exception:  # a damaged archive fails in a dozen ways
        return b""


def check_payload(payload: Any, size: int) -> None:
    """Raise FileError unless the payload is a small tree of values, and of dense tensors that fit into so many bytes.

    Weights that are tied stand in several places, but a value that stands twice in one tensor is not what `torch.save`
    makes of weights, and would let a small file claim any size.
    """
    storages: dict[int, int] = {}
    claimed = 0
    for count, (name, value) in enumerate(_leaves(payload, "", 0)):
        if count > MAX_VALUES:
            raise FileError(f"holds more than {MAX_VALUES} values beside its tensors; it was made to do harm")
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise FileError(f"{name[:60]!r} is {value.dtype}, {value.layout}, expected a dense tensor")
            storage = value.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            claimed += value.numel() * value.element_size()
            if value.numel() * value.element_size() > storage.nbytes():
                raise FileError(f"{name[:60]!r} claims more values than it holds; the file was altered")
    if sum(storages.values()) > size or claimed > TIED * size:
        raise FileError("claims to hold more than fits into it; the file was altered")


def _leaves(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Every value of a tree, containers among them as None, by the name it has in its container."""
    if depth > MAX_NESTING:
        raise FileError("is nested too deeply; it was made to do harm")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, key if isinstance(key, str) else "", depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, name, depth + 1)
    else:
        yield name, value
        return
    yield name, None
