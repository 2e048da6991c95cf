"""Reading an ONNX file with the standard library alone.

An ONNX file is one protobuf message, ModelProto (onnx/onnx.proto, field numbers below), so what a file says of itself,
its inputs and its operators can be read without a parser for every type and without loading the weights.
"""

import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ncdeploy.errors import FileError
from ncdeploy.files import real_path, regular_file
from ncdeploy.formats.protobuf import BYTES, VARINT, Buffer, DamagedError, fields, message, only, text, varint, whole
from ncdeploy.ports import Port

# ModelProto: field number -> wire type
MODEL_FIELDS = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES, 14: BYTES}
MODEL_FIELDS |= {20: BYTES, 25: BYTES, 26: BYTES}
IR_VERSION, PRODUCER, PRODUCER_VERSION, GRAPH, OPSETS, METADATA = 1, 2, 3, 7, 8, 14
# GraphProto
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
NODE_OP_TYPE, NODE_ATTRIBUTE = 4, 5
ATTRIBUTE_GRAPHS = (6, 11)  # AttributeProto: g, graphs
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_EXTERNAL = 1, 2, 8, 13
# Where tensors may lie: of each message, field number -> message inside it
TENSORS_IN: dict[str, dict[int, str]] = {
    "model": {GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {NODE: "node", INITIALIZER: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {NODE_ATTRIBUTE: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {TENSOR_EXTERNAL: "external"},
}
ELEMENT_TYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"}
FLOATS = (1, 10, 11, 16)
MAX_AXES, MAX_VALUES, MAX_NESTING, MAX_TEXT = 32, 1 << 48, 32, 500


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """What an ONNX file holds. `opset` is that of the standard operators, 0 if it declares none."""

    ir_version: int
    opset: int
    producer: str
    metadata: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    parameters: int


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Whether the file is an ONNX model by its outermost fields. Raises FileError if it is one cut short."""
    seen = set()
    try:
        for number, wire, _ in fields(_map(path)):
            if MODEL_FIELDS.get(number) != wire:
                return False
            seen.add(number)
    except DamagedError as e:
        if IR_VERSION in seen:
            raise FileError(f"{path}: is an ONNX file cut short or damaged; copy or export it again") from e
        return False
    return seen >= {IR_VERSION, GRAPH}


def read_onnx(path: str | os.PathLike[str]) -> OnnxFile:
    """Read everything but the weights. Raises FileError for a file that is damaged, or whose weights lie in other files
    that are missing or not in its own folder."""
    try:
        file = _model(_map(path))
    except (DamagedError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: is a damaged ONNX file ({e}); copy or export it again") from e
    external_data(path)
    return file


def external_data(path: str | os.PathLike[str]) -> set[str]:
    """The files, named from the folder of an ONNX file, that its tensors have their values in.

    Raises FileError for one that is missing or not in that folder.
    """
    try:
        names = set(_locations("model", _map(path)))
    except (DamagedError, UnicodeDecodeError, RecursionError) as e:
        raise FileError(f"{path}: is a damaged ONNX file; copy or export it again") from e
    folder = real_path(path).parent
    for name in names:
        if not _LOCATION.fullmatch(name) or ".." in name.split("/"):
            raise FileError(f"{path}: its weights are said to lie in {name[:60]!a}, not in its folder; export it again")
        held = regular_file(folder / name, f"{path} has weights there; copy them with it")
        if not held.resolve().is_relative_to(folder):
            raise FileError(f"{path}: its weights in {name} are a link out of its folder; copy the file itself there")
    return names


_LOCATION = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_. -]*(/[A-Za-z0-9_.][A-Za-z0-9_. -]*)*")


def _locations(kind: str, data: Buffer) -> Iterator[str]:
    if kind == "external":
        pair = only(data)
        if text(pair.get(1, b"")) == "location":
            yield text(pair.get(2, b""))
        return
    inside = TENSORS_IN[kind]
    for number, _, value in fields(data):
        if number in inside:
            yield from _locations(inside[number], message(value))


def _map(path: str | os.PathLike[str]) -> Buffer:
    """The file's bytes as a view, read from disk where they are looked at; unmapped when the last view goes."""
    try:
        with regular_file(path, "expected an ONNX file").open("rb") as f:
            if not os.fstat(f.fileno()).st_size:
                return memoryview(b"")  # which cannot be mapped
            return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as e:
        raise FileError(f"{path}: cannot be read: {e}") from e


def _model(data: Buffer) -> OnnxFile:
    ir_version = opset = 0
    producer = {PRODUCER: "", PRODUCER_VERSION: ""}
    metadata: dict[str, str] = {}
    graph = _Graph(0)
    for number, wire, value in fields(data):
        if MODEL_FIELDS.get(number) != wire:
            raise DamagedError(f"unknown field {number}")
        if number == IR_VERSION:
            ir_version = whole(value)
        elif number in producer:
            producer[number] = text(value)
        elif number == OPSETS:
            declared = only(value)
            if text(declared.get(1, b"")) in ("", "ai.onnx"):
                opset = whole(declared.get(2, 0))
        elif number == METADATA:
            pair = only(value)
            metadata[text(pair.get(1, b""))] = text(pair.get(2, b""))
        elif number == GRAPH:
            graph.read(message(value))
    initialized = {name for name, _ in graph.tensors}
    return OnnxFile(
        ir_version=ir_version,
        opset=opset,
        producer=" ".join(producer.values()).strip(),
        metadata=metadata,
        inputs=tuple(port for port in graph.inputs if port.name not in initialized),
        outputs=tuple(graph.outputs),
        operators=dict(sorted(graph.operators.items())),
        parameters=sum(size for _, size in graph.tensors),
    )


class _Graph:
    """Collects the fields of a GraphProto that stands in so many others."""

    def __init__(self, depth: int) -> None:
        if depth > MAX_NESTING:
            raise DamagedError("graphs inside graphs without end")
        self.depth = depth
        self.operators: Counter[str] = Counter()
        self.tensors: list[tuple[str, int]] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []

    def read(self, data: Buffer) -> None:
        for number, _, value in fields(data):
            if number == NODE:
                self._node(message(value))
            elif number == INITIALIZER:
                self.tensors.append(_tensor(message(value)))
            elif number in (INPUT, OUTPUT):
                (self.inputs if number == INPUT else self.outputs).append(_port(value))

    def _node(self, data: Buffer) -> None:
        """Its operator and, for one such as Loop, those of the graphs in its attributes with their tensors."""
        for number, _, value in fields(data):
            if number == NODE_OP_TYPE:
                self.operators[text(value)] += 1
            elif number == NODE_ATTRIBUTE:
                for inner, _, held in fields(message(value)):
                    if inner in ATTRIBUTE_GRAPHS:
                        body = _Graph(self.depth + 1)
                        body.read(message(held))
                        self.operators += body.operators
                        self.tensors += body.tensors


def _tensor(data: Buffer) -> tuple[str, int]:
    """Name of a TensorProto and its number of values, 0 unless floating point; dims may be packed."""
    name, dims, floating = "", list[int](), False
    for number, wire, value in fields(data):
        if number == TENSOR_NAME:
            name = text(value)
        elif number == TENSOR_TYPE:
            floating = value in FLOATS
        elif number == TENSOR_DIMS and wire == VARINT:
            dims.append(whole(value))
        elif number == TENSOR_DIMS:
            packed, at = message(value), 0
            while at < len(packed) and len(dims) <= MAX_AXES:
                size, at = varint(packed, at)
                dims.append(size)
        if len(dims) > MAX_AXES:
            raise DamagedError(f"a tensor of more than {MAX_AXES} axes")
    if prod(dims) > MAX_VALUES:
        raise DamagedError("a tensor of more values than any file holds")
    return name, prod(dims) if floating else 0


def _port(value: int | Buffer) -> Port:
    """ValueInfoProto: 1 name, 2 type; TypeProto: 1 tensor; its 1 element type, 2 shape; Dimension: 1 size, 2 name."""
    info = only(value)
    tensor = only(only(info.get(2, b"")).get(1, b""))
    shape: list[int | str] = []
    for _, _, axis in fields(message(tensor.get(2, b""))):
        sizes = only(axis)
        shape.append(whole(sizes[1]) if 1 in sizes else _name(sizes.get(2, b"")))
        if len(shape) > MAX_AXES:
            raise DamagedError(f"a tensor of more than {MAX_AXES} axes")
    dtype = ELEMENT_TYPES.get(whole(tensor.get(1, 0)), "another type")
    return Port(name=_name(info.get(1, b"")), dtype=dtype, shape=tuple(shape))


def _name(value: int | bytes | Buffer) -> str:
    """A name as it may stand in quotes, in configurations of other programs and on a terminal."""
    name = text(value)
    if not name.isprintable() or '"' in name or "\\" in name or len(name) > MAX_TEXT:
        raise DamagedError(f"an input or output is called {name[:60]!a}")
    return name
