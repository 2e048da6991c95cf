"""model.onnx on ONNX Runtime: NumPy arrays in, a fresh NumPy array out."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import check_inputs
from ncdeploy.backends.describe import check_graph, describe
from ncdeploy.backends.onnxfile import read_onnx
from ncdeploy.errors import BackendError, DependencyError, FileError, InputError
from ncdeploy.modelinfo import ModelInfo

LOG_FATAL = 4
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend:
    """A session on exactly the providers asked for; ONNX Runtime's own fallback to the CPU is an error here.

    device, threads, providers, info: as for `ncdeploy.open_engine`. The CPU provider always stands last, since
    every other provider leaves some shape arithmetic to it.

    Raises FileError for a damaged file or one that does not fit its description, BackendError for a provider that
    is not installed or does not start, DependencyError without onnxruntime.
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
        try:
            import onnxruntime as ort
        except ImportError as e:
            raise DependencyError("ONNX files need ONNX Runtime: pip install 'ncdeploy[cpu]'") from e
        wanted = choose_providers(device, providers, ort.get_available_providers())
        file = read_onnx(path)
        self._info = describe(path, file, info)
        check_graph(path, file, self._info)
        options = ort.SessionOptions()
        options.log_severity_level = LOG_FATAL  # every failure is raised; the log would repeat it
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            with warnings.catch_warnings(action="ignore"):  # of a provider left out, which is an error below
                session = ort.InferenceSession(str(Path(path).expanduser()), options, providers=wanted)
        except Exception as e:  # ONNX Runtime raises a dozen unrelated types
            raise _load_error(path, e) from e
        started = session.get_providers()
        missing = [name for name, _ in wanted if name not in started]
        if missing:
            raise BackendError(
                f"{path}: ONNX Runtime did not start {', '.join(missing)}, only {', '.join(started)}; "
                "its CUDA or cuDNN libraries may be missing: see ncdeploy doctor"
            )
        self._session = session
        self._name = f"onnxruntime {ort.__version__} ({wanted[0][0].removesuffix('ExecutionProvider')})"

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def name(self) -> str:
        return self._name

    def __call__(
        self,
        x: NDArray[np.float32],
        sigma: NDArray[np.float32],
        labels: NDArray[np.int64] | None = None,
        guidance: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """x float32 [B, *shape], sigma float32 [B], labels int64 [B] -> denoised float32 [B, *shape], newly allocated.

        guidance: float32 [B] for a graph that takes it (info.guidance), 1 in every row if None.
        Raises InputError for inputs that do not fit, BackendError when the runtime fails or is closed.
        """
        if type(x) is not np.ndarray:
            raise InputError(f"x: got {type(x).__name__}; ONNX Runtime takes NumPy arrays, e.g. x.cpu().numpy()")
        check_inputs(self._info, x, sigma, labels, guidance)
        feeds = {"x": x, "sigma": sigma} if labels is None else {"x": x, "sigma": sigma, "labels": labels}
        if self._info.guidance:
            feeds["guidance"] = np.ones(len(x), np.float32) if guidance is None else guidance
        if self._session is None:
            raise BackendError(f"{self._name}: the engine was closed; open it again")
        try:
            return self._session.run(_OUTPUTS, feeds)[0]  # type: ignore[no-any-return]
        except Exception as e:
            raise BackendError(f"{self._name} failed on a batch of {len(x)}: {_first_line(e)}") from e

    def close(self) -> None:
        self._session = None


_OUTPUTS = ["denoised"]


def choose_providers(
    device: str, providers: Sequence[str] | None, available: Sequence[str]
) -> list[tuple[str, dict[str, str]]]:
    """The providers to ask ONNX Runtime for, each with its options, the CPU last.

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
    for name, _ in chosen:
        if name not in available:
            remedy = "expected one of those"
            if "CUDA" in name or "Tensorrt" in name:
                remedy = "for a GPU: pip uninstall onnxruntime && pip install onnxruntime-gpu, then ncdeploy doctor"
            raise BackendError(f"{name} is not in this ONNX Runtime, which has {', '.join(available)}; {remedy}")
    cpu = PROVIDERS["cpu"]
    return chosen if any(name == cpu for name, _ in chosen) else [*chosen, (cpu, {})]


def _load_error(path: str | os.PathLike[str], error: Exception) -> Exception:
    reason = _first_line(error)
    if type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile"):
        return FileError(f"{path}: ONNX Runtime cannot read it ({reason}); copy or export it again")
    return BackendError(f"{path}: ONNX Runtime cannot load it: {reason}")


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.removeprefix("[ONNXRuntimeError] : ")
