"""model.onnx on ONNX Runtime: NumPy arrays in and out, or torch tensors that stay where they are."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Closing, Opening, check_inputs, check_process, tensor_on
from ncdeploy.backends.onnxruntime_graphs import GraphRuns
from ncdeploy.backends.providers import (
    LOG_FATAL,
    PROVIDERS,
    choose_providers,
    load_libraries,
    missing_libraries,
    quiet,
)
from ncdeploy.errors import BackendError, DependencyError, FileError, InputError, OutOfMemoryError, install
from ncdeploy.files import user_path
from ncdeploy.formats.describe import check_graph, describe
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.callsizes import CallSizes, filled


class Session:
    """An ONNX Runtime session on exactly the providers asked for; its own fallback to the CPU is an error here.

    info: what the file says of its model. CUDA uses TensorFloat-32, which is ONNX Runtime's default, only if its
          precision is tf32
    device, threads, providers: as for `ncdeploy.open_engine`. The CPU provider always stands last, since every other
    provider leaves some shape arithmetic to it.
    graphs: on CUDA, capture a graph for every number of rows and replay it, as far as the runtime can (`captures`)

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
        graphs: bool = False,
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError as e:
            raise DependencyError(f"ONNX files need ONNX Runtime: {install('cpu')}") from e
        wanted = choose_providers(device, providers, ort.get_available_providers(), info)
        self._stream: Any = None
        if any(name != PROVIDERS["cpu"] for name, _ in wanted):
            self._stream = _torch_stream(device)
            load_libraries(ort, [name for name, _ in wanted])
        for name, given in wanted if self._stream is not None else []:
            if name != PROVIDERS["cpu"]:  # its own stream, so that torch's tensors need not be waited for on the host
                given["user_compute_stream"] = str(self._stream.cuda_stream)
        options = ort.SessionOptions()
        options.log_severity_level = LOG_FATAL  # every failure is raised; the log would repeat it
        if threads is not None:
            options.intra_op_num_threads = threads

        def opened(**further: str) -> Any:
            each = [(name, given | further if name == PROVIDERS["cuda"] else given) for name, given in wanted]
            # Without its fallback, which goes on with other providers when one fails, even in the midst of a run.
            with quiet(ort):
                return ort.InferenceSession(str(user_path(path)), options, providers=each, enable_fallback=0)

        session = self._graphs = None
        if graphs and wanted[0][0] == PROVIDERS["cuda"]:
            with contextlib.suppress(Exception):  # it refuses graphs with control flow, or with work for the CPU
                session = opened(enable_cuda_graph="1")
                index = int(wanted[0][1]["device_id"])
                self._graphs = GraphRuns(ort, session, "cuda", index, self._stream)
        try:
            session = opened() if session is None else session
        except Exception as e:  # ONNX Runtime raises a dozen unrelated types
            raise _load_error(path, e, info) from e
        started = session.get_providers()
        lost = [name for name, _ in wanted if name not in started]
        if lost:
            lacking = [library for name in lost for library in missing_libraries(ort, name)]
            why = f"missing here: {', '.join(lacking)}" if lacking else "its libraries or the driver do not fit"
            raise BackendError(
                f"{path}: ONNX Runtime did not start {', '.join(lost)}, only {', '.join(started)}; {why}; "
                "ncdeploy doctor says what to install"
            )
        self._session, self._process = session, os.getpid()
        self.name = f"onnxruntime {ort.__version__} ({wanted[0][0].removesuffix('ExecutionProvider')})"

    @property
    def captures(self) -> bool:
        """Whether calls are replayed as CUDA graphs."""
        return self._graphs is not None

    def denoise(self, feeds: dict[str, Any]) -> Any:
        """D for NumPy arrays or torch tensors, newly allocated. Raises as `run` does."""
        if self._session is not None and self._graphs is not None:
            try:
                return self._graphs.run(feeds)
            except Exception as e:
                raise self._failure(e, feeds) from e
        if isinstance(feeds["x"], np.ndarray):
            return self.run(_OUTPUTS, feeds)[0]
        denoised = feeds["x"].new_empty(tuple(feeds["x"].shape))
        self.run_tensors({name: value.contiguous() for name, value in feeds.items()}, {_OUTPUTS[0]: denoised})
        return denoised

    def run(self, outputs: list[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs by name, newly allocated. Raises BackendError when the runtime fails or is closed."""
        check_process(self.name, self._process)
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
        check_process(self.name, self._process)
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
                if next(iter(feeds.values())).device.type == "cuda":  # torch came later than this session
                    sys.modules["torch"].cuda.current_stream().synchronize()
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
        kind = OutOfMemoryError if any(words in said for words in _NO_MEMORY) else BackendError
        batch = len(next(iter(feeds.values())))
        return kind(f"{self.name} failed on a batch of {batch}: {_first_line(error)}")

    def close(self) -> None:
        self._session = self._graphs = None


class OnnxRuntimeBackend(Closing):
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
        kind, _, index = device.partition(":")
        self._device = "cpu" if kind == "cpu" else "cuda"
        self._index = int(index or 0)
        self._session = Session(path, self._info, device=device, threads=threads, providers=providers, graphs=True)
        self.sizes = CallSizes() if self._device == "cuda" else None

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def name(self) -> str:
        return self._session.name

    @property
    def like(self) -> Any:
        return tensor_on(f"cuda:{self._index}") if self._device == "cuda" else None

    def __call__(
        self,
        x: Any,
        sigma: Any,
        labels: Any = None,
        guidance: Any = None,
        *,
        conditions: Mapping[str, Any] | None = None,
        sample: Any = None,
    ) -> Any:
        """x float32 [B, *shape], sigma float32 [B], labels int64 [B] -> denoised float32 [B, *shape], newly allocated.

        guidance: float32 [B] for a graph that takes it (info.guidance), 1 in every row if None.
        conditions, sample: of a model that has some, as at the top of `ncdeploy.backends.base`.
        NumPy arrays give a NumPy array; torch tensors must be on the engine's device and give a tensor there.
        Raises InputError for inputs that do not fit, BackendError when the runtime fails or is closed.
        """
        tensors = hasattr(x, "data_ptr")
        if not tensors and type(x) not in (np.ndarray, np.memmap):
            raise InputError(f"x: got {type(x).__name__}; ONNX Runtime takes NumPy arrays or torch tensors")
        feeds = check_inputs(self._info, x, sigma, labels, guidance, conditions, sample)
        for name, value in feeds.items():
            if hasattr(value, "data_ptr") != tensors:
                raise InputError(
                    f"{name}: got {type(value).__name__}; give all inputs as NumPy arrays or all as tensors"
                )
            if tensors and (value.device.type, value.device.index or 0) != (self._device, self._index):
                raise InputError(f"{name}: is on {value.device}; this engine runs on {self._device}:{self._index}")
        if self.sizes is None:
            return self._session.denoise(feeds)
        size = self.sizes.fit(len(x))
        whole = {c.name for c in self._info.conditions}  # one a sample, not one a row
        denoised = self._session.denoise(
            {name: value if name in whole else filled(value, size) for name, value in feeds.items()}
        )
        self.sizes.ready.add(size)
        return denoised[: len(x)]

    def close(self) -> None:
        self._session.close()


_OUTPUTS = ["denoised"]
_NO_MEMORY = ("out of memory", "failed to allocate", "bad_alloc", "unable to allocate")


def _torch_stream(device: str) -> Any:
    """A CUDA stream of torch's for the session's GPU, where torch is there to make one."""
    kind, _, index = device.partition(":")
    like = None if kind == "cpu" else tensor_on(f"cuda:{index or 0}")  # imports torch, and with it CUDA's libraries
    return None if like is None else sys.modules["torch"].cuda.Stream(like.device)


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


def open_file(path: str | os.PathLike[str], opening: Opening) -> OnnxRuntimeBackend:
    """An .onnx for `open_engine`."""
    if opening.mode is not None:
        raise InputError(f"mode: {path} runs in ONNX Runtime, which has none; leave it out")
    return OnnxRuntimeBackend(
        path, device=opening.device, threads=opening.threads, providers=opening.providers, info=opening.info
    )
