"""What the measurements ran on."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

_ASKED = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit",
    "temperature.gpu",
)  # fmt: skip


def machine(device: str) -> dict[str, Any]:
    """The record of results.json; see the package's docstring."""
    gpu = torch.cuda.get_device_properties(0) if device == "cuda" else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "gpu": gpu.name if gpu else None,
        "gpu_bytes": gpu.total_memory if gpu else None,
        "compute_capability": f"{gpu.major}.{gpu.minor}" if gpu else None,
        "onnxruntime": _version("onnxruntime-gpu") or _version("onnxruntime"),
        "providers": _providers(),
        "tensorrt": next(filter(None, map(_version, ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"))), None),
        "onnx": _version("onnx"),
        "smi": _smi(),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _providers() -> list[str]:
    try:
        import onnxruntime
    except Exception:  # a broken native library raises anything
        return []
    return list(onnxruntime.get_available_providers())


def _smi() -> dict[str, str]:
    """What nvidia-smi says of the first GPU; nothing where it is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = [tool, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_ASKED, (word.strip() for word in answer.split(",")), strict=False))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
