"""An ONNX graph -> an engine, by TensorRT or TensorRT for RTX, which is driven by Polygraphy's loaders.

Precision is that of the graph: networks are strongly typed, which 10.12 must be told and 11 always does. The types that
the compiler read of the graph are compared with the graph's before anything is built.

Names under `api` are annotations; a test reads them to know of which class each attribute is.
"""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncdeploy.backends.tensorrt import adapter
from ncdeploy.backends.tensorrt.callbacks import new_monitor
from ncdeploy.backends.tensorrt.layers import check_parsed
from ncdeploy.errors import BackendError, DependencyError
from ncdeploy.formats.profiles import Profile, samples_of
from ncdeploy.formats.sidecar import RUNTIMES, BuildOptions

if TYPE_CHECKING:
    import tensorrt as api  # type: ignore[import-not-found]


def compile_graph(
    onnx: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    precision: str,
    products: Collection[str],
    conditions: Collection[str] = (),
    runtime: str = "tensorrt",
    targets: Sequence[tuple[int, int]] = (),
    timings: Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda phase, step, steps: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[bytes, dict[str, int]]:
    """Build an engine: the plan, and how many convolutions and matrix products of the graph are of each type.

    precision: of the graph; products: its convolutions and matrix products that are of it, see `low_products`
    conditions: inputs whose first axis is that of samples, not of rows
    targets:   of TensorRT for RTX, compute capabilities; () is every RTX card
    timings:   of TensorRT, the file that keeps its timings of kernels; those of another GPU or version are left unused
    cancelled: asked after every step; once it says so, TensorRT gives up, which is a BackendError

    Raises DependencyError without the runtime or Polygraphy, BackendError with TensorRT's reason, or if the compiler
    reads other types than the graph has.
    """
    trt = adapter.module(runtime)
    log = adapter.log_of(trt)
    log.said = ""
    with _polygraphy(runtime, trt, log) as (loaders, errors):
        try:
            builder, network, parser = adapter.started(loaders.NetworkFromOnnxPath(str(onnx), strongly_typed=True), log)
        except errors as e:
            raise BackendError(f"{onnx}: {_refusal(trt, onnx, runtime, log)}") from e
        found = check_parsed(list(_products(trt, network)), precision, products)
        try:
            config = _config(loaders, trt, builder, network, profiles, conditions, options, runtime, targets, timings)
            # TensorRT keeps no reference to it, and it must outlive the build.
            monitor = new_monitor(trt, on_progress, cancelled)
            config.progress_monitor = monitor
            build = loaders.EngineBytesFromNetwork(
                (builder, network, parser), config, save_timing_cache=None if timings is None else str(timings)
            )
            return bytes(build()), found
        except errors as e:
            raise BackendError(f"{onnx}: TensorRT did not build an engine: {log.said or e}") from e


@contextlib.contextmanager
def _polygraphy(runtime: str, trt: Any, log: Any) -> Iterator[tuple[Any, type[Exception]]]:
    """Polygraphy's loaders for a runtime, silent, and what they raise. It serves one runtime in a process."""
    try:
        from polygraphy import config as settings
        from polygraphy.exception import PolygraphyException
        from polygraphy.logger import G_LOGGER
    except ImportError as e:
        raise DependencyError("building engines needs Polygraphy: pip install polygraphy") from e
    rtx = runtime == "rtx"
    if "polygraphy.backend.trt" in sys.modules and rtx != settings.USE_TENSORRT_RTX:
        raise BackendError(f"this process built for another runtime; build for {RUNTIMES[runtime]} in a new one")
    settings.USE_TENSORRT_RTX = rtx
    sys.modules.setdefault(adapter.MODULES[runtime][0], trt)  # the name under which Polygraphy looks for it
    loaders = importlib.import_module("polygraphy.backend.trt")
    loaders.util.TRT_LOGGER = log
    # Its own words go to stdout; TensorRT's are in the log, and a failure is an exception.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it asks for timing caches, which the other has not
        yield loaders, PolygraphyException


def _config(
    loaders: Any, trt: Any, builder: Any, network: "api.INetworkDefinition", profiles: Sequence[Profile],
    conditions: Collection[str], options: BuildOptions, runtime: str, targets: Sequence[tuple[int, int]],
    timings: Path | None,
) -> "api.IBuilderConfig":  # fmt: skip
    of_samples = dict.fromkeys(conditions, samples_of(profiles))
    shared: dict[str, Any] = {
        "profiles": [_shapes(loaders.Profile(), network, rows, of_samples) for rows in profiles],
        "refittable": options.refittable,
        "strip_plan": options.stripped,
        "weight_streaming": options.weight_streaming,
        "builder_optimization_level": options.level,
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,  # or the types cannot be read back
    }
    if options.workspace is not None:
        shared["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: options.workspace}
    if runtime == "rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        config: api.IBuilderConfig = CreateConfigRTX(compute_capabilities=list(targets) or None, **shared)(
            builder, network
        )
    else:
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatible.upper())
        known = None if timings is None or not timings.is_file() else str(timings)
        config = loaders.CreateConfig(
            version_compatible=options.version_compatible, hardware_compatibility_level=level, load_timing_cache=known,
            **shared,
        )(builder, network)  # fmt: skip
    # What Polygraphy does not set, or not for both: TF32 is on unless it is switched off.
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if options.stripped and not options.refittable:  # or there is nothing that may be stripped
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    return config


def _shapes(
    profile: Any, network: "api.INetworkDefinition", rows: Profile, of_samples: Mapping[str, Profile]
) -> Any:  # fmt: skip
    """The profile for so many rows, which are the axes of no fixed size but in `of_samples`."""
    for i in range(network.num_inputs):
        tensor: api.ITensor = network.get_input(i)
        sizes, own = tuple(tensor.shape), of_samples.get(tensor.name, rows)
        profile.add(
            tensor.name, *(tuple(n if size < 0 else size for size in sizes) for n in (own.least, own.best, own.most))
        )
    return profile


def _products(trt: Any, network: "api.INetworkDefinition") -> Iterator[tuple[str, str]]:
    """The convolutions and matrix products that the compiler read: the operator's name, and the type it computes in."""
    kind, type_ = trt.LayerType, trt.DataType
    kinds = {kind.CONVOLUTION, kind.DECONVOLUTION, kind.MATRIX_MULTIPLY, kind.EINSUM}
    names = {type_.HALF: "fp16", type_.BF16: "bf16", type_.FLOAT: "fp32"}
    for i in range(network.num_layers):
        layer: api.ILayer = network.get_layer(i)
        if layer.type in kinds:
            result: api.ITensor = layer.get_output(0)
            yield layer.name, names.get(result.dtype, "another type")


def _refusal(trt: Any, onnx: Path, runtime: str, log: Any) -> str:
    """Why the graph cannot be read: the operator, and the layer of the model that it comes from."""
    said = log.said
    builder: api.Builder = trt.Builder(log)
    network: api.INetworkDefinition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser: api.OnnxParser = trt.OnnxParser(network, log)
    parser.parse_from_file(str(onnx))
    name = RUNTIMES[runtime]
    if not parser.num_errors:
        return f"{name} cannot read the graph: {said or 'it gave no reason'}"
    error: api.ParserError = parser.get_error(0)
    node, operator = error.node_name(), error.node_operator()
    if not node:
        return f"{name} cannot read the graph: {error.desc()}"
    layer = node.rpartition("/")[0]
    inside = f"layer {layer} of the model" if layer else "the graph"
    fault = "has no operator" if error.code() == trt.ErrorCode.UNSUPPORTED_NODE else "cannot read the operator"
    why = "" if error.desc() == "false" else f" ({error.desc()})"
    return (
        f"{name} {fault} {operator}, node {node} in {inside}{why}; write that layer with other operators and export "
        f"again, or run the graph as it is: ncdeploy sample --engine {onnx}"
    )
