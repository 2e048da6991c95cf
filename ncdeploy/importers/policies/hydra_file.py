"""Checkpoints of Diffusion Policy's workspaces, read as data: a zip archive that torch.save wrote with dill.

cfg           a DictConfig of OmegaConf: the settings, with their ${...} resolved
state_dicts   "model", "ema_model", "optimizer": name -> tensor
pickles       what else the workspace kept; not read

Nothing in the file is run: see `pickle_machine`. The objects of OmegaConf become Records, of which the values are kept.
"""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncdeploy.denoisers.torchfile import pickle_head
from ncdeploy.errors import FileError
from ncdeploy.files import regular_file, user_path
from ncdeploy.formats.archive import check_archive, is_archive
from ncdeploy.importers.pickle_machine import MAX_OPCODES, Budget, Machine, Record, RefusedError
from ncdeploy.importers.safe_pickle import CALLS, STORAGES

MAX_DEPTH, MAX_VALUES = 12, 10_000  # of the settings
MARKS = (b"omegaconf.dictconfig", b"state_dicts", b"diffusion_policy.")


def _nothing(budget: Budget, *_: Any) -> None:
    """In place of types and of bytes that nothing here needs."""


def _dict(budget: Budget, *_: Any) -> dict[str, Any]:
    return {}


_CALLS = {
    name: CALLS[name]
    for name in ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
} | {"collections.defaultdict": _dict, "dill._dill._load_type": _nothing, "_codecs.encode": _nothing}
_NODES = ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode")
_CLASSES = {
    name: lambda kind=name.rpartition(".")[2]: Record(kind)  # type: ignore[misc]
    for name in (
        "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.Metadata",
        "omegaconf.base.ContainerMetadata", *(f"omegaconf.nodes.{node}" for node in _NODES),
        "typing.Any", *(f"{where}.{kind}" for where in ("builtins", "__builtin__") for kind in ("dict", "list")),
    )
}  # fmt: skip


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether this is such a file, by what its pickle names."""
    head = pickle_head(user_path(path))
    return all(mark in head for mark in MARKS)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings as plain values, and the state dicts by name. Raises FileError for anything else."""
    file = regular_file(path, "expected a checkpoint of diffusion_policy")
    try:
        if not is_archive(file):
            raise FileError("is no zip archive, as torch.save writes; copy it again")
        content = _read(file, check_archive(file))
        if type(content) is not dict or type(content.get("state_dicts")) is not dict:
            raise FileError("holds no state_dicts; expected a checkpoint of diffusion_policy")
        settings = _plain(content.get("cfg"))
        if type(settings) is not dict:
            raise FileError("holds no settings under cfg; expected a checkpoint of diffusion_policy")
    except (FileError, RefusedError) as e:
        raise FileError(f"{path}: {e}") from e
    except Exception as e:  # opcodes that make no sense fail anywhere, as IndexError, ValueError, OverflowError ...
        raise FileError(f"{path}: the pickle is truncated or damaged ({type(e).__name__}); copy it again") from e
    return settings, content["state_dicts"]


def _read(file: Path, names: list[str]) -> Any:
    pickle = next((name for name in names if name.endswith("/data.pkl")), None)
    if pickle is None:
        raise FileError("holds no data.pkl; expected a file of torch.save")
    folder = pickle.removesuffix("data.pkl")
    budget = Budget(opcodes=MAX_OPCODES, bytes=file.stat().st_size)
    known: dict[tuple[str, torch.dtype], Tensor] = {}
    with zipfile.ZipFile(file) as archive:
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise FileError("was written by a big-endian machine")

        def values(key: Any, dtype: torch.dtype, count: int) -> Tensor:
            entry = f"{folder}data/{key}"
            if type(key) is not str or entry not in names:
                raise RefusedError("holds a tensor whose values are not in the file")
            if (key, dtype) not in known:
                raw = archive.read(entry)
                budget.take(len(raw))
                if len(raw) != count * dtype.itemsize:
                    raise RefusedError("holds a storage whose size is not that of its values")
                empty = torch.empty(0, dtype=dtype)
                known[key, dtype] = torch.frombuffer(bytearray(raw), dtype=dtype) if count else empty
            return known[key, dtype]

        machine = Machine(budget, calls=_CALLS, classes=_CLASSES, storages=STORAGES, read=values)
        return machine.run(io.BytesIO(archive.read(pickle)))


def _plain(value: Any) -> Any:
    """The values of OmegaConf's objects: dicts, lists, text, numbers, True, False and None."""
    left = MAX_VALUES

    def plain(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > MAX_DEPTH or left < 0:
            raise FileError("its settings are nested too deeply, or are too many")
        if type(value) is Record and value.kind in _NODES:
            return plain(value.state.get("_val"), depth + 1)
        if type(value) is Record and value.kind in ("DictConfig", "ListConfig"):
            return plain(value.state.get("_content"), depth + 1)
        if type(value) is dict:
            return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
        if type(value) is list:
            return [plain(inner, depth + 1) for inner in value]
        if type(value) in (str, int, float, bool, type(None)):
            return value
        raise FileError(f"its settings hold a value of type {type(value).__name__}")

    return plain(value, 0)
