"""What runs a network: the runtimes, their modes and precisions, why one cannot be had here, and how to open it."""

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ncdeploy.backends import Backend, open_engine
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import weights_digest
from ncdeploy.denoisers.base import Denoiser

MAX_SAMPLES, MAX_WINDOW, WINDOW = 16, 256, 64  # what TensorRT engines are built for
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """runtime: torch, onnxruntime or tensorrt; mode: eager, compile or graphs (CUDA graphs); precision: fp32, tf32,
    fp16 or bf16."""

    runtime: str
    mode: str = "eager"
    precision: str = "fp32"

    @property
    def name(self) -> str:
        mode = "" if self.runtime == "onnxruntime" else f" {self.mode}"
        return f"{self.runtime}{mode} {self.precision}"


def missing(setting: Setting, device: str, *, quick: bool) -> str | None:
    """Why a setting cannot be measured here, None if it can."""
    if setting.mode == "compile" and quick:
        return "left out of a quick run: compiling takes longer than the rest of it"
    if (setting.mode == "graphs" or setting.runtime == "tensorrt") and device != "cuda":
        return "needs a CUDA device"
    if setting.runtime == "torch":
        return "TensorFloat-32 needs a CUDA device" if setting.precision == "tf32" and device != "cuda" else None
    for package in ("onnx", "onnxscript", setting.runtime):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if setting.runtime == "onnxruntime":
        import onnxruntime

        if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return f"onnxruntime {onnxruntime.__version__} has no CUDA provider; onnxruntime-gpu has"
        if device == "cpu" and setting.precision in ("bf16", "tf32"):
            return f"ONNX Runtime has no {setting.precision} on a CPU"
    return None


def open_setting(setting: Setting, model: Denoiser, folder: Path, device: str) -> Backend:
    """The network in a runtime; graphs and engines are kept in `folder`, named after the network's weights.

    Raises what export, TensorRT's build and the backends raise.
    """
    if setting.runtime == "torch":
        return TorchBackend(InPrecision(model, setting.precision), device=device, mode=setting.mode)
    name = f"{'x'.join(map(str, model.info.shape))}-{weights_digest(model.state_dict())[:12]}-{setting.precision}"
    graph = folder / f"{name}.onnx"
    if not graph.is_file():
        from ncdeploy.export import export_onnx

        # Not compared on the CPU, which takes its time: each engine is compared with PyTorch where it runs.
        export_onnx(model, graph, precision=setting.precision, verify=False)
    if setting.runtime == "onnxruntime":
        return open_engine(graph, device=device)
    from ncdeploy.build.engine import build_engine
    from ncdeploy.formats.profiles import profiles_for
    from ncdeploy.formats.sidecar import Options

    plan = graph.with_suffix(".plan")
    profiles = profiles_for(MAX_SAMPLES, MAX_WINDOW, WINDOW)
    build_engine(graph, plan, profiles, Options(), command="python -m benchmarks.gpu", verify=False)
    return open_engine(plan, mode=setting.mode)


class InPrecision(Denoiser):
    """A copy of a denoiser, its convolutions and linear layers in half precision, or in TensorFloat-32.

    The rest stays float32, as in the graphs that are exported: it is PyTorch's rule of automatic mixed precision.
    """

    def __init__(self, denoiser: Denoiser, precision: str) -> None:
        super().__init__(denoiser.info, denoiser.config)
        self.inner = copy.deepcopy(denoiser)
        self.precision = precision
        if precision in _HALF:
            for module in self.inner.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(_HALF[precision])

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        denoised: Tensor
        if self.precision == "tf32":
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
                denoised = self.inner(x, sigma, labels)
        elif self.precision in _HALF:
            with torch.autocast(x.device.type, _HALF[self.precision]):
                denoised = self.inner(x, sigma, labels)
        else:
            denoised = self.inner(x, sigma, labels)
        return denoised


def most_rows(engine: Any) -> int | None:
    """Most rows of one call, None without a bound."""
    return getattr(engine, "max_rows", None)
