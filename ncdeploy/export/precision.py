"""The types inside an exported graph: convolutions and matrix products in half precision, the rest where it must be.

The rule is that of automatic mixed precision, applied to the graph once, so that every runtime gets the same types:

- inputs and output stay float32, and so does whatever depends on the noise level and the labels alone (the noise
  embedding, the coefficients of the preconditioning);
- a convolution or matrix product of what depends on x is computed in half precision;
- normalisations, softmax, sums and transcendental functions are computed in float32;
- any other operator is computed in half precision if all it reads is in half precision, otherwise in float32. So the
  preconditioning is float32: it reads x, or a coefficient.

Operators are named after the module they come from, "network.middle.conv1/conv2d_9", and a pattern keeps them float32.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ncdeploy.errors import BackendError, InputError
from ncdeploy.modelinfo import PRECISIONS

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BF16_OPSET = 22  # the first in which a convolution may be bfloat16; 21 and 22 change no operator that we write
MATRIX = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
FLOAT32 = frozenset([
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization",
    "RMSNormalization", "Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceProd",
    "ReduceLogSumExp", "CumSum", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Erf", "Range", "Cast",
    "CastLike",
])  # fmt: skip
FIXED_INPUTS = {"Resize": (1, 2), "Dropout": (1, 2)}  # of these operators, float32 whatever the data are


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A graph in half precision. low and kept: layers whose matrix products are computed in half precision and,
    because a pattern asked for it, in float32."""

    model: onnx.ModelProto
    low: tuple[str, ...]
    kept: tuple[str, ...]


def check_precision(precision: str) -> None:
    """Raise InputError for a precision that does not exist."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")


def lower(model: onnx.ModelProto, precision: str, keep: Sequence[str] = ()) -> Lowered:
    """The graph of D in float32 -> the same in fp16 or bf16, by the rule above; the argument is left as it is.

    keep: patterns of layers that stay float32, such as "network.outer" or "network.*.attention"; a pattern covers
          what lies inside the modules it names

    Raises InputError for a pattern that names nothing, BackendError for a graph with control flow.
    """
    if any(a.HasField("g") for node in model.graph.node for a in node.attribute) or model.functions:
        raise BackendError("precision: only a graph without loops and branches can be converted; export the denoiser")
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = _types(typed)
    graph = typed.graph
    names = {layer(node) for node in graph.node}
    for pattern in keep:
        if not any(_matches(name, [pattern]) for name in names):
            known = ", ".join(sorted({layer(n) for n in graph.node if n.op_type in MATRIX})[:8])
            raise InputError(f"keep_fp32: no layer is called {pattern!r}; there are {known} ...")
    pass_ = _Lowering(typed, types, LOW[precision], [name for name in names if _matches(name, keep)])
    low, kept = pass_.run()
    result = pass_.result()
    if precision == "bf16":
        for opset in result.opset_import:
            opset.version = max(opset.version, BF16_OPSET) if opset.domain in ("", "ai.onnx") else opset.version
    check_types(result, precision)
    return Lowered(model=result, low=low, kept=kept)


def layer(node: onnx.NodeProto) -> str:
    """The module an operator comes from, or its own name where it comes from none."""
    return str(node.name).rpartition("/")[0] or str(node.name)


def check_types(model: onnx.ModelProto, precision: str) -> Counter[str]:
    """Read the types back: how many matrix products there are of each, e.g. {"FLOAT16": 30, "FLOAT": 9}.

    Raises BackendError unless inputs and outputs are float32 or integers, norms and softmax are float32, and at least
    one matrix product has the type asked for while none has another low one.
    """
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph, types = inferred.graph, _types(inferred)
    wrong = [p.name for p in [*graph.input, *graph.output] if types[p.name] in LOW.values()]
    found: Counter[str] = Counter()
    for node in graph.node:
        inside = {TensorProto.DataType.Name(types[v]) for v in [*node.input, *node.output] if v in types}
        if node.op_type in MATRIX:
            found.update([" and ".join(sorted(inside))])
        elif node.op_type in FLOAT32 - {"Cast", "CastLike"} and inside & {"FLOAT16", "BFLOAT16"}:
            wrong.append(node.name)
    allowed = {"FLOAT", *([TensorProto.DataType.Name(LOW[precision])] if precision in LOW else [])}
    if wrong or set(found) - allowed or (precision in LOW and len(found) and not set(found) - {"FLOAT"}):
        raise BackendError(f"the graph is not {precision}: matrix products {dict(found)}, of low precision: {wrong}")
    return found


def emulate(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same numbers from float32 operators alone: each result in half precision is computed in float32 from its
    rounded inputs, then rounded. This is what tensor cores do, for runtimes without such kernels."""
    types = _types(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    low = {name: type_ for name, type_ in types.items() if type_ in LOW.values()}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.value_info[:]
    for node in model.graph.node:
        if node.op_type == "Cast" or not any(name in low for name in [*node.input, *node.output]):
            result.graph.node.append(node)
            continue
        wide = onnx.NodeProto()
        wide.CopyFrom(node)
        for i, name in enumerate(node.input):
            if name in low:
                wide.input[i] = f"{node.name}:{i}"
                result.graph.node.append(_cast(name, wide.input[i], TensorProto.FLOAT))
        rounded = [(i, name) for i, name in enumerate(node.output) if name in low]
        for i, name in rounded:
            wide.output[i] = f"{name}:wide"
        result.graph.node.append(wide)
        result.graph.node.extend(_cast(wide.output[i], name, low[name]) for i, name in rounded)
    return result


class _Lowering:
    """One walk through the graph in its topological order."""

    def __init__(self, model: onnx.ModelProto, types: dict[str, int], low: int, keep: Collection[str]) -> None:
        self.source, self.types, self.low_type, self.keep = model, types, low, set(keep)
        self.constants = {t.name: t for t in model.graph.initializer}
        self.low: set[str] = set()  # values that now have the low type
        self.from_x = {"x"}
        self.nodes: list[onnx.NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.converted: list[onnx.TensorProto] = []

    def run(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        lowered: dict[str, None] = {}
        kept: dict[str, None] = {}
        for node in self.source.graph.node:
            moving = any(name in self.from_x for name in node.input)
            if moving:
                self.from_x.update(node.output)
            to_low = self._wants_low(node, moving)
            if node.op_type in MATRIX and moving and self._floats(node):
                (lowered if to_low else kept)[layer(node)] = None
            self._emit(node, low=to_low)
        return tuple(lowered), tuple(kept)

    def result(self) -> onnx.ModelProto:
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

    def _wants_low(self, node: onnx.NodeProto, moving: bool) -> bool:
        places = self._floats(node)
        if layer(node) in self.keep or node.op_type in FLOAT32 or not places or not moving:
            return False
        if node.op_type in MATRIX:
            return True
        read = [node.input[i] for i in places if node.input[i] not in self.constants]
        return bool(read) and all(name in self.low for name in read)

    def _emit(self, node: onnx.NodeProto, *, low: bool) -> None:
        copy = onnx.NodeProto()
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
                self.converted.append(_convert(self.constants[name], made, type_))
            else:
                self.nodes.append(_cast(name, made, type_))
        return made


def _convert(tensor: onnx.TensorProto, name: str, type_: int) -> onnx.TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(type_)
    with np.errstate(over="ignore"):  # a weight beyond the range becomes infinite, which the comparison finds
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), name)


def _cast(source: str, target: str, type_: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=type_)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value of an inferred model."""
    graph = model.graph
    types = {t.name: t.data_type for t in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    return types


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)
