"""A denoiser in PyTorch: NumPy in, NumPy out; tensor in, tensor out."""

import contextlib
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ncdeploy.backends.base import Closing, Opening, check_inputs, check_process
from ncdeploy.errors import BackendError, DependencyError, InputError, OutOfMemoryError, install
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.callsizes import CallSizes
from ncdeploy.sampling.capture import capture

try:
    import torch

    from ncdeploy.backends.torch_graphs import GraphedModule
    from ncdeploy.denoisers.base import Denoiser
    from ncdeploy.denoisers.checkpoint import load_model
except ImportError as e:
    raise DependencyError(f"model.pt files need PyTorch: {install('torch')}") from e


MODES = ("eager", "compile", "graphs")


class TorchBackend(Closing):
    """A denoiser, or a model.pt, in eval mode and float32, without gradients.

    device:  "cpu", "cuda" or "cuda:N"; the denoiser is moved there
    allow_module: whether a file may name Python code that makes its network, which is then run (see `load_model`)
    threads: of PyTorch's operators, set for the whole process while the backend runs; None leaves them alone
    mode:    "eager"; "compile", by torch.compile for any batch, whose first calls take long; "graphs", replayed as CUDA
             graphs, on a GPU only, see `torch_graphs`

    On a GPU, float32 is float32: TensorFloat-32 is off while the backend runs.

    Raises FileError for a file that cannot be opened, BackendError for a device that is not there, InputError for a
    mode that does not exist or does not fit the device.
    """

    def __init__(
        self,
        model: Denoiser | str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
        allow_module: bool = False,
        mode: str = "eager",
    ) -> None:
        self._device = _device(device)
        if mode not in MODES:
            raise InputError(f"mode: got {mode!r}, expected one of {', '.join(MODES)}")
        if mode == "graphs" and self._device.type != "cuda":
            raise InputError("mode: CUDA graphs need --device cuda; on the CPU there are eager and compile")
        denoiser = model if isinstance(model, Denoiser) else load_model(model, allow_module=allow_module)
        self._model: Denoiser | None = denoiser.to(self._device).eval()
        self._run: Any = self._model
        self.sizes: CallSizes | None = None
        if mode == "compile":
            # The compiler advises TensorFloat-32, which is off on purpose.
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
            self._run = torch.compile(self._model, dynamic=True)
        elif mode == "graphs":
            self.sizes = CallSizes()
            self._run = GraphedModule(self._model, capture, self.sizes)
        self._info = denoiser.info
        self._threads, self._process = threads, os.getpid()
        self._name = (
            f"torch {torch.__version__} ({', '.join([str(self._device), *([mode] if mode != 'eager' else [])])})"
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def name(self) -> str:
        return self._name

    @property
    def like(self) -> Any:
        return torch.zeros((), device=self._device) if self._device.type == "cuda" else None

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

        guidance: float32 [B] for a model that takes it (info.guidance), 1 in every row if None.
        conditions, sample: of a model that has some, as at the top of `ncdeploy.backends.base`.
        NumPy arrays give a NumPy array; tensors must be on the backend's device and give a tensor there.
        Raises InputError for inputs that do not fit, BackendError when PyTorch fails or the backend is closed.
        """
        check_process(self._name, self._process)
        given = check_inputs(self._info, x, sigma, labels, guidance, conditions, sample)
        if self._model is None:
            raise BackendError(f"{self._name}: the engine was closed; open it again")
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        if self._model.training:  # the caller may have gone on training it
            self._model.eval()
        numpy = isinstance(x, np.ndarray)
        inputs = {name: self._tensor(name, a, numpy) for name, a in given.items()}
        if self._info.conditions:
            inputs["conditions"] = {c.name: inputs.pop(c.name) for c in self._info.conditions}
        try:
            with torch.inference_mode(), self._on_device():
                denoised = self._run(inputs.pop("x"), inputs.pop("sigma"), inputs.pop("labels", None), **inputs)
        except (RuntimeError, MemoryError) as e:
            reason = (str(e).strip() or type(e).__name__).splitlines()[0]
            full = isinstance(e, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in reason
            kind = OutOfMemoryError if full else BackendError
            raise kind(f"{self._name} failed on a batch of {len(x)}: {reason}") from e
        # A copy: models may return a view of their input, graphs write to the same place again, and inference tensors
        # cannot be written to by the caller.
        owned = denoised.clone()
        return owned.cpu().numpy() if numpy else owned

    def close(self) -> None:
        self._model = self._run = None

    def _on_device(self) -> contextlib.AbstractContextManager[Any]:
        """The device current, and convolutions without TensorFloat-32, which PyTorch uses by default; matrix products
        are without it."""
        context = contextlib.ExitStack()
        if self._device.type == "cuda":
            context.enter_context(torch.cuda.device(self._device))
            context.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        return context

    def _tensor(self, name: str, array: Any, numpy: bool) -> Any:
        if isinstance(array, np.ndarray) != numpy:
            raise InputError(f"{name}: got {type(array).__name__}; give all inputs as NumPy arrays or all as tensors")
        if numpy:
            writable = array if array.flags.writeable and min(array.strides, default=1) > 0 else array.copy()
            return torch.from_numpy(writable).to(self._device)
        if array.device != self._device:
            raise InputError(f"{name}: is on {array.device}; this engine runs on {self._device}")
        tensor: torch.Tensor = array
        return tensor


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"device: got {name!r}, expected cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise BackendError(
            f"device {name}: PyTorch sees {count} CUDA devices; use --device cpu, or see ncdeploy doctor"
        )
    return torch.device("cuda", int(index or 0))


def open_file(path: str | os.PathLike[str], opening: Opening) -> TorchBackend:
    """A model.pt or .safetensors for `open_engine`."""
    if opening.providers is not None:
        raise InputError(f"providers: {path} runs in PyTorch, which has none; choose with device instead")
    if opening.info is not None:
        raise InputError(f"{path} describes itself; leave out the options that describe the model")
    return TorchBackend(
        path, device=opening.device, threads=opening.threads, allow_module=opening.allow_module,
        mode=opening.mode or "eager",
    )  # fmt: skip
