"""Writing ONNX graphs like array code, and putting one graph into another. Needs onnx."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ncdeploy.errors import BackendError

Value = str | Any  # the name of a value, or an array that becomes a constant

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


class Builder:
    """Nodes and constants of one graph. A call adds a node: `total = g("Add", "x", np.float32(1))`.

    prefix: of the names it makes, which must differ between a graph and the loop bodies inside it
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, operator: str, *inputs: Value, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        name = out or f"{self.prefix}{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.name(i) for i in inputs], [name], name=name, **attributes))
        return name

    def split(self, value: Value, sizes: Sequence[int], axis: int) -> list[str]:
        """Parts of a value along an axis."""
        name = f"{self.prefix}Split_{len(self.nodes)}"
        outputs = [f"{name}_{i}" for i in range(len(sizes))]
        inputs = [self.name(value), self.name(np.array(sizes, np.int64))]
        self.nodes.append(helper.make_node("Split", inputs, outputs, name=name, axis=axis))
        return outputs

    def cut(self, value: Value, start: int, stop: int, axis: int) -> str:
        """value[start:stop] along an axis."""
        return self("Slice", value, *(np.array([i], np.int64) for i in (start, stop, axis)))

    def shape(self, value: Value, *sizes: int) -> str:
        """value reshaped; -1 is what remains."""
        return self("Reshape", value, np.array(sizes, np.int64))

    def name(self, value: Value) -> str:
        """A value's name, which for an array is that of an initializer made once."""
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.constant(f"{self.prefix}constant_{len(self._constants)}", array)
        return self._constants[key]

    def constant(self, name: str, array: Any) -> str:
        """An initializer of this name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name))
        return name

    def graph(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """The finished graph."""
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.initializers)


def port(name: str, dtype: str, *shape: int | str) -> ValueInfoProto:
    """An input or output: sizes for fixed axes, names for dynamic ones."""
    return helper.make_tensor_value_info(name, TYPES[dtype], list(shape))


class Embedded:
    """A denoiser graph to be called inside others.

    graph: with inputs x, sigma and what else it takes, and one output

    Raises BackendError for a network with control flow in it, whose inner names could clash.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self._rest = list(graph.node)
        self._ahead: dict[str, str] = {}
        self._weights = {tensor.name for tensor in graph.initializer}
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for n in graph.node for a in n.attribute):
            raise BackendError("the network has control flow (If or Loop) in it; only the denoiser graph can hold that")

    def ahead(self, g: Builder, inputs: Collection[str]) -> None:
        """Add the nodes that depend on these inputs alone, whose values here bear the same names: later calls, also in
        loop bodies inside this graph, use what they compute."""
        known, first, rest = {*inputs}, list[NodeProto](), list[NodeProto]()
        for node in self._rest:
            used = {name for name in node.input if name and name not in self._weights}
            (first if used and used <= known else rest).append(node)
            known |= {*node.output} if used and used <= known else set()
        self._rest, self._ahead = rest, self._add(g, first, {name: name for name in inputs}, "denoiser_ahead/")

    def call(self, g: Builder, inputs: Mapping[str, str]) -> str:
        """Add the network's nodes, applied to the values of its inputs by name; its weights are added once."""
        given = {value.name: inputs[value.name] for value in self.graph.input}
        names = self._add(g, self._rest, self._ahead | given, f"{g.prefix}denoiser_{len(g.nodes)}/")
        return names[self.graph.output[0].name]

    def _add(self, g: Builder, nodes: Sequence[NodeProto], names: dict[str, str], prefix: str) -> dict[str, str]:
        """Add copies of these nodes; returns the values' names, known before and new."""
        used = {name for node in nodes for name in node.input if name in self._weights}
        weights = {name: f"{g.prefix}denoiser/{name}" for name in used}
        present = {tensor.name for tensor in g.initializers}
        for tensor in self.graph.initializer:
            if tensor.name in used and weights[tensor.name] not in present:
                copy = TensorProto()
                copy.CopyFrom(tensor)
                copy.name = weights[tensor.name]
                g.initializers.append(copy)
        names = {"": "", **names, **weights}
        for node in nodes:
            copy = NodeProto()
            copy.CopyFrom(node)
            names |= {name: prefix + name for name in node.output if name}
            copy.name = prefix + (node.name or node.output[0])
            copy.input[:] = [names[name] for name in node.input]
            copy.output[:] = [names[name] for name in node.output]
            g.nodes.append(copy)
        return names
