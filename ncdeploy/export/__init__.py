"""From a PyTorch denoiser to a self-describing, verified ONNX file. Needs onnx, and PyTorch but for `passes`."""

from typing import TYPE_CHECKING, Any

from ncdeploy.errors import DependencyError, install

if TYPE_CHECKING:
    from ncdeploy.export.denoiser import Export, export_onnx

__all__ = ["Export", "export_onnx"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import torch  # noqa: F401
    except ImportError as e:
        raise DependencyError(f"exporting needs PyTorch: {install('torch')}") from e
    from ncdeploy.export import denoiser

    return getattr(denoiser, name)
