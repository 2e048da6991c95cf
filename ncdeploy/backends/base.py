"""The one contract of every runtime: a backend is a callable denoiser that knows its model.

    denoised = backend(x, sigma)            x float32 [B, *shape], sigma float32 [B]
    denoised = backend(x, sigma, labels)    labels int64 [B]
    denoised = backend(x, sigma, labels, guidance)    guidance float32 [B], where info.guidance; without it 1
    denoised = backend(x, sigma, conditions={"obs": obs}, sample=sample)    where info.conditions: [S, *shape] each, and
                                                      int64 [B] in 0 .. S - 1 that says whose each row is

Each row has its own sigma. The result is a fresh array that the caller owns. A backend whose calls cost a set-up
for every number of rows says so by `sizes`, see `sampling.callsizes`; it takes any number all the same.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from ncdeploy.errors import BackendError, InputError
from ncdeploy.modelinfo import ModelInfo

if TYPE_CHECKING:
    from ncdeploy.backends.parts import PartEngine


class Backend(Protocol):
    """A loaded model, called as D(x, sigma[, labels[, guidance]]) with x [B, *shape] and sigma [B] in float32, which
    returns a fresh [B, *shape]; where `info.conditions` lists some, also with `conditions`, {name: [S, *shape]}, and
    `sample`, int64 [B], that says whose each row is.

    Attributes:
        encoder, decoder: of an engine that came out of a bundle with them, see `ncdeploy.backends.parts`
    """

    encoder: "PartEngine | None"
    decoder: "PartEngine | None"

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        ...

    @property
    def name(self) -> str:
        """What runs it and where, for reports."""
        ...

    @property
    def like(self) -> Any:
        """An array of the kind that suits the backend, for `sample(like=...)`: a tensor on its GPU, where PyTorch is
        there to make one, so that the state never leaves the device; None for NumPy."""
        ...

    def __call__(
        self,
        x: Any,
        sigma: Any,
        labels: Any = None,
        guidance: Any = None,
        *,
        conditions: Mapping[str, Any] | None = None,
        sample: Any = None,
    ) -> Any: ...

    def close(self) -> None:
        """Release device memory and files; calling the backend afterwards is an error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a file is to be opened: the arguments of `ncdeploy.open_engine`, which documents them.

    Whoever opens a kind of file refuses those that have no meaning for it, with InputError.
    """

    device: str = "cpu"
    threads: int | None = None
    providers: Sequence[str] | None = None
    info: ModelInfo | None = None
    allow_module: bool = False
    mode: str | None = None


class Closing(ABC):
    """`with open_engine(...) as engine:` closes it at the end."""

    encoder: "PartEngine | None" = None
    decoder: "PartEngine | None" = None

    @abstractmethod
    def close(self) -> None:
        """Release what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def tensor_on(device: str) -> Any:
    """A float32 scalar of PyTorch's on a GPU, "cuda" or "cuda:N"; None without PyTorch or where it sees no GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch.zeros((), device=device) if torch.cuda.is_available() else None


def check_inputs(
    info: ModelInfo,
    x: Any,
    sigma: Any,
    labels: Any = None,
    guidance: Any = None,
    conditions: Mapping[str, Any] | None = None,
    sample: Any = None,
) -> dict[str, Any]:
    """The inputs of a call by the names of their ports, in the model's order, with weights of guidance where it takes
    some; works on NumPy arrays and torch tensors. Raises InputError when an input does not fit the model.

    The values of tensors on a GPU are not looked at: that would wait for the device, in every call.
    """
    for name, value in (("x", x), ("sigma", sigma)):
        if not hasattr(value, "dtype"):
            raise InputError(f"{name}: got {type(value).__name__}, expected an array of float32")
    shape = tuple(x.shape)
    if _name(x.dtype) != "float32" or shape[1:] != info.shape or len(shape) != len(info.shape) + 1 or shape[0] < 1:
        wanted = ", ".join(map(str, info.shape))
        raise InputError(f"x: got {_name(x.dtype)} {shape}; this model takes float32 (batch, {wanted}) with batch >= 1")
    if _name(sigma.dtype) != "float32" or tuple(sigma.shape) != (shape[0],):
        raise InputError(
            f"sigma: got {_name(sigma.dtype)} {tuple(sigma.shape)}; expected float32 ({shape[0]},), one per row"
        )
    if on_host(sigma) and not (sigma.min() > 0 and sigma.max() < np.inf):  # also catches NaN
        raise InputError("sigma: every value must be positive and finite")
    _check_guidance(info, shape[0], guidance)
    _check_labels(info, shape[0], labels)
    _check_conditions(info, shape[0], conditions, sample)
    given = {"x": x, "sigma": sigma, "labels": labels, **(conditions or {}), "sample": sample}
    if info.guidance:
        given["guidance"] = sigma * 0 + 1 if guidance is None else guidance
    return {port.name: given[port.name] for port in info.inputs}


def _check_labels(info: ModelInfo, batch: int, labels: Any) -> None:
    if info.num_classes == 0:
        if labels is not None:
            raise InputError("labels: this model is unconditional and takes none")
        return
    if labels is None:
        raise InputError(f"labels: this model needs them, {info.describe_labels()}")
    if _name(labels.dtype) != "int64" or tuple(labels.shape) != (batch,):
        raise InputError(f"labels: got {_name(labels.dtype)} {tuple(labels.shape)}; expected int64 ({batch},)")
    if on_host(labels) and (labels.min() < 0 or labels.max() >= len(info.labels)):
        raise InputError(
            f"labels: every value must lie in 0 .. {len(info.labels) - 1}; it takes {info.describe_labels()}"
        )


def _check_conditions(info: ModelInfo, batch: int, given: Mapping[str, Any] | None, sample: Any) -> None:
    names = [condition.name for condition in info.conditions]
    if sorted(given or {}) != sorted(names) or (sample is None) != (not names):
        takes = ", ".join(c.describe() for c in info.conditions)
        wanted = f"this model takes {takes}, and sample, whose each row is" if names else "this model takes none"
        raise InputError(f"conditions: got {', '.join(given or {}) or 'none'}; {wanted}")
    if given is None or not names:
        return
    samples = len(given[names[0]])
    for condition in info.conditions:
        value, wanted_shape = given[condition.name], (samples, *condition.shape)
        if _name(value.dtype) != condition.dtype or tuple(value.shape) != wanted_shape:
            found = f"{_name(value.dtype)} {tuple(value.shape)}"
            raise InputError(f"{condition.name}: got {found}; expected {condition.dtype} {wanted_shape}, one a sample")
    if _name(sample.dtype) != "int64" or tuple(sample.shape) != (batch,):
        raise InputError(f"sample: got {_name(sample.dtype)} {tuple(sample.shape)}; expected int64 ({batch},)")
    if on_host(sample) and (sample.min() < 0 or sample.max() >= samples):
        raise InputError(f"sample: every value must lie in 0 .. {samples - 1}, the samples of the conditions")


def _check_guidance(info: ModelInfo, batch: int, guidance: Any) -> None:
    if guidance is None:
        return
    if not info.guidance:
        raise InputError("guidance: this model takes none; ncdeploy.guidance.Guided adds it outside")
    if not hasattr(guidance, "dtype") or _name(guidance.dtype) != "float32" or tuple(guidance.shape) != (batch,):
        raise InputError(f"guidance: expected float32 ({batch},), one weight per row")
    if on_host(guidance) and not (guidance.min() > -np.inf and guidance.max() < np.inf):  # also catches NaN
        raise InputError("guidance: every weight must be finite")


def check_process(name: str, opened_in: int) -> None:
    """Raise BackendError in a process that was forked off the one that opened an engine: the runtime's threads stayed
    there, and a call would wait for them for ever."""
    if os.getpid() != opened_in:
        raise BackendError(
            f"{name}: was opened before this process was forked off; open it in the process that uses it, or start "
            "that one with the method spawn, multiprocessing.get_context('spawn')"
        )


def on_host(array: Any) -> bool:
    """Whether an array's values can be read without waiting for a device."""
    return isinstance(array, np.ndarray) or array.device.type == "cpu"


@cache
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
