"""Which types an engine really computes in, from the JSON of TensorRT's inspector.

The known records differ. TensorRT 8 to 10 have `"Format/Datatype": "Row major linear FP16 format"`, for fused layers
"Half"; with a dynamic batch and no execution context "N/A due to dynamic shapes". TensorRT 11 says it in two fields,
`"Format": ..., "Datatype": "Half"`, written "DataType" where it lists the engine's inputs and outputs. A fused layer
names the operators of the graph it came from in Metadata, "[ONNX Layer: network.inner/conv2d]".
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ncdeploy.errors import BackendError

NAMES = {"bf16": r"bf(loat)?16", "fp16": r"half|(?<!b)fp16|(?<!b)float16", "fp32": r"fp32|float32|\bfloat\b"}
MATRIX = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected|\bfc\b", re.IGNORECASE)
SHARE = 0.5  # fused kernels may hide their casts inside, so not every layer needs to show the type


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of an engine. types: of its floating inputs and outputs; origins: the operators of the graph it computes;
    milliseconds: of one call, None if TensorRT did not say."""

    name: str
    kind: str
    types: tuple[str, ...]
    origins: tuple[str, ...]
    milliseconds: float | None


def layer_types(layer: Mapping[str, Any]) -> set[str]:
    """The floating types among the inputs and outputs of a layer, of "fp32", "fp16", "bf16"."""
    tensors = [t for side in ("Inputs", "Outputs") for t in layer.get(side, ()) if isinstance(t, Mapping)]
    texts = [str(value) for t in tensors for key, value in t.items() if key.lower().endswith("datatype")]
    return {name for text in texts for name, pattern in NAMES.items() if re.search(pattern, text, re.IGNORECASE)}


def origins(layer: Mapping[str, Any]) -> list[str]:
    """The operators of the graph that a layer computes."""
    return re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))


def check_layers(inspected: str, precision: str, products: Collection[str]) -> dict[str, int]:
    """How many layers with convolutions and matrix products there are of each type, e.g. {"fp16": 30, "fp32": 2}.

    inspected: JSON of the inspector, built with detailed verbosity
    products:  names of the graph's operators that are of the precision asked for

    Raises BackendError if the types cannot be read, or the precision asked for is not there.
    """
    layers = _entries(inspected)
    wanted = set(products)
    matched = [entry for entry in layers if wanted & set(origins(entry))]
    matched = matched or [entry for entry in layers if MATRIX.search(f"{entry.get('LayerType')} {entry.get('Name')}")]
    found: Counter[str] = Counter()
    for entry in matched:
        types = layer_types(entry)
        found[min(types & {"fp16", "bf16"} or types or {"unknown"})] += 1
    known = sum(count for name, count in found.items() if name != "unknown")
    if not known:
        raise BackendError("the engine does not say in which types its layers compute, so its precision is not certain")
    low = precision if precision in ("fp16", "bf16") else "fp32"
    others = sorted(set(found) - {low, "fp32", "unknown"})
    if found[low] < SHARE * known or others:
        raise BackendError(
            f"the engine is not {precision}: of {known} layers with convolutions and matrix products "
            + ", ".join(f"{count} compute in {name}" for name, count in sorted(found.items()))
        )
    return dict(sorted(found.items()))


def check_parsed(layers: Collection[tuple[str, str]], precision: str, products: Collection[str]) -> dict[str, int]:
    """The same before the engine is built: how many there are of each type in what the compiler read of a graph.

    layers:   (operator, type) of each convolution and matrix product that it read
    products: names of the graph's operators that are of the precision asked for, all of which must be there

    Raises BackendError naming the first that is of another type than in the graph.
    """
    low = precision if precision in ("fp16", "bf16") else "fp32"
    for name, found in layers:
        expected = low if name in products else "fp32"
        if found != expected:
            raise BackendError(f"the compiler took {name} as {found}, in the graph it is {expected}; nothing was built")
    lost = sorted(set(products) - {name for name, _ in layers})
    if lost:
        raise BackendError(f"the compiler shows no layer for {lost[0]}, which is {low} in the graph; nothing was built")
    if low != "fp32" and not products:
        raise BackendError(f"the graph is not {precision}: none of its convolutions and matrix products computes in it")
    return dict(sorted(Counter(found for _, found in layers).items()))


def list_layers(inspected: str, milliseconds: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers in the order of the engine; milliseconds: of one call, by name.

    Raises BackendError if the inspector's JSON cannot be read.
    """
    return tuple(
        Layer(
            name=str(entry.get("Name", "")),
            kind=str(entry.get("LayerType", "")),
            types=tuple(sorted(layer_types(entry))),
            origins=tuple(origins(entry)),
            milliseconds=milliseconds.get(str(entry.get("Name", ""))),
        )
        for entry in _entries(inspected)
    )


def _entries(inspected: str) -> list[dict[str, Any]]:
    try:
        return [entry for entry in json.loads(inspected)["Layers"] if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError) as e:
        raise BackendError(f"the engine's layers cannot be read back: {e}") from e
