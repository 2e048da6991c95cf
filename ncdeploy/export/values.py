"""Weights kept apart from their graph while it is made, and written into it or into a file beside it.

A protobuf message ends at 2 GiB, and every pass copies the graph. So of a large model the graph that passes see holds
keys in the place of values, as if they lay in files of those names; `Values` has the arrays, which are those of the
network. They are converted one at a time when they are written.

The file beside model.onnx is model.HHHHHHHHHHHH.data, named after the SHA-256 of its content: a graph and values that
do not belong together are never taken for a pair, whenever a run ends.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import DependencyError, FileError, install

try:
    import onnx
    from onnx import ModelProto, TensorProto, helper
except ImportError as e:
    raise DependencyError(f"exporting needs onnx and onnxscript: {install('torch')}") from e

from ncdeploy.files import atomic_write, real_path, temporary_beside
from ncdeploy.formats.onnxfile import external_data
from ncdeploy.formats.sidecar import graph_files

MAX_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB; the graph itself needs a little
SMALLEST = 1024  # bytes; what is smaller stays in the graph, where shapes are read off it
ALIGNMENT = 4096  # of the values in their file, so that pages of it can be mapped


class Values:
    """Arrays by the keys that stand in a graph."""

    def __init__(self) -> None:
        self._arrays: dict[str, Callable[[], NDArray[Any]]] = {}

    def add(self, array: Callable[[], NDArray[Any]]) -> str:
        """Keep what makes an array; returns its key."""
        key = str(len(self._arrays))
        self._arrays[key] = array
        return key

    def taken_from(self, program: Any) -> ModelProto:
        """The graph of torch's exporter, whose larger weights go into these values."""
        import onnx_ir as ir

        for value in program.model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= SMALLEST:
                value.const_value = ir.ExternalTensor(
                    self.add(tensor.numpy), 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name
                )
        graph: ModelProto = program.model_proto
        return graph

    def cast(self, tensor: TensorProto, name: str, type_: int) -> TensorProto:
        """The same weight in another type, under another name."""
        array, dtype = self._arrays[_key(tensor)], helper.tensor_dtype_to_np_dtype(type_)

        def converted() -> NDArray[Any]:
            with np.errstate(over="ignore"):
                return array().astype(dtype)

        made = TensorProto(name=name, data_type=type_, dims=tensor.dims)
        _point(made, self.add(converted))
        return made

    def placed(self, model: ModelProto, path: str | os.PathLike[str], most: int | None = None) -> ModelProto:
        """A copy of the graph with its values, or where it then has more than `most` bytes (None = 2 GiB), with those
        in a file that is written beside `path`."""
        whole = ModelProto()
        whole.CopyFrom(model)
        apart = [tensor for tensor in tensors_of(whole.graph) if is_apart(tensor)]
        total = whole.ByteSize() + sum(_bytes(tensor) for tensor in {_key(t): t for t in apart}.values())
        if total > (MAX_BYTES if most is None else most):
            self._write(apart, real_path(path))
            return whole
        for tensor in apart:
            array = self._arrays[_key(tensor)]()
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = array.tobytes()
        return whole

    def _write(self, apart: list[TensorProto], target: Path) -> None:
        places: dict[str, int] = {}
        sha = hashlib.sha256()
        with temporary_beside(target.with_suffix(".data")) as (temporary, _):
            with temporary.open("wb") as f:
                for key in dict.fromkeys(_key(tensor) for tensor in apart):
                    padding = bytes(-f.tell() % ALIGNMENT)
                    places[key] = f.tell() + len(padding)
                    content = np.ascontiguousarray(self._arrays[key]()).reshape(-1).view(np.uint8).data
                    for piece in (padding, content):
                        f.write(piece)
                        sha.update(piece)
                f.flush()
                os.fsync(f.fileno())
            name = f"{target.stem}.{sha.hexdigest()[:12]}.data"
            temporary.replace(target.with_name(name))
        for tensor in apart:
            _point(tensor, name, offset=places[_key(tensor)], length=_bytes(tensor))


def read_apart(path: str | os.PathLike[str]) -> tuple[ModelProto, Values | None]:
    """An ONNX file, and what it has in files beside it, read where it is looked at; None without any.

    Raises FileError as `external_data` does.
    """
    if not external_data(path):
        return onnx.load(real_path(path)), None
    model, values = onnx.load(real_path(path), load_external_data=False), Values()
    for tensor in tensors_of(model.graph):
        if is_apart(tensor):
            said = {entry.key: entry.value for entry in tensor.external_data}
            _point(tensor, values.add(_mapped(real_path(path).parent / said["location"], tensor, said)))
    return model, values


@contextlib.contextmanager
def graph_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As `atomic_write`, for a graph that may have values in a file of `Values` beside it: of an earlier graph that it
    replaces those go, and of one that failed."""
    before = _own(path, path)
    with atomic_write(path) as temporary:
        try:
            yield temporary
        except BaseException:
            _remove(_own(temporary, path) - before)
            raise
        after = _own(temporary, path)
    _remove(before - after)


def size_of(path: Path) -> int:
    """Bytes of a graph and of what it has beside it."""
    return sum(file.stat().st_size for file in graph_files(path))


def is_apart(tensor: TensorProto) -> bool:
    """Whether its values lie elsewhere."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def tensors_of(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The weights of a graph and of the loop bodies in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from tensors_of(body)


def _own(graph: str | os.PathLike[str], path: str | os.PathLike[str]) -> set[Path]:
    """Files of values that a graph which stands or will stand at `path` has, and no other graph of the folder."""
    target = real_path(path)
    named = re.compile(rf"{re.escape(target.stem)}\.[0-9a-f]{{12}}\.data")
    try:
        names = {name for name in external_data(graph) if named.fullmatch(name)}
    except FileError:  # none there, or none that can be read
        return set()
    for other in target.parent.glob("*.onnx") if names else ():
        if other not in (target, real_path(graph)):
            with contextlib.suppress(FileError):
                names -= external_data(other)
    return {target.with_name(name) for name in names}


def _remove(files: set[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _mapped(file: Path, tensor: TensorProto, said: dict[str, str]) -> Callable[[], NDArray[Any]]:
    dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)

    def array() -> NDArray[Any]:
        try:
            return np.memmap(file, dtype, "r", int(said.get("offset", 0)), shape)
        except (OSError, ValueError) as e:
            raise FileError(f"{file}: is shorter than the graph beside it says; copy both again") from e

    return array


def _point(tensor: TensorProto, location: str, **place: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {"location": location, **place}.items():
        tensor.external_data.add(key=key, value=str(value))


def _key(tensor: TensorProto) -> str:
    return str(next(entry.value for entry in tensor.external_data if entry.key == "location"))


def _bytes(tensor: TensorProto) -> int:
    return int(prod(tensor.dims) * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)
