"""Runtimes behind one contract, chosen by what a file contains. Never imports torch itself."""

import os
from collections.abc import Sequence

from ncdeploy.backends.base import Backend
from ncdeploy.backends.filetype import detect
from ncdeploy.errors import BackendError, InputError
from ncdeploy.modelinfo import ModelInfo

__all__ = ["Backend", "open_engine"]


def open_engine(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    info: ModelInfo | None = None,
    allow_module: bool = False,
) -> Backend:
    """Load a model.pt, .safetensors or .onnx, whatever its name, as a callable denoiser D(x, sigma[, labels]).

    device:    "cpu", "cuda" or "cuda:N"; there is no fallback from one to the other
    threads:   CPU threads inside one operator; None = the runtime's default
    providers: ONNX Runtime execution providers in order of preference, instead of `device`
    info:      what the model is, for an ONNX file that does not say so itself (see `info_from_flags`)
    allow_module: whether a model.pt may name Python code that makes its network, which is then imported and run

    Raises FileError for files that cannot be opened, BackendError for a device or provider that is not there or
    refuses the model, DependencyError when the runtime is not installed, InputError for options that do not fit.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads: got {threads}, expected at least 1, or none for the runtime's default")
    kind = detect(path)
    if kind == "onnx":
        from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, device=device, threads=threads, providers=providers, info=info)
    if kind == "tensorrt":
        raise BackendError(
            f"{path}: is a TensorRT engine, which this version does not run; "
            "use the model.onnx it was built from (ncdeploy export model.pt), on the CPU or with --device cuda"
        )
    if providers is not None:
        raise InputError(f"providers: {path} runs in PyTorch, which has none; choose with device instead")
    if info is not None:
        raise InputError(f"{path} describes itself; leave out the options that describe the model")
    from ncdeploy.backends.torch import TorchBackend

    return TorchBackend(path, device=device, threads=threads, allow_module=allow_module)
