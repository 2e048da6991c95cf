"""model.onnx -> model.plan and model.plan.json: built, read back, compared, timed, and only then put in place."""

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ncdeploy.auto.latency import measure_latency
from ncdeploy.backends.tensorrt import adapter, cudart
from ncdeploy.backends.tensorrt.layers import check_layers
from ncdeploy.backends.tensorrt.preflight import check_machine, this_machine
from ncdeploy.build.cache import engine_file, engine_key, timing_file
from ncdeploy.errors import DependencyError, FileError, InputError, ParityError
from ncdeploy.files import atomic_write, check_writable
from ncdeploy.formats.describe import check_graph, describe
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.formats.profiles import Profile
from ncdeploy.formats.sidecar import (
    BuildOptions,
    Sidecar,
    digest,
    graph_digest,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from ncdeploy.modelinfo import ModelInfo

if TYPE_CHECKING:
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

Plan = tuple[bytes, bytes]  # and what was learnt of kernels


@dataclass(frozen=True, kw_only=True)
class Built:
    """What was written. reused: an engine of the same inputs was there already."""

    path: Path
    sidecar: Sidecar
    reused: bool


def build_engine(
    onnx: str | os.PathLike[str],
    path: str | os.PathLike[str],
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    command: str,
    device: int = 0,
    verify: bool = True,
    reuse: bool = True,
    on_stage: Callable[[str], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Built:
    """Build the engine of an exported graph for this machine.

    command:     what the user may type to build it again, kept for messages
    verify:      compare with the graph on ONNX Runtime's CPU, within what the precision allows
    reuse:       take an engine of exactly the same inputs from the cache, see `cache.engine_key`; one that was never
                 compared counts only without `verify`. A cache folder that cannot be written is no error
    on_progress: called with (phase, step, steps) while TensorRT works, from its threads

    Ctrl-C ends the build at TensorRT's next step, and nothing is written.

    Raises InputError for a graph with conditions, DependencyError without TensorRT, BackendError without a GPU, or if
    TensorRT refuses the graph or did not keep its precision, ParityError if the engine computes something else,
    FileError for files.
    """
    stage = on_stage or (lambda text: None)
    machine = this_machine(device)
    check_machine(machine, f"ncdeploy sample --engine {onnx}")
    graph = Path(onnx).expanduser()
    file = read_onnx(onnx)
    info = describe(onnx, file)
    check_graph(onnx, file, info)
    if info.conditions:
        names = ", ".join(condition.name for condition in info.conditions)
        raise InputError(f"{onnx}: takes conditions ({names}), which TensorRT engines do not yet; run the ONNX file")
    options = replace(options, tf32=info.precision == "tf32")
    target = check_writable(path)
    onnx_sha256 = graph_digest(graph)
    kept = engine_file(engine_key(onnx_sha256, profiles, info.precision, options, machine))
    if reuse and _usable(kept, verify):
        return Built(path=target, sidecar=_place(kept, target, command), reused=True)

    cudart.set_device(device)
    stage("building the engine")
    timings = timing_file(machine)
    known = timings.read_bytes() if timings.is_file() else b""
    progress = on_progress or (lambda phase, step, steps: None)
    plan, learnt = _cancellable(lambda c: adapter.build(graph, profiles, options, known, progress, c), device)
    with contextlib.suppress(OSError, FileError):
        timings.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(timings) as temporary:
            temporary.write_bytes(learnt)

    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / graph.with_suffix(".plan").name
        trial.write_bytes(plan)
        if options.stripped:
            shutil.copy(graph, folder)
        stage("reading its layers back")
        layers, memory = _read_back(plan, graph, info, profiles, options)
        sidecar = Sidecar(
            tensorrt=str(machine.tensorrt),
            compute_capability=machine.compute_capability or (0, 0),
            device=machine.device,
            driver=machine.driver,
            platform=machine.platform,
            plan_sha256=digest(trial),
            plan_bytes=len(plan),
            onnx=graph.name,
            onnx_sha256=onnx_sha256,
            model=info,
            profiles=tuple(profiles),
            options=options,
            layers=layers,
            device_memory=memory,
            command=command,
        )
        write_sidecar(trial, sidecar)
        sidecar = _try(trial, graph, sidecar, device, verify, stage)
        write_sidecar(trial, sidecar)
        with contextlib.suppress(OSError, FileError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            _place(trial, kept, command)
        return Built(path=target, sidecar=_place(trial, target, command), reused=False)


def _cancellable(build: Callable[[Callable[[], bool]], Plan], device: int) -> Plan:
    """build(cancelled) in a thread of its own, since Python sees no Ctrl-C while TensorRT has the main one.

    KeyboardInterrupt goes on when TensorRT has stopped, which it is asked to.
    """
    stop, ended = threading.Event(), threading.Event()
    results: list[Plan] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            cudart.set_device(device)
            results.append(build(stop.is_set))
        except BaseException as e:  # raised again below
            failures.append(e)
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="TensorRT build")
    try:
        thread.start()
        while not ended.wait(0.2):  # not for ever: Ctrl-C may reach another thread, and is then seen between two waits
            pass
    except KeyboardInterrupt:
        stop.set()
        thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]


def low_products(graph: Path, precision: str) -> list[str]:
    """Names of the graph's convolutions and matrix products of its own precision.

    Raises DependencyError without onnx, which only graphs of half precision need here.
    """
    if precision not in ("fp16", "bf16"):
        return []
    try:
        import onnx
    except ImportError as e:
        raise DependencyError("to check an engine's precision: pip install onnx") from e
    model = onnx.load(graph)
    low = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*typed.value_info, *typed.output]}
    operators = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")
    return [node.name for node in typed.node if node.op_type in operators and types.get(node.output[0]) == low]


def row_shapes(info: ModelInfo) -> dict[str, tuple[int, ...]]:
    """The inputs of a graph and the shape of one row of each."""
    return {port.name: info.shape if port.name == "x" else () for port in info.inputs}


def _read_back(
    plan: bytes, graph: Path, info: ModelInfo, profiles: Sequence[Profile], options: BuildOptions
) -> tuple[dict[str, int], int]:
    """Matrix products by type, and bytes of one context. Raises BackendError unless the precision is there."""
    weights = graph if options.stripped else None
    engine = adapter.Engine(plan, host_code=options.version_compatible, weights=weights)
    stream = cudart.new_stream()
    try:
        context = engine.context()
        at = len(profiles) - 1
        context.use_profile(at, stream)
        context.shape(profiles[at].best, row_shapes(info))
        inspected = engine.inspect(context)
        cudart.synchronize(stream)
        context.close()
        return check_layers(inspected, info.precision, low_products(graph, info.precision)), engine.memory
    finally:
        engine.close()
        cudart.destroy_stream(stream)


def _try(
    trial: Path, graph: Path, sidecar: Sidecar, device: int, verify: bool, stage: Callable[[str], None]
) -> Sidecar:
    """Compare with the graph and time calls; the sidecar with both added. Raises ParityError."""
    from ncdeploy.backends.tensorrt.backend import TensorRTBackend
    from ncdeploy.parity import compare

    engine = TensorRTBackend(trial, device=f"cuda:{device}")
    try:
        if verify:
            stage("comparing with the graph")
            report = compare(_reference(graph, trial.parent, sidecar.model), engine)
            if not report.ok:
                raise ParityError(f"{graph.name}: no engine was written, it disagrees with the graph: {report.summary}")
            sidecar = replace(sidecar, parity=report.to_dict())
        stage("timing calls")
        info = sidecar.model
        label = info.labels[0] if info.num_classes else None
        curve = measure_latency(engine, shape=info.shape, max_rows=engine.max_rows, label=label, like=engine.like)
        return replace(sidecar, latency=tuple(zip(curve.rows, curve.seconds, strict=True)))
    finally:
        engine.close()


def _reference(graph: Path, folder: Path, info: ModelInfo) -> "OnnxRuntimeBackend":
    """The graph on ONNX Runtime's CPU, which has no bfloat16 kernels: there its rounding is emulated.

    Raises DependencyError where that needs a package that is missing.
    """
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

    if info.precision != "bf16":
        return OnnxRuntimeBackend(graph)
    from ncdeploy.export.precision import emulate  # first: without PyTorch it says what to install
    import onnx  # isort: skip

    emulated = folder / "emulated.onnx"
    onnx.save(emulate(onnx.load(graph)), emulated)
    return OnnxRuntimeBackend(emulated)


def _place(source: Path, target: Path, command: str) -> Sidecar:
    """Copy a plan and its record; the record says how to build this one."""
    sidecar = replace(read_sidecar(source), command=command)
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
    write_sidecar(target, sidecar)
    return sidecar


def _usable(plan: Path, verify: bool) -> bool:
    """Whether a kept engine is there, with its record, unharmed, and compared if that is wanted."""
    try:
        if not plan.is_file() or not sidecar_path(plan).is_file():
            return False
        record = read_sidecar(plan)
        return digest(plan) == record.plan_sha256 and (record.parity is not None or not verify)
    except FileError:
        return False
