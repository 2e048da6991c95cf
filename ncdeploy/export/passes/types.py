"""The types inside a graph: of its values, of its convolutions and matrix products, and where half precision may be."""

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from ncdeploy.errors import BackendError

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
MATRIX = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
FLOAT32 = frozenset([
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization",
    "RMSNormalization", "Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceProd",
    "ReduceLogSumExp", "CumSum", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Erf", "Range", "Cast",
    "CastLike",
])  # fmt: skip


def inferred(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The model with the shapes and types of its values, and the element type of every value by name."""
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {t.name: t.data_type for t in typed.graph.initializer}
    for value in [*typed.graph.input, *typed.graph.value_info, *typed.graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    return typed, types


def from_x(graph: onnx.GraphProto) -> set[str]:
    """Names of the values that depend on x."""
    found = {"x"}
    for node in graph.node:
        if any(name in found for name in node.input):
            found.update(node.output)
    return found


def layer(node: onnx.NodeProto) -> str:
    """The module an operator comes from, or its own name where it comes from none."""
    return str(node.name).rpartition("/")[0] or str(node.name)


def layers(model: onnx.ModelProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers whose matrix products of what depends on x are in half precision, and those where they are in float32."""
    typed, types = inferred(model)
    moving = from_x(typed.graph)
    products = [n for n in typed.graph.node if n.op_type in MATRIX and any(name in moving for name in n.input)]
    low = dict.fromkeys(layer(n) for n in products if types[n.output[0]] in LOW.values())
    return tuple(low), tuple(dict.fromkeys(layer(n) for n in products if types[n.output[0]] not in LOW.values()))


def half_products(model: onnx.ModelProto, precision: str) -> list[str]:
    """Names of the convolutions and matrix products of this precision, those inside loops too."""

    def products(graph: onnx.GraphProto) -> Iterator[str]:
        types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.output]}
        for node in graph.node:
            if node.op_type in MATRIX and types.get(node.output[0]) == LOW[precision]:
                yield str(node.name)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from products(attribute.g)

    return list(products(onnx.shape_inference.infer_shapes(model).graph))


def check_types(model: onnx.ModelProto, precision: str) -> Counter[str]:
    """Read the types back: how many matrix products there are of each, e.g. {"FLOAT16": 30, "FLOAT": 9}.

    Raises BackendError unless inputs and outputs are float32 or integers, norms and softmax are float32, and at least
    one matrix product has the type asked for while none has another low one.
    """
    typed, types = inferred(model)
    graph = typed.graph
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


def cast(source: str, target: str, type_: int) -> onnx.NodeProto:
    """An operator that turns one value into another of this type."""
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=type_)
