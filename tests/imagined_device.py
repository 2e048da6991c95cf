"""A device that does not exist, for the drivers: its tensors are kept on the CPU, and are as strict as those of a GPU.

An operator whose tensors lie on both devices raises, but for the few that PyTorch allows (scalars, indices, copies),
and so does a conversion to NumPy. Every copy to the host is noted in `COPIES`, in bytes. Importing this changes the
process: PyTorch then has a device "imagined".
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("imagined")

COPIES: list[int] = []


class Imagined(torch.Tensor):
    """A tensor on the device; `held` is where its values are."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Imagined":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device("imagined", 0),
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with Device():
            return func(*args, **(kwargs or {}))


class Device(TorchDispatchMode):
    """While it is entered, the device exists."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name().removeprefix("aten::"), dict(kwargs or {})
        tensors = [a for a in tree_iter((args, kwargs)) if isinstance(a, torch.Tensor)]
        inside = [a for a in tensors if isinstance(a, Imagined)]
        copying = name.startswith(("_to_copy", "copy_"))
        if inside and not copying:
            _check(name, args, [a for a in tensors if not isinstance(a, Imagined) and a.ndim > 0])
        on_device = bool(inside) if kwargs.get("device") is None else torch.device(kwargs["device"]).type == "imagined"
        if name.startswith("copy_"):
            on_device = isinstance(args[0], Imagined)
        if inside and (name == "_local_scalar_dense" or (copying and not on_device)):
            COPIES.append(inside[0].numel() * inside[0].element_size())
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")

        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        known = {id(a.held): a for a in inside}  # what an operator changed in place stays the same tensor

        def place(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not on_device:
                return value
            return known[id(value)] if id(value) in known else Imagined(value)

        return tree_map(place, out)


def _check(name: str, args: Any, on_host: list[torch.Tensor]) -> None:
    indices = name.startswith(("index.", "index_put", "_index_put_impl_", "_unsafe_index"))
    allowed = indices and isinstance(args[0], Imagined) and all(a.dtype in (torch.int64, torch.bool) for a in on_host)
    if on_host and not allowed:
        raise RuntimeError(f"{name}: a tensor of shape {tuple(on_host[0].shape)} is on the CPU, others on the device")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Imagined) else value
