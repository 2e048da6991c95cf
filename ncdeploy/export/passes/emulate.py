"""Half precision on runtimes that have no kernels for it, as tensor cores compute it."""

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ncdeploy.errors import BackendError
from ncdeploy.export.passes import Pass
from ncdeploy.export.passes.types import LOW, cast, inferred


@dataclass(frozen=True)
class Emulate(Pass):
    """The same numbers from float32 operators alone: each result in half precision is computed in float32 from its
    rounded inputs, then rounded."""

    def call(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        low = {name: type_ for name, type_ in inferred(model)[1].items() if type_ in LOW.values()}
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
                    result.graph.node.append(cast(name, wide.input[i], TensorProto.FLOAT))
            rounded = [(i, name) for i, name in enumerate(node.output) if name in low]
            for i, name in rounded:
                wide.output[i] = f"{name}:wide"
            result.graph.node.append(wide)
            result.graph.node.extend(cast(wide.output[i], name, low[name]) for i, name in rounded)
        return result, bool(low)

    def ensures(self, model: onnx.ModelProto) -> None:
        types = inferred(model)[1]
        for node in model.graph.node:
            if node.op_type != "Cast" and any(types.get(name) in LOW.values() for name in [*node.input, *node.output]):
                raise BackendError(f"{node.name} of the emulated graph is still in half precision")
