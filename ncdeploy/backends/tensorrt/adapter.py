"""What runs engines of TensorRT, from 10.12 up to, but without, 12, and of TensorRT for RTX 1.7: one API.

What only TensorRT for RTX has, a cache of the kernels that it compiles on the card and CUDA graphs of its own, is in
`_Rtx`. Only `callbacks` and `build.compiler` speak to TensorRT beside this module.

TensorRT answers failures with None or false and explains itself in its log; here each becomes one BackendError with
what the log said last.

Names under `api` are annotations; a test reads them to know of which class each attribute is.
"""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncdeploy.backends.tensorrt.callbacks import new_log, new_profiler
from ncdeploy.backends.tensorrt.preflight import INSTALL
from ncdeploy.errors import BackendError, DependencyError, OutOfMemoryError
from ncdeploy.formats.sidecar import RUNTIMES

if TYPE_CHECKING:
    import tensorrt as api  # type: ignore[import-not-found]

MODULES = {"tensorrt": ("tensorrt",), "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}  # the second is that of PyPI
LEAN = "tensorrt_lean"
NO_DRIVER = "is there an NVIDIA driver?"


def installed(runtime: str = "tensorrt") -> tuple[str | None, str]:
    """The version of a runtime, None if it cannot be imported; and why, "" if it simply is not there."""
    for name in (*MODULES[runtime], *([LEAN] if runtime == "tensorrt" else [])):
        try:
            return str(importlib.import_module(name).__version__), ""
        except ModuleNotFoundError as e:
            if e.name != name:
                return None, str(e)
        except Exception as e:  # a missing native library raises whatever it likes
            return None, (str(e).strip() or type(e).__name__).splitlines()[0]
    return None, ""


def module(runtime: str = "tensorrt", *, lean: bool = False) -> Any:
    """A runtime, or TensorRT's lean one where that is enough and alone is there. Raises DependencyError without it."""
    for name in (*MODULES[runtime], *([LEAN] if lean else [])):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DependencyError(f"{RUNTIMES[runtime]} is not installed: {INSTALL[runtime]}")


@functools.cache
def log_of(trt: Any) -> Any:
    """The log of a module: TensorRT goes on with the first that it was given in a process."""
    return new_log(trt)


class Engine:
    """A loaded plan.

    runtime:   that built it, "tensorrt" or "rtx"
    host_code: allow code of its own, which version-compatible plans bring; only for a plan whose digest matched
    weights:   the graph that a stripped plan takes its weights from
    kernels:   what `kernels` returned of an earlier engine, for TensorRT for RTX; of another GPU it is left unused

    Raises BackendError with TensorRT's reason.
    """

    def __init__(
        self, plan: bytes, *, runtime: str = "tensorrt", host_code: bool = False, weights: Path | None = None,
        kernels: bytes = b"",
    ) -> None:  # fmt: skip
        self.trt = trt = module(runtime, lean=host_code and weights is None)  # the lean runtime reads no graphs
        self.log = log = log_of(trt)
        log.said = ""
        self.runtime: api.Runtime = started(lambda: trt.Runtime(log), log)
        self.runtime.engine_host_code_allowed = host_code
        if runtime == "rtx":
            _check_validity(self.trt, self.runtime, plan)
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
        self.rtx = _Rtx(self, kernels) if runtime == "rtx" else None

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

    @property
    def captures(self) -> bool:
        """Whether its contexts make CUDA graphs of repeated calls themselves."""
        return self.rtx is not None

    def kernels(self) -> bytes:
        """The kernels compiled for this GPU so far, to be given to a later engine of the same plan."""
        return b"" if self.rtx is None else self.rtx.compiled()

    def context(self, *, graphs: bool = False) -> "Context":
        """A new execution context, for one call at a time. Raises OutOfMemoryError.

        graphs: where `captures`, make CUDA graphs of repeated calls
        """
        return Context(self, graphs=graphs)

    def close(self) -> None:
        """Release it; contexts must be gone by then."""
        self.rtx = self.cuda_engine = self.runtime = None

    def _refit(self, graph: Path) -> None:
        refitter: api.Refitter = self.trt.Refitter(self.cuda_engine, self.log)
        reader: api.OnnxParserRefitter = self.trt.OnnxParserRefitter(refitter, self.log)
        if not reader.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise BackendError(f"{graph}: its weights do not fit the engine: {self.log.said or 'no reason given'}")


def _check_validity(trt: Any, runtime: "api.Runtime", plan: bytes) -> None:
    """TensorRT for RTX says what is wrong with a plan before it is loaded. Raises BackendError."""
    validity, reasons = runtime.get_engine_validity(plan)
    if validity == trt.EngineValidity.INVALID:
        known = trt.EngineInvalidityDiagnostics.__members__.items()
        said = ", ".join(name.lower().replace("_", " ") for name, bit in known if int(bit) & int(reasons))
        raise BackendError(f"{RUNTIMES['rtx']} refuses the engine: {said or NO_DRIVER}")


class _Rtx:
    """What all contexts of an engine of TensorRT for RTX are made with.

    Its kernels are compiled on the card: for each size of a call when it first comes, rather than later beside slower
    ones, so that what is timed is what will run. All contexts share the cache of them.
    """

    def __init__(self, engine: Engine, kernels: bytes) -> None:
        self.engine = engine
        self._cache: api.IRuntimeCache = self._new().create_runtime_cache()
        if kernels:
            self._cache.deserialize(kernels)  # false for those of another GPU, driver or version: then there are none

    def compiled(self) -> bytes:
        return bytes(self._cache.serialize())

    def new_context(self, *, graphs: bool) -> Any:
        trt, config = self.engine.trt, self._new()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        strategy = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
        config.set_runtime_cache(self._cache)
        return self.engine.cuda_engine.create_execution_context(config)

    def _new(self) -> "api.IRuntimeConfig":
        config: api.IRuntimeConfig = self.engine.cuda_engine.create_runtime_config()
        return config


class Context:
    """What runs one call at a time. Its scratch memory is the caller's, so that smaller calls take less of it."""

    def __init__(self, engine: Engine, *, graphs: bool) -> None:
        self.trt, self.log, self._most = engine.trt, engine.log, engine.memory
        managed = engine.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.execution: api.IExecutionContext = (
            engine.cuda_engine.create_execution_context(managed)
            if engine.rtx is None
            else engine.rtx.new_context(graphs=graphs)
        )
        if self.execution is None:
            raise OutOfMemoryError(f"TensorRT has no memory for a context: {engine.log.said}")

    def use_profile(self, index: int, stream: int) -> None:
        """Later calls are within this profile."""
        if self.execution.active_optimization_profile != index:
            self._check(self.execution.set_optimization_profile_async(index, stream), f"switch to profile {index}")

    def shape(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Later calls have inputs of these shapes, by name."""
        for name, sizes in shapes.items():
            self._check(self.execution.set_input_shape(name, sizes), f"take {name} of shape {sizes}")
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


def started(make: Callable[[], Any], log: Any) -> Any:
    """TensorRT's first object. Without a driver its factory returns nothing, which Python sees as a TypeError."""
    try:
        return make()
    except (TypeError, RuntimeError) as e:
        raise BackendError(f"TensorRT does not start: {log.said or NO_DRIVER}") from e
