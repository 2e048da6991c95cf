"""What a run copies from the device to the host, counted in two ways.

- `HostReads` watches Python: every way by which a torch tensor becomes a host value (cpu, numpy, item, bool, ...). It
  works without a GPU, where the same code runs on CPU tensors.
- `device_copies` watches the device: the copies in the profile that PyTorch's profiler takes of everything that runs in
  the process, ONNX Runtime and TensorRT included.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_READS = frozenset(("__array__", "numpy", "item", "tolist", "__bool__", "__int__", "__float__", "__index__"))
_COPY = re.compile(r"Memcpy (\w+)")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """direction: DtoH, HtoD, DtoD ...; bytes: of one copy."""

    direction: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What the device did: its copies, and how many kernels ran."""

    copies: tuple[Copy, ...]
    kernels: int


class HostReads(TorchFunctionMode):
    """A context in which every tensor of `device` ("cuda" or "cpu") that is read to the host is noted in `copies`."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.copies: list[Copy] = []
        self._read: list[Any] = []  # on a CPU .cpu() returns the tensor itself, whose further reading is no copy

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        moved = name == "cpu" or (name == "to" and _asks_for_cpu(args[1:], kwargs or {}))
        if not (moved or name in _READS) or args[0].device.type != self.device:
            return result
        if not any(args[0] is read for read in self._read):
            self.copies.append(Copy(direction="DtoH", bytes=args[0].numel() * args[0].element_size()))
        if moved:
            self._read.append(result)
        return result


def _asks_for_cpu(args: Iterable[Any], kwargs: dict[str, Any]) -> bool:
    return any(str(value) == "cpu" for value in (*args, *kwargs.values()) if isinstance(value, str | torch.device))


def device_copies(run: Callable[[], Any]) -> Activity | None:
    """The device's activity while run() runs and what it started finishes; None where the profiler sees no device."""
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        found = read_trace(json.loads(file.read_text()))
    return found if found.kernels else None


def read_trace(trace: dict[str, Any]) -> Activity:
    """The copies and kernels in a trace as PyTorch's profiler writes it.

    Raises KeyError for a copy that does not tell its size: then nothing could be said of it.
    """
    copies, kernels = [], 0
    for event in trace["traceEvents"]:
        if event.get("cat") == "kernel":
            kernels += 1
        elif event.get("cat") == "gpu_memcpy":
            direction = _COPY.match(event["name"])
            copies.append(
                Copy(direction=direction[1] if direction else event["name"], bytes=int(event["args"]["bytes"]))
            )
    return Activity(copies=tuple(copies), kernels=kernels)
