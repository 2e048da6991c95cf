"""Which types an engine really computes in, from the JSON of TensorRT's inspector.

The known records of TensorRT 8 to 10 differ: `"Format/Datatype": "Row major linear FP16 format"`, later "Half", also
`"Datatype": "BFloat16"`; with a dynamic batch and no execution context "N/A due to dynamic shapes". A fused layer names
the operators of the graph it came from in Metadata, "[ONNX Layer: network.inner/conv2d]".
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from ncdeploy.errors import BackendError

NAMES = {"bf16": r"bf(loat)?16", "fp16": r"half|(?<!b)fp16|(?<!b)float16", "fp32": r"fp32|float32|\bfloat\b"}
MATRIX = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected|\bfc\b", re.IGNORECASE)
SHARE = 0.5  # fused kernels may hide their casts inside, so not every layer needs to show the type


def layer_types(layer: Mapping[str, Any]) -> set[str]:
    """The floating types among the inputs and outputs of a layer, of "fp32", "fp16", "bf16"."""
    tensors = [t for side in ("Inputs", "Outputs") for t in layer.get(side, ()) if isinstance(t, Mapping)]
    texts = [str(t.get("Format/Datatype", t.get("Datatype", ""))) for t in tensors]
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
    try:
        layers = [entry for entry in json.loads(inspected)["Layers"] if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError) as e:
        raise BackendError(f"the engine's layers cannot be read back: {e}") from e
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
