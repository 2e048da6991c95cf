"""The only module, with `callbacks`, that speaks to TensorRT, from 10.12 up to, but without, 12.

Precision is that of the graph: networks are strongly typed, which 10.12 must be told and 11 always does. TF32 is on
unless it is switched off, so it is set either way. TensorRT answers failures with None or false and explains itself in
its log; here each becomes one BackendError with what the log said last.

Names under `api` are annotations; a test reads them to know of which class each attribute is.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncdeploy.backends.tensorrt.callbacks import new_log, new_monitor, new_profiler
from ncdeploy.errors import BackendError, DependencyError, OutOfMemoryError
from ncdeploy.formats.profiles import Profile
from ncdeploy.formats.sidecar import BuildOptions

if TYPE_CHECKING:
    import tensorrt as api  # type: ignore[import-not-found]

FULL, LEAN = "tensorrt", "tensorrt_lean"


def installed() -> tuple[str | None, str]:
    """The version of TensorRT, None if it cannot be imported; and why, "" if it simply is not there."""
    for name in (FULL, LEAN):
        try:
            return str(importlib.import_module(name).__version__), ""
        except ModuleNotFoundError as e:
            if e.name != name:
                return None, str(e)
        except Exception as e:  # a missing native library raises whatever it likes
            return None, (str(e).strip() or type(e).__name__).splitlines()[0]
    return None, ""


def module(*, lean: bool = False) -> Any:
    """TensorRT, or its lean runtime where that is enough and alone is there. Raises DependencyError without it."""
    for name in (FULL, LEAN) if lean else (FULL,):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DependencyError("TensorRT is not installed: pip install tensorrt-cu13, or tensorrt-cu12")


def build(
    onnx: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    timing: bytes,
    on_progress: Callable[[str, int, int], None],
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[bytes, bytes]:
    """Build an engine: the plan, and the timing cache with what was learnt.

    timing:    an earlier cache, b"" for none; one of another GPU or version, or damaged, is left unused
    cancelled: asked after every step; once it says so, TensorRT gives up, which is a BackendError

    Raises BackendError with TensorRT's reason.
    """
    trt = module()
    log = new_log(trt)
    builder: api.Builder = _started(lambda: trt.Builder(log), log)
    network: api.INetworkDefinition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser: api.OnnxParser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise BackendError(f"{onnx}: TensorRT cannot read the graph: {_why(errors, log)}")
    config: api.IBuilderConfig = builder.create_builder_config()
    _configure(trt, config, options)
    for rows in profiles:
        _add_profile(builder, network, config, rows)
    cache: api.ITimingCache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    # TensorRT keeps no reference to it, and it must outlive the build.
    monitor = new_monitor(trt, on_progress, cancelled)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{onnx}: TensorRT did not build an engine: {log.said or 'it gave no reason'}")
    learnt: api.ITimingCache = config.get_timing_cache()
    return bytes(plan), bytes(learnt.serialize())


def _configure(trt: Any, config: "api.IBuilderConfig", options: BuildOptions) -> None:
    flag = trt.BuilderFlag
    wanted = {
        flag.TF32: options.tf32,
        flag.VERSION_COMPATIBLE: options.version_compatible,
        flag.STRIP_PLAN: options.stripped,
        flag.REFIT_IDENTICAL: options.stripped and not options.refittable,  # or there is nothing that may be stripped
        flag.REFIT: options.refittable,
        flag.WEIGHT_STREAMING: options.weight_streaming,
    }
    for name, on in wanted.items():
        (config.set_flag if on else config.clear_flag)(name)
    levels = {
        "none": trt.HardwareCompatibilityLevel.NONE,
        "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
        "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
    }
    config.hardware_compatibility_level = levels[options.hardware_compatible]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the types cannot be read back
    config.builder_optimization_level = options.level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)


def _add_profile(
    builder: "api.Builder", network: "api.INetworkDefinition", config: "api.IBuilderConfig", rows: Profile
) -> None:
    profile: api.IOptimizationProfile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor: api.ITensor = network.get_input(i)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (rows.least, *rest), (rows.best, *rest), (rows.most, *rest))
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses a profile of {rows.least} to {rows.most} rows")


class Engine:
    """A loaded plan.

    host_code: allow code of its own, which version-compatible plans bring; only for a plan whose digest matched
    weights:   the graph that a stripped plan takes its weights from

    Raises BackendError with TensorRT's reason.
    """

    def __init__(self, plan: bytes, *, host_code: bool = False, weights: Path | None = None) -> None:
        self.trt = trt = module(lean=host_code and weights is None)  # the lean runtime reads no graphs
        self.log = log = new_log(trt)
        self.runtime: api.Runtime = _started(lambda: trt.Runtime(log), log)
        self.runtime.engine_host_code_allowed = host_code
        self.cuda_engine: api.ICudaEngine = self.runtime.deserialize_cuda_engine(plan)
        if self.cuda_engine is None:
            raise BackendError(f"TensorRT cannot load the engine: {log.said or 'it gave no reason'}")
        if weights is not None:
            self._refit(weights)
        self.streaming = False  # whether some weights stay on the host and are sent in every call
        streamable = self.cuda_engine.streamable_weights_size
        if streamable:
            budget = self.cuda_engine.get_weight_streaming_automatic_budget()
            self.cuda_engine.weight_streaming_budget_v2 = budget
            self.streaming = budget < streamable

    @property
    def memory(self) -> int:
        """Bytes on the device that a context takes for its largest call."""
        return int(self.cuda_engine.device_memory_size_v2)

    def inspect(self, context: "Context") -> str:
        """The layers as JSON, for calls as the context was last prepared for; without one most types are unknown.

        Raises DependencyError with the lean runtime, which cannot tell.
        """
        if not hasattr(self.trt, "EngineInspector"):
            raise DependencyError("TensorRT's lean runtime does not describe layers: pip install tensorrt-cu13")
        inspector: api.EngineInspector = self.cuda_engine.create_engine_inspector()
        inspector.execution_context = context.execution
        return str(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def context(self) -> "Context":
        """A new execution context, for one call at a time. Raises OutOfMemoryError."""
        return Context(self)

    def close(self) -> None:
        """Release it; contexts must be gone by then."""
        self.cuda_engine = self.runtime = None

    def _refit(self, graph: Path) -> None:
        refitter: api.Refitter = self.trt.Refitter(self.cuda_engine, self.log)
        reader: api.OnnxParserRefitter = self.trt.OnnxParserRefitter(refitter, self.log)
        if not reader.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise BackendError(f"{graph}: its weights do not fit the engine: {self.log.said or 'no reason given'}")


class Context:
    """What runs one call at a time. Its scratch memory is the caller's, so that smaller calls take less of it."""

    def __init__(self, engine: Engine) -> None:
        self.trt, self.log, self._most = engine.trt, engine.log, engine.memory
        managed = engine.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.execution: api.IExecutionContext = engine.cuda_engine.create_execution_context(managed)
        if self.execution is None:
            raise OutOfMemoryError(f"TensorRT has no memory for a context: {engine.log.said}")

    def use_profile(self, index: int, stream: int) -> None:
        """Later calls are within this profile."""
        if self.execution.active_optimization_profile != index:
            self._check(self.execution.set_optimization_profile_async(index, stream), f"switch to profile {index}")

    def shape(self, rows: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """Later calls have this many rows; shapes: of one row of each input."""
        for name, rest in shapes.items():
            self._check(self.execution.set_input_shape(name, (rows, *rest)), f"take {name} of {rows} rows")
        missing = self.execution.infer_shapes()
        self._check(not missing, f"infer the shapes of {', '.join(missing)}")

    def scratch(self) -> int:
        """Bytes of memory that calls of the shapes given need beside inputs and outputs."""
        return int(self.execution.update_device_memory_size_for_shapes()) or self._most

    def use_scratch(self, address: int, size: int) -> None:
        """Later calls use this memory."""
        self.execution.set_device_memory(address, size)

    def time_layers(self, on_layer: Callable[[str, float], None]) -> None:
        """Later calls are awaited and report (layer, milliseconds)."""
        self._profiler = new_profiler(self.trt, on_layer)  # TensorRT keeps no reference to it
        self.execution.profiler = self._profiler

    def bind(self, addresses: dict[str, int]) -> None:
        """Where inputs and outputs lie on the device."""
        for name, address in addresses.items():
            self._check(self.execution.set_tensor_address(name, address), f"use the memory of {name}")

    def enqueue(self, stream: int) -> None:
        """Start a call; it runs in order with the stream."""
        self._check(self.execution.execute_async_v3(stream), "run")

    def close(self) -> None:
        self.execution = None

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"TensorRT could not {what}: {self.log.said or 'it gave no reason'}")


def _started(make: Callable[[], Any], log: Any) -> Any:
    """TensorRT's first object. Without a driver its factory returns nothing, which Python sees as a TypeError."""
    try:
        return make()
    except (TypeError, RuntimeError) as e:
        raise BackendError(f"TensorRT does not start: {log.said or 'is there an NVIDIA driver?'}") from e


def _why(errors: Sequence["api.ParserError"], log: Any) -> str:
    if not errors:
        return str(log.said or "it gave no reason")
    error: api.ParserError = errors[0]
    where = f" at {error.node_operator()} {error.node_name()}" if error.node_name() else ""
    return f"{error.desc()}{where}"
