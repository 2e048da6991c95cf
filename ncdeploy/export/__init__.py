"""From a PyTorch denoiser to a self-describing, verified ONNX file. Needs PyTorch and onnx."""

from ncdeploy.errors import DependencyError, install

try:
    import torch  # noqa: F401
except ImportError as e:
    raise DependencyError(f"exporting needs PyTorch: {install('torch')}") from e

from ncdeploy.export.denoiser import Export, export_onnx

__all__ = ["Export", "export_onnx"]
