"""Runtimes behind one contract, chosen by what a file contains. Never imports torch itself."""

import os
from collections.abc import Sequence
from importlib import import_module

from ncdeploy.backends.base import Backend, Opening
from ncdeploy.backends.parts import PartEngine
from ncdeploy.errors import InputError
from ncdeploy.formats.bundle import Bundle, open_bundle
from ncdeploy.formats.describe import describes_itself
from ncdeploy.formats.filetype import Kind, detect, is_bundle
from ncdeploy.modelinfo import ModelInfo

__all__ = ["Backend", "open_engine"]

# Kind of file -> the module here whose open_file(path, opening) opens it; imported when there is such a file.
OPENERS = {
    Kind.ONNX: "onnxruntime",
    Kind.TENSORRT: "tensorrt.backend",
    Kind.TORCH: "torch",
}


def open_engine(
    path: str | os.PathLike[str] | Bundle,
    *,
    device: str = "cpu",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    info: ModelInfo | None = None,
    allow_module: bool = False,
    mode: str | None = None,
) -> Backend:
    """Load a model.pt, .safetensors, .onnx or .plan, whatever its name, as a callable denoiser D(x, sigma[, labels]).

    A bundle or its folder opens its engine; of a folder, every file is checked first. Its encoder and decoder, which
    ONNX Runtime runs, are `.encoder` and `.decoder` of the engine, and `sample` uses them.

    Args:
        device: "cpu", "cuda" or "cuda:N"; there is no fallback from one to the other. A .plan runs on CUDA alone, which
            "cpu", the default, then means. For an .onnx also "tensorrt" or "tensorrt:N", the TensorRT inside ONNX
            Runtime, which needs the version that it was built for
        threads: CPU threads inside one operator; None = the runtime's default
        providers: ONNX Runtime execution providers in order of preference, instead of `device`
        info: what the model is, for an ONNX file that does not say so itself (see `info_from_flags`)
        allow_module: whether a model.pt may name Python code that makes its network, which is then imported and run
        mode: of model.pt, "eager", "compile" or "graphs", see `TorchBackend`; of a .plan, "graphs" (CUDA graphs, the
            default) or "eager"

    Raises:
        FileError: for files that cannot be opened
        BackendError: for a device or provider that is not there or refuses the model
        DependencyError: when the runtime is not installed
        InputError: for options that do not fit
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads: got {threads}, expected at least 1, or none for the runtime's default")
    if not isinstance(path, Bundle) and is_bundle(path):
        path = open_bundle(path)
    file = path.engine if isinstance(path, Bundle) else path
    if isinstance(path, Bundle):
        if info is not None:
            raise InputError(f"{path.path} describes itself; leave out the options that describe the model")
        info = None if describes_itself(path.engine) else path.info
    opening = Opening(
        device=device, threads=threads, providers=providers, info=info, allow_module=allow_module, mode=mode
    )
    opened: Backend = import_module(f"{__name__}.{OPENERS[detect(file)]}").open_file(file, opening)
    if isinstance(path, Bundle):
        for role, part in path.parts.items():
            graph = PartEngine(path.path / part.file, part, path.info, device=device, threads=threads)
            setattr(opened, role, graph)
    return opened
