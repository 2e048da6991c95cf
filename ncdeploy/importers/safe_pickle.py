"""Reads a pickle as data: numbers, text, lists, dicts, tensors and inert `Record`s, whatever the file asks for.

The closed tables CALLS and CLASSES below are all that a file may name; see `pickle_machine` for how it is read. The
time and memory that a file can cost are bounded:

    file        at most MAX_BYTES
    opcodes     at most MAX_OPCODES, those of nested storages included
    tensors     never larger than their storage, storages together never larger than the file
    copies      no step copies, hashes or compares what an earlier one made, so no step costs more than its bytes
    depth       nothing recurses
"""

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncdeploy.errors import FileError
from ncdeploy.files import user_path
from ncdeploy.importers.pickle_machine import ARRAY, MAX_OPCODES, Budget, Machine, Number, Record, RefusedError, Storage

MAX_BYTES = 2 << 30
MAX_DIMENSIONS = 8

# The layout of one storage inside a pickle, as torch.save wrote it before it wrote zip archives.
STORAGE_MAGIC, STORAGE_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
}
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """The content of a bare pickle file as plain values, tensors (on the CPU) and Records.

    Raises FileError, in one line, for a file that is missing, too large, truncated or damaged, and for one that names
    anything outside the closed tables of this module.
    """
    file = user_path(path)
    try:
        if not file.is_file():
            raise FileError(f"{path}: {'is not a regular file' if file.exists() else 'there is no such file'}")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise FileError(f"{path}: has {size / 2**30:.1f} GiB; pickles are read up to {MAX_BYTES >> 30} GiB")
        content = file.read_bytes()
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e
    return parse_pickle(content, path)


def parse_pickle(content: bytes, path: str | os.PathLike[str]) -> Any:
    """As `read_pickle`, of bytes; `path` is for messages."""
    stream = io.BytesIO(content)
    try:
        value = Machine(Budget(opcodes=MAX_OPCODES, bytes=len(content)), calls=CALLS, classes=CLASSES).run(stream)
        if stream.tell() != len(content):
            raise RefusedError("the file goes on after its end")
    except RefusedError as e:
        raise FileError(f"{path}: {e}; nothing of it was run") from e
    except Exception as e:  # opcodes that make no sense fail anywhere, as IndexError, ValueError, OverflowError ...
        raise FileError(f"{path}: the pickle is truncated or damaged ({type(e).__name__}); copy it again") from e
    return value


def _load_storage(budget: Budget, blob: Any) -> Storage:
    """torch.storage._load_from_bytes: four small pickles, one storage among them, then its count and its bytes."""
    if type(blob) is not bytes:
        raise RefusedError("holds a storage that is not bytes")
    budget.take(len(blob))
    stream = io.BytesIO(blob)
    magic, protocol, system = (Machine(budget).run(stream) for _ in range(3))
    if type(magic) is not int or (magic, protocol) != (STORAGE_MAGIC, STORAGE_PROTOCOL) or type(system) is not dict:
        raise RefusedError("holds a storage of unknown layout")
    if system.get("little_endian") is not True:
        raise RefusedError("holds a storage of a big-endian machine")
    storage, keys = (Machine(budget, storages=STORAGES).run(stream) for _ in range(2))
    if type(storage) is not Storage or type(keys) is not list or len(keys) != 1:
        raise RefusedError("holds something else where a storage should be")
    count = int.from_bytes(stream.read(8), "little")
    size = count * storage.dtype.itemsize
    if count != storage.count or count == 0 or size != len(blob) - stream.tell():
        raise RefusedError("holds a storage whose size is not that of its values")
    values = torch.frombuffer(bytearray(stream.read()), dtype=storage.dtype)
    return Storage(dtype=storage.dtype, count=count, values=values)


def _make_tensor(
    budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:  # hooks, metadata and whether it wants a gradient are of no use here
    """torch._utils._rebuild_tensor_v2: a view of a storage, inside it and without repetition."""
    if type(storage) is not Storage or storage.values is None:
        raise RefusedError("holds a tensor without a storage")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise RefusedError("holds a tensor of unknown layout")
    if len(shape) > MAX_DIMENSIONS or any(type(n) is not int for n in (offset, *shape, *strides)):
        raise RefusedError("holds a tensor of unknown layout")
    last, count = offset, 1
    for n, stride in zip(shape, strides, strict=True):
        if n < 0 or stride < 0:
            raise RefusedError("holds a tensor of negative size or one that runs backwards")
        last, count = last + (n - 1) * stride, count * n
    if count and (offset < 0 or last >= storage.count or count > storage.count):
        raise RefusedError("holds a tensor that is larger than its storage")
    return torch.as_strided(storage.values, shape, strides, offset) if count else torch.empty(0)


def _parameter(budget: Budget, tensor: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_parameter."""
    if not isinstance(tensor, Tensor):
        raise RefusedError("holds a parameter that is not a tensor")
    return tensor


def _persistent(budget: Budget, meta: Any) -> Record:
    """torch_utils.persistence._reconstruct_persistent_obj: the state is kept, the source code beside it ignored."""
    if type(meta) is not dict or type(meta.get("class_name")) is not str or type(meta.get("state")) is not dict:
        raise RefusedError("holds a persistent object of unknown layout")
    return Record(kind=meta["class_name"], state=meta["state"])


def _number_type(budget: Budget, code: Any, *_: Any) -> Number:
    """numpy.dtype."""
    if type(code) is not str or code not in NUMBERS:
        raise RefusedError("holds a NumPy type that is not a plain number")
    return Number(code)


def _number(budget: Budget, kind: Any, raw: Any) -> Any:
    """numpy.core.multiarray.scalar: a Python number."""
    if type(kind) is not Number or type(raw) is not bytes or len(raw) != int(kind.code[1:]):
        raise RefusedError("holds a NumPy number of unknown layout")
    return np.frombuffer(raw, np.dtype("<" + kind.code))[0].item()


def _array(budget: Budget, *_: Any) -> Record:
    """numpy.core.multiarray._reconstruct: an array, of no use here, such as the scales of an encoder."""
    return Record(ARRAY)


def _empty_dict(budget: Budget) -> dict[str, Any]:
    return {}


def _listed(budget: Budget, items: Any) -> Any:
    """builtins.set, as a list: its order means nothing, and its items need not be hashed."""
    if type(items) is not list:
        raise RefusedError("holds a set that is not made of a list")
    return items


CALLS: dict[str, Callable[..., Any]] = {
    "builtins.set": _listed,
    "collections.OrderedDict": _empty_dict,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.dtype": _number_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch.storage._load_from_bytes": _load_storage,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
}
CLASSES: dict[str, Callable[[], Any]] = {
    "dnnlib.util.EasyDict": dict,
    ARRAY: lambda: Record(ARRAY),
    "torch.nn.modules.container.ModuleDict": lambda: Record("ModuleDict"),
}
