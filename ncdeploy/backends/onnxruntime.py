"""model.onnx on ONNX Runtime: NumPy arrays in and out, or torch tensors that stay where they are."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import check_inputs, tensor_on
from ncdeploy.backends.describe import check_graph, describe
from ncdeploy.backends.onnxfile import read_onnx
from ncdeploy.errors import BackendError, DependencyError, FileError, InputError, OutOfMemoryError
from ncdeploy.modelinfo import ModelInfo

LOG_FATAL = 4
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """An ONNX Runtime session on exactly the providers asked for; its own fallback to the CPU is an error here.

    info: what the file says of its model. CUDA uses TensorFloat-32, which is ONNX Runtime's default, only if its
          precision is tf32
    device, threads, providers: as for `ncdeploy.open_engine`. The CPU provider always stands last, since every other
    provider leaves some shape arithmetic to it.

    Raises FileError for a damaged file, BackendError for a provider that is not installed or does not start,
    DependencyError without onnxruntime.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: ModelInfo,
        *,
        device: str = "cpu",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError as e:
            raise DependencyError("ONNX files need ONNX Runtime: pip install 'ncdeploy[cpu]'") from e
        wanted = choose_providers(device, providers, ort.get_available_providers(), tf32=info.precision == "tf32")
        if any(name == PROVIDERS["cuda"] for name, _ in wanted):
            load_libraries(ort)
        self._stream = _torch_stream(device)
        if self._stream is not None:  # its own, so that torch's tensors need not be waited for on the host
            wanted[0][1]["user_compute_stream"] = str(self._stream.cuda_stream)
        options = ort.SessionOptions()
        options.log_severity_level = LOG_FATAL  # every failure is raised; the log would repeat it
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            with warnings.catch_warnings(action="ignore"):  # of a provider left out, which is an error below
                session = ort.InferenceSession(str(Path(path).expanduser()), options, providers=wanted)
        except Exception as e:  # ONNX Runtime raises a dozen unrelated types
            raise _load_error(path, e, info) from e
        started = session.get_providers()
        missing = [name for name, _ in wanted if name not in started]
        if missing:
            raise BackendError(
                f"{path}: ONNX Runtime did not start {', '.join(missing)}, only {', '.join(started)}; "
                "its CUDA or cuDNN libraries may be missing: see ncdeploy doctor"
            )
        self._session = session
        self.name = f"onnxruntime {ort.__version__} ({wanted[0][0].removesuffix('ExecutionProvider')})"

    def run(self, outputs: list[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs by name, newly allocated. Raises BackendError when the runtime fails or is closed."""
        if self._session is None:
            raise BackendError(f"{self.name}: the engine was closed; open it again")
        try:
            return self._session.run(outputs, feeds)  # type: ignore[no-any-return]
        except Exception as e:
            raise self._failure(e, feeds) from e

    def run_tensors(self, feeds: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Run on torch tensors, contiguous and on the session's device, into those of `outputs`; nothing is copied.

        On CUDA this is in order with torch's current stream and returns before it is done. Raises as `run` does.
        """
        if self._session is None:
            raise BackendError(f"{self.name}: the engine was closed; open it again")
        import onnxruntime as ort

        binding, options = self._session.io_binding(), ort.RunOptions()
        for bind, tensors in ((binding.bind_input, feeds), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                dtype = np.int64 if str(tensor.dtype) == "torch.int64" else np.float32
                bind(name, tensor.device.type, tensor.device.index or 0, dtype, tuple(tensor.shape), tensor.data_ptr())
        try:
            if self._stream is None:
                self._session.run_with_iobinding(binding, options)
                return
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            theirs = sys.modules["torch"].cuda.current_stream(self._stream.device)
            self._stream.wait_stream(theirs)
            self._session.run_with_iobinding(binding, options)
            theirs.wait_stream(self._stream)
        except Exception as e:
            raise self._failure(e, feeds) from e

    def _failure(self, error: Exception, feeds: dict[str, Any]) -> BackendError:
        said = str(error).lower()
        kind = OutOfMemoryError if "out of memory" in said or "failed to allocate" in said else BackendError
        batch = len(next(iter(feeds.values())))
        return kind(f"{self.name} failed on a batch of {batch}: {_first_line(error)}")

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend:
    """A denoiser graph on ONNX Runtime.

    device, threads, providers, info: as for `ncdeploy.open_engine`; the first three go to `Session`

    Raises what `Session` raises, and FileError for a file that does not fit its description.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        info: ModelInfo | None = None,
    ) -> None:
        file = read_onnx(path)
        self._info = describe(path, file, info)
        check_graph(path, file, self._info)
        self._device, _, index = device.partition(":")
        self._index = int(index or 0)
        self._session = Session(path, self._info, device=device, threads=threads, providers=providers)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def name(self) -> str:
        return self._session.name

    @property
    def like(self) -> Any:
        return tensor_on(f"cuda:{self._index}") if self._device == "cuda" else None

    def __call__(self, x: Any, sigma: Any, labels: Any = None, guidance: Any = None) -> Any:
        """x float32 [B, *shape], sigma float32 [B], labels int64 [B] -> denoised float32 [B, *shape], newly allocated.

        guidance: float32 [B] for a graph that takes it (info.guidance), 1 in every row if None.
        NumPy arrays give a NumPy array; torch tensors must be on the engine's device and give a tensor there.
        Raises InputError for inputs that do not fit, BackendError when the runtime fails or is closed.
        """
        tensors = hasattr(x, "data_ptr")
        if not tensors and type(x) is not np.ndarray:
            raise InputError(f"x: got {type(x).__name__}; ONNX Runtime takes NumPy arrays or torch tensors")
        check_inputs(self._info, x, sigma, labels, guidance)
        feeds: dict[str, Any] = {"x": x, "sigma": sigma}
        if labels is not None:
            feeds["labels"] = labels
        if self._info.guidance:
            feeds["guidance"] = sigma * 0 + 1 if guidance is None else guidance
        for name, value in feeds.items():
            if hasattr(value, "data_ptr") != tensors:
                raise InputError(
                    f"{name}: got {type(value).__name__}; give all inputs as NumPy arrays or all as tensors"
                )
            if tensors and (value.device.type, value.device.index or 0) != (self._device, self._index):
                raise InputError(f"{name}: is on {value.device}; this engine runs on {self._device}:{self._index}")
        if not tensors:
            return self._session.run(_OUTPUTS, feeds)[0]
        denoised = x.new_empty(tuple(x.shape))
        self._session.run_tensors({name: value.contiguous() for name, value in feeds.items()}, {"denoised": denoised})
        return denoised

    def close(self) -> None:
        self._session.close()


_OUTPUTS = ["denoised"]


def choose_providers(
    device: str, providers: Sequence[str] | None, available: Sequence[str], *, tf32: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """The providers to ask ONNX Runtime for, each with its options, the CPU last.

    tf32: whether CUDA may round the float32 inputs of matrix products

    Raises BackendError for one that is not among `available`, InputError for a device that does not exist or
    contradicts `providers`.
    """
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"device: got {device!r}, expected cpu, cuda or cuda:N")
    if providers is None:
        chosen = [(PROVIDERS[kind], {"device_id": index or "0"} if kind == "cuda" else {})]
    elif device != "cpu" or not providers:
        raise InputError(f"providers: got {list(providers)} and device {device!r}; give one of the two")
    else:
        chosen = [(PROVIDERS.get(name.lower(), name), {}) for name in providers]
    for name, options in chosen:
        if name == PROVIDERS["cuda"]:
            options["use_tf32"] = "1" if tf32 else "0"
            # The default tries every algorithm at each new number of rows, and a parallel run has many of them.
            options["cudnn_conv_algo_search"] = "HEURISTIC"
        if name not in available:
            remedy = "expected one of those"
            if "CUDA" in name or "Tensorrt" in name:
                remedy = "for a GPU: pip uninstall onnxruntime && pip install onnxruntime-gpu, then ncdeploy doctor"
            raise BackendError(f"{name} is not in this ONNX Runtime, which has {', '.join(available)}; {remedy}")
    cpu = PROVIDERS["cpu"]
    return chosen if any(name == cpu for name, _ in chosen) else [*chosen, (cpu, {})]


def load_libraries(ort: Any) -> None:
    """Load the CUDA libraries of NVIDIA's wheels, which the loader does not find by itself."""
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # what is missing is said later
        ort.preload_dlls()


def _torch_stream(device: str) -> Any:
    """A CUDA stream of torch's, where torch is in use with the session's GPU; None otherwise."""
    torch = sys.modules.get("torch")
    if not device.startswith("cuda") or torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.Stream(torch.device(device))


def _load_error(path: str | os.PathLike[str], error: Exception, info: ModelInfo) -> Exception:
    reason = _first_line(error)
    if info.precision == "bf16" and "NOT_IMPLEMENTED" in reason:
        return BackendError(
            f"{path}: ONNX Runtime has no bfloat16 kernels on this device; use --device cuda, or export fp16"
        )
    if type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile"):
        return FileError(f"{path}: ONNX Runtime cannot read it ({reason}); copy or export it again")
    return BackendError(f"{path}: ONNX Runtime cannot load it: {reason}")


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.removeprefix("[ONNXRuntimeError] : ")
