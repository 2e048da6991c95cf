"""An engine on the GPU that it was built for: its types read back, compared with its graph, and timed."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ncdeploy.auto.latency import measure_latency, one_sample
from ncdeploy.backends.tensorrt import adapter, cudart
from ncdeploy.backends.tensorrt.layers import check_layers
from ncdeploy.errors import ParityError
from ncdeploy.formats.sidecar import Sidecar
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import sizes

if TYPE_CHECKING:
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend


def read_back(plan: bytes, graph: Path, sidecar: Sidecar, products: Sequence[str]) -> tuple[dict[str, int], int]:
    """Matrix products by type, and bytes of one context. Raises BackendError unless the precision is there."""
    options, info, profiles = sidecar.options, sidecar.model, sidecar.profiles
    weights = graph if options.stripped else None
    engine = adapter.Engine(plan, runtime=sidecar.runtime, host_code=options.version_compatible, weights=weights)
    stream = cudart.new_stream()
    try:
        context = engine.context()
        at = len(profiles) - 1
        context.use_profile(at, stream)
        context.shape(sizes(info.inputs, batch=profiles[at].best, samples=1))
        inspected = engine.inspect(context)
        cudart.synchronize(stream)
        context.close()
        return check_layers(inspected, info.precision, products), engine.memory
    finally:
        engine.close()
        cudart.destroy_stream(stream)


def try_engine(
    trial: Path, graph: Path, sidecar: Sidecar, device: int, verify: bool, stage: Callable[[str], None]
) -> Sidecar:
    """Compare with the graph, check, and time calls; the sidecar with what was found. Raises ParityError."""
    from ncdeploy.backends.tensorrt.backend import TensorRTBackend
    from ncdeploy.health.check import check_engine
    from ncdeploy.parity import compare

    engine = TensorRTBackend(trial, device=f"cuda:{device}")
    try:
        if verify:
            stage("comparing with the graph")
            report = compare(_reference(graph, trial.parent, sidecar.model), engine)
            if not report.ok:
                raise ParityError(f"{graph.name}: no engine was written, it disagrees with the graph: {report.summary}")
            sidecar = replace(sidecar, parity=report.to_dict())
            stage("checking it")
            found = check_engine(engine)
            if not found.ok:
                raise ParityError(f"{graph.name}: no engine was written, it is not sound: {'; '.join(found.faults)}")
        stage("timing calls")
        info = sidecar.model
        label = info.labels[0] if info.num_classes else None
        curve = measure_latency(engine, shape=info.shape, max_rows=engine.max_rows, label=label, like=engine.like)
        return replace(sidecar, latency=tuple(zip(curve.rows, curve.seconds, strict=True)))
    finally:
        engine.close()


def first_calls(trial: Path, sidecar: Sidecar, device: int) -> tuple[float, float]:
    """Seconds of an engine's first call: of one that compiles its kernels, and of one that finds them compiled."""
    from ncdeploy.backends.tensorrt.backend import TensorRTBackend

    info, rows = sidecar.model, sidecar.profiles[0].best
    given = [np.zeros((rows, *info.shape), np.float32), np.ones(rows, np.float32)]
    given += [np.full(rows, info.labels[0])] if info.num_classes else []
    seconds = []
    for _ in range(2):
        with contextlib.closing(TensorRTBackend(trial, device=f"cuda:{device}")) as engine:
            start = time.perf_counter()
            engine(*given, **one_sample(info, None, rows, given[0]))
            seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def _reference(graph: Path, folder: Path, info: ModelInfo) -> "OnnxRuntimeBackend":
    """The graph on ONNX Runtime's CPU, which has no bfloat16 kernels: there its rounding is emulated.

    Raises DependencyError where that needs a package that is missing.
    """
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

    if info.precision != "bf16":
        return OnnxRuntimeBackend(graph)
    from ncdeploy.export.passes.emulate import Emulate  # first: without onnx it says what to install
    import onnx  # isort: skip

    emulated = folder / "emulated.onnx"
    onnx.save(Emulate()(onnx.load(graph))[0], emulated)
    return OnnxRuntimeBackend(emulated)
