"""From a PyTorch denoiser to a self-describing, verified ONNX file. Needs PyTorch and onnx."""

from ncdeploy.errors import DependencyError

try:
    import torch  # noqa: F401
except ImportError as e:
    raise DependencyError("exporting needs PyTorch: pip install 'ncdeploy[torch]'") from e

from ncdeploy.export.denoiser import Export, export_onnx

__all__ = ["Export", "export_onnx"]
