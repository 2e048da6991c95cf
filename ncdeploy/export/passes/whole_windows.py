"""The sampler graph as TensorRT's loops allow it: all shapes known before the loop runs.

In ONNX Runtime a sweep evaluates the rows that need it, whose number is known when it runs (NonZero). Here it evaluates
whole windows, and keeps what is new only where it was needed: the same samples and sweeps from more rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ncdeploy.errors import BackendError
from ncdeploy.export.passes import Pass

ROWS, OUTPUTS = "body/due_rows", "body/due_outputs"  # as `export.window_step` names them


@dataclass(frozen=True)
class WholeWindows(Pass):
    """The graph in this form."""

    def requires(self, model: onnx.ModelProto) -> None:
        """Raise BackendError for a graph of an earlier version."""
        nodes = {node.name: node.op_type for body in _bodies(model) for node in body.node}
        if nodes.get(ROWS) != "NonZero" or OUTPUTS not in nodes:
            raise BackendError("its loop is that of an earlier version; export it again")

    def call(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        result = onnx.ModelProto()
        result.CopyFrom(model)
        bodies = _bodies(result)
        named = {node.name: node for body in bodies for node in body.node}
        rows, outputs = named[ROWS], named[OUTPUTS]
        due, a = rows.input[0], f"{ROWS}/"
        constants = {"zero": 0, "one": 1, "rest": [-1], "first": [0], "second": [1]}
        initializers = [numpy_helper.from_array(np.array(v, np.int64), a + k) for k, v in constants.items()]

        def node(operator: str, *inputs: str, out: str, **attributes: Any) -> onnx.NodeProto:
            return helper.make_node(operator, inputs, [out], name=out, **attributes)

        every_row = [  # int64 [2, samples * places]: which sample, and which place of its window
            node("Shape", due, out=a + "shape"),
            node("Gather", a + "shape", a + "one", out=a + "places"),
            node("ReduceProd", a + "shape", out=a + "count", keepdims=0),
            node("Range", a + "zero", a + "count", a + "one", out=a + "row"),
            node("Div", a + "row", a + "places", out=a + "sample"),
            node("Mul", a + "sample", a + "places", out=a + "before"),
            node("Sub", a + "row", a + "before", out=a + "place"),
            node("Unsqueeze", a + "sample", a + "first", out=a + "samples"),
            node("Unsqueeze", a + "place", a + "first", out=a + "all_places"),
            node("Concat", a + "samples", a + "all_places", out=rows.output[0], axis=0),
        ]
        old, at, new = outputs.input
        where_due = [
            node("Reshape", due, a + "rest", out=a + "flat"),
            node("Unsqueeze", a + "flat", a + "second", out=a + "due"),
            node("GatherND", old, at, out=a + "kept"),
            node("Where", a + "due", new, a + "kept", out=a + "outputs"),
        ]
        outputs.input[2] = a + "outputs"
        for body in bodies:
            changed: list[onnx.NodeProto] = []
            for each in body.node:
                changed += every_row if each.name == ROWS else [*where_due, each] if each.name == OUTPUTS else [each]
            del body.node[:]
            body.node.extend(changed)
            body.initializer.extend(initializers)
        return result, True

    def ensures(self, model: onnx.ModelProto) -> None:
        onnx.checker.check_model(model)


def _bodies(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Of its loops."""
    return [a.g for node in model.graph.node if node.op_type == "Loop" for a in node.attribute if a.name == "body"]
