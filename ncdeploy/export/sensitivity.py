"""Which layers a graph in half precision must keep in float32 to agree with its model.

Each layer alone is put into half precision and its effect on D measured; then the layers are kept, the worst first,
1, 2, 4, ... of them, until the comparison passes. So what is named has been tried.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ncdeploy.export.passes.emulate import Emulate
from ncdeploy.export.passes.lower import Lower
from ncdeploy.export.passes.types import layers as layers_of
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity import LEVELS, Pool


def layers_to_keep(
    graph: onnx.ModelProto,
    info: ModelInfo,
    precision: str,
    keep: Sequence[str],
    agrees: Callable[[onnx.ModelProto], bool],
    *,
    threads: int | None = None,
    on_stage: Callable[[str], None],
) -> tuple[str, ...]:
    """The layers to keep beside `keep`, () if even all of them do not help.

    graph:  the float32 graph
    agrees: whether a graph in half precision passes the comparison
    """

    def lowered(*kept: str) -> onnx.ModelProto:
        return Lower(precision=precision, keep=(*keep, *kept))(graph)[0]

    layers, _ = layers_of(lowered())
    pool = Pool(info, np.geomspace(info.sigma_min, info.sigma_max, LEVELS), np.random.default_rng(0))
    wanted = _run(graph, pool, info, threads)
    effects = []
    for count, name in enumerate(layers, 1):
        on_stage(f"looking for the layers to keep in float32, {count} of {len(layers)}")
        others = [other for other in layers if other != name]
        alone, _ = Emulate()(lowered(*others))
        with np.errstate(invalid="ignore"):
            difference = np.abs(_run(alone, pool, info, threads) - wanted)
        effects.append(float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()))
    worst = [layers[i] for i in np.argsort(effects)[::-1]]
    count = 1
    while count < len(worst):
        if agrees(lowered(*worst[:count])):
            return tuple(sorted(worst[:count]))
        count *= 2
    return ()


def _run(graph: onnx.ModelProto, pool: Pool, info: ModelInfo, threads: int | None) -> NDArray[np.float64]:
    """D of the pool in one batch, float64 [rows, *shape]."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {"x": pool.x, "sigma": pool.sigma}
    given = dict(pool.given)
    feeds |= given.pop("conditions", {}) | given
    return np.asarray(session.run(["denoised"], feeds)[0], np.float64)
