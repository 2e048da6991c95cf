"""Convolutions and matrix products of an exported graph in half precision, the rest where it must be.

The rule is that of automatic mixed precision, applied to the graph once, so that every runtime gets the same types:

- inputs and output stay float32, and so does whatever depends on the noise level and the labels alone (the noise
  embedding, the coefficients of the preconditioning);
- a convolution or matrix product of what depends on x is computed in half precision;
- normalisations, softmax, sums and transcendental functions are computed in float32;
- any other operator is computed in half precision if all it reads is in half precision, otherwise in float32. So the
  preconditioning is float32: it reads x, or a coefficient.

Operators are named after the module they come from, "network.middle.conv1/conv2d_9", and a pattern keeps them float32.
"""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ncdeploy.errors import BackendError, InputError
from ncdeploy.export.passes import Pass
from ncdeploy.export.passes.types import FLOAT32, LOW, MATRIX, cast, check_types, from_x, inferred, layer
from ncdeploy.export.values import Values, is_apart

BF16_OPSET = 22  # the first in which a convolution may be bfloat16; 21 and 22 change no operator that we write
FIXED_INPUTS = {"Resize": (1, 2), "Dropout": (1, 2)}  # of these operators, float32 whatever the data are


@dataclass(frozen=True, kw_only=True)
class Lower(Pass):
    """The graph of D in float32 -> the same in fp16 or bf16, by the rule above.

    keep: patterns of layers that stay float32, such as "network.outer" or "network.*.attention"; a pattern covers
          what lies inside the modules it names
    values: of weights that are apart from the graph
    """

    precision: str
    keep: tuple[str, ...] = ()
    values: Values | None = None

    def requires(self, model: onnx.ModelProto) -> None:
        """Raise InputError for a pattern that names nothing, BackendError for a graph with control flow."""
        nodes = model.graph.node
        if any(a.HasField("g") for node in nodes for a in node.attribute) or model.functions:
            raise BackendError("precision: only a graph without loops and branches is converted; export the denoiser")
        for pattern in self.keep:
            if not any(_matches(layer(node), [pattern]) for node in nodes):
                known = ", ".join(sorted({layer(node) for node in nodes if node.op_type in MATRIX})[:8])
                raise InputError(f"keep_fp32: no layer is called {pattern!r}; there are {known} ...")

    def call(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        typed, types = inferred(model)
        kept = {layer(node) for node in typed.graph.node if _matches(layer(node), self.keep)}
        result = _Lowering(typed, types, LOW[self.precision], kept, self.values).result()
        if self.precision == "bf16":
            for opset in result.opset_import:
                opset.version = max(opset.version, BF16_OPSET) if opset.domain in ("", "ai.onnx") else opset.version
        return result, True

    def ensures(self, model: onnx.ModelProto) -> None:
        check_types(model, self.precision)


class _Lowering:
    """One walk through the graph in its topological order."""

    def __init__(
        self, model: onnx.ModelProto, types: dict[str, int], low: int, keep: Collection[str], values: Values | None
    ) -> None:
        self.source, self.types, self.low_type, self.keep, self.values = model, types, low, keep, values
        self.constants = {t.name: t for t in model.graph.initializer}
        self.low: set[str] = set()  # values that now have the low type
        self.from_x = from_x(model.graph)
        self.nodes: list[onnx.NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.converted: list[onnx.TensorProto] = []

    def result(self) -> onnx.ModelProto:
        for node in self.source.graph.node:
            self._emit(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.source)
        graph = model.graph
        del graph.node[:], graph.value_info[:], graph.initializer[:]
        # A graph output cannot change its type.
        for port in graph.output:
            if port.name in self.low:
                raise BackendError(f"precision: {port.name} comes straight out of a matrix product; keep it float32")
        graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        graph.initializer.extend(t for t in [*self.source.graph.initializer, *self.converted] if t.name in used)
        return model

    def _floats(self, node: onnx.NodeProto) -> list[int]:
        """Places of the inputs that are float32 in the source and may change."""
        fixed = FIXED_INPUTS.get(node.op_type, ())
        return [
            i for i, name in enumerate(node.input) if self.types.get(name) == TensorProto.FLOAT and i not in fixed
        ]  # fmt: skip

    def _wants_low(self, node: onnx.NodeProto) -> bool:
        places, moving = self._floats(node), any(name in self.from_x for name in node.input)
        if layer(node) in self.keep or node.op_type in FLOAT32 or not places or not moving:
            return False
        if node.op_type in MATRIX:
            return True
        read = [node.input[i] for i in places if node.input[i] not in self.constants]
        return bool(read) and all(name in self.low for name in read)

    def _emit(self, node: onnx.NodeProto) -> None:
        low, copy = self._wants_low(node), onnx.NodeProto()
        copy.CopyFrom(node)
        for i in self._floats(node):
            name = node.input[i]
            if low and name not in self.low:
                copy.input[i] = self._as(name, self.low_type)
            elif not low and name in self.low and node.op_type not in ("Cast", "Shape", "Size"):
                copy.input[i] = self._as(name, TensorProto.FLOAT)
        self.nodes.append(copy)
        if low:
            self.low.update(name for name in node.output if self.types.get(name) == TensorProto.FLOAT)

    def _as(self, name: str, type_: int) -> str:
        """The value in another type: a converted constant, or a cast that all its readers share."""
        made = self.casts.get((name, type_))
        if made is None:
            made = self.casts[name, type_] = f"{name}:{TensorProto.DataType.Name(type_).lower()}"
            if name in self.constants:
                self.converted.append(_convert(self.constants[name], made, type_, self.values))
            else:
                self.nodes.append(cast(name, made, type_))
        return made


def _convert(tensor: onnx.TensorProto, name: str, type_: int, values: Values | None) -> onnx.TensorProto:
    if values is not None and is_apart(tensor):
        return values.cast(tensor, name, type_)
    dtype = helper.tensor_dtype_to_np_dtype(type_)
    with np.errstate(over="ignore"):  # a weight beyond the range becomes infinite, which the comparison finds
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), name)


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)
