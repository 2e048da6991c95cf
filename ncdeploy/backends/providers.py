"""What ONNX Runtime runs a graph on: which execution providers, their options, and the libraries that they need."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ncdeploy.backends.sharedlibs import missing
from ncdeploy.errors import BackendError, InputError
from ncdeploy.files import cache_folder
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import sizes

LOG_WARNING, LOG_FATAL = 2, 4
PROVIDERS = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider",
}  # fmt: skip
MOST_VALUES = (
    1 << 20
)  # of x, or of a condition, in a call that the TensorRT provider builds for; larger calls make it build again


def choose_providers(
    device: str, providers: Sequence[str] | None, available: Sequence[str], info: ModelInfo
) -> list[tuple[str, dict[str, str]]]:
    """The providers to ask ONNX Runtime for, each with its options, the CPU last.

    device: "cpu", "cuda" or "tensorrt", the last two with ":N"; with TensorRT, CUDA runs what it leaves
    info:   of a denoiser; its precision says what TensorRT may compute in, and whether CUDA may round the float32
            inputs of matrix products (TensorFloat-32)

    Raises BackendError for one that is not among `available`, InputError for a device that does not exist or
    contradicts `providers`.
    """
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not (kind != "cpu" and index.isdecimal())):
        raise InputError(f"device: got {device!r}, expected cpu, cuda, cuda:N, or tensorrt for ONNX Runtime's TensorRT")
    if providers is None:
        names = [kind, "cuda"] if kind == "tensorrt" else [kind]
    elif device != "cpu" or not providers:
        raise InputError(f"providers: got {list(providers)} and device {device!r}; give one of the two")
    else:
        names = list(providers)
    chosen = []
    for name in [PROVIDERS.get(each.lower(), each) for each in names]:
        options = {"device_id": index or "0"} if kind != "cpu" else {}
        if name == PROVIDERS["cuda"]:
            options["use_tf32"] = "1" if info.precision == "tf32" else "0"
            options["cudnn_conv_algo_search"] = "HEURISTIC"  # by default each new shape takes half a second and more
        elif name == PROVIDERS["tensorrt"]:
            options |= _tensorrt_options(info)
        if name not in available:
            remedy = "expected one of those"
            if "CUDA" in name or "Tensorrt" in name:
                remedy = "for a GPU: pip uninstall onnxruntime && pip install onnxruntime-gpu, then ncdeploy doctor"
            raise BackendError(f"{name} is not in this ONNX Runtime, which has {', '.join(available)}; {remedy}")
        chosen.append((name, options))
    cpu = PROVIDERS["cpu"]
    return chosen if any(name == cpu for name, _ in chosen) else [*chosen, (cpu, {})]


def _tensorrt_options(info: ModelInfo) -> dict[str, str]:
    """One engine for any number of rows up to the most, kept; in the precision of the graph."""
    most = {"batch": max(1, MOST_VALUES // info.dim)}
    largest = max((int(np.prod(condition.shape)) for condition in info.conditions), default=1)
    most["samples"] = min(most["batch"], max(1, MOST_VALUES // largest))
    ranges = {"min": dict.fromkeys(most, 1), "opt": {axis: max(1, n // 4) for axis, n in most.items()}, "max": most}
    folder = str(cache_folder() / "onnxruntime-tensorrt")
    return {
        **{
            f"trt_profile_{which}_shapes": ",".join(
                f"{name}:{'x'.join(map(str, shape))}" for name, shape in sizes(info.inputs, **axes).items()
            )
            for which, axes in ranges.items()
        },
        "trt_fp16_enable": "1" if info.precision == "fp16" else "0",
        "trt_bf16_enable": "1" if info.precision == "bf16" else "0",
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": folder,
    }  # fmt: skip


def load_libraries(ort: Any, providers: Sequence[str]) -> None:
    """Load what the providers need from NVIDIA's wheels, which lie where the loader does not look.

    Raises BackendError where TensorRT is asked for, and the one that this ONNX Runtime was built for is not there.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):  # it prints what it does not find
        ort.preload_dlls()
    if PROVIDERS["tensorrt"] not in providers:
        return
    found = "it is not installed"
    with contextlib.suppress(Exception):  # loading it is what brings its libraries
        found = f"{importlib.import_module('tensorrt').__version__} is"
    lost = missing_libraries(ort, PROVIDERS["tensorrt"])
    lost = [name for name in lost if name.startswith(("libnvinfer", "libnvonnxparser"))]
    if lost:
        major = int(lost[0].rpartition(".")[2])
        raise BackendError(
            f"ONNX Runtime {ort.__version__} was built for TensorRT {major} ({lost[0]}), and {found}: pip install "
            f"'tensorrt-cu13>={major},<{major + 1}'; or take --device cuda, or an engine of ncdeploy build"
        )


def missing_libraries(ort: Any, provider: str) -> list[str]:
    """Sonames that a provider needs and the loader does not find; call `load_libraries` first."""
    name = provider.removesuffix("ExecutionProvider").lower()
    file = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    return missing(file) if file.is_file() else []


@contextlib.contextmanager
def quiet(ort: Any) -> Iterator[None]:
    """No words of ONNX Runtime's about a provider that is left out, which callers turn into an error of their own."""
    ort.set_default_logger_severity(LOG_FATAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        ort.set_default_logger_severity(LOG_WARNING)
