"""NumPy arrays and torch tensors alike: the array-API namespace of an array, its device, its way to the host."""

import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError

_SAME = [
    "all", "arange", "asarray", "broadcast_to", "clip", "concat", "cos", "empty_like", "finfo", "float32", "float64",
    "full", "full_like", "int64", "isfinite", "log", "matmul", "moveaxis", "ones", "ones_like", "reshape", "sin",
    "sqrt", "stack", "sum", "where", "zeros",
]  # fmt: skip
_TILE = 64  # rows and columns of a matrix that are multiplied at once
_UNTHREADED = 1 << 18  # multiplications up to which OpenBLAS, NumPy's own BLAS, starts no threads


def namespace(array: Any) -> Any:
    """The array-API functions for a NumPy array or a torch tensor. Raises InputError for anything else."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _torch()
    raise InputError(f"like: got {type(array).__name__}; expected a NumPy array or a torch tensor")


@cache
def _torch() -> ModuleType:
    """What the drivers use of the array API, under its names."""
    torch = sys.modules["torch"]
    functions = ModuleType("torch")
    vars(functions).update({name: getattr(torch, name) for name in _SAME})
    vars(functions).update(astype=torch.Tensor.to, vecdot=torch.linalg.vecdot)
    return functions


def suited_to(denoise: Any) -> Any:
    """A scalar of the kind and device that a callable works on: those of a PyTorch module, else NumPy float32."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(denoise, torch.nn.Module):
        return np.zeros((), np.float32)
    weight = next((p for p in denoise.parameters() if p.dtype in (torch.float32, torch.float64)), None)
    return torch.zeros(()) if weight is None else weight.new_zeros(())


def evaluate(denoise: Callable[..., Any], *inputs: Any, **given: Any) -> Any:
    """D of some arrays and what else it is given, without PyTorch keeping what it would take to differentiate it."""
    if isinstance(inputs[0], np.ndarray):
        return denoise(*inputs, **given)
    with sys.modules["torch"].no_grad():
        out = denoise(*inputs, **given)
    return out.detach() if hasattr(out, "detach") else out


def device_of(array: Any) -> Any:
    """The device of an array, None where the library has no such notion."""
    return getattr(array, "device", None)


def lower_matmul(xp: Any, lower: Any, x: Any) -> Any:
    """lower [..., k, k], zero above its diagonal, times x [..., k, d].

    With NumPy in pieces so small that BLAS multiplies them in the calling thread. Threads of its own would spin on
    behind it and fight for the cores with those of an engine on the CPU, at a multiple of the time of both.
    """
    if xp is not np:
        return xp.matmul(lower, x)
    k, d = x.shape[-2:]
    tile = max(1, min(k, _TILE))
    columns = _UNTHREADED // tile**2
    if k == tile and d <= columns:
        return np.matmul(lower, x)
    out = np.empty((*np.broadcast_shapes(lower.shape[:-2], x.shape[:-2]), k, d), x.dtype)
    for top in range(0, k, tile):
        rows = slice(top, top + tile)
        for left in range(0, d, columns):
            part = slice(left, left + columns)
            target = out[..., rows, part]
            np.matmul(lower[..., rows, rows], x[..., rows, part], out=target)
            for before in range(0, top, tile):
                inner = slice(before, before + tile)
                target += np.matmul(lower[..., rows, inner], x[..., inner, part])
    return out


def to_host(array: Any) -> NDArray[Any]:
    """An array of any library and device as a NumPy array."""
    return read_back(array)()


def read_back(array: Any) -> Callable[[], NDArray[Any]]:
    """Start to bring an array to the host; what is returned waits for it and gives it as a NumPy array.

    From a GPU it comes through pinned memory, so that the host waits neither here nor for what it starts later.
    """
    if not getattr(array, "is_cuda", False):
        host = np.asarray(array.cpu() if hasattr(array, "cpu") else array)
        return lambda: host
    cuda = sys.modules["torch"].cuda
    pinned = array.new_empty(array.shape, device="cpu", pin_memory=True)
    pinned.copy_(array, non_blocking=True)
    arrived = cuda.Event()
    arrived.record(cuda.current_stream(array.device))

    def wait() -> NDArray[Any]:
        arrived.synchronize()
        return np.asarray(pinned)

    return wait
