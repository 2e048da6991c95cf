"""Any PyTorch module as a network, made by a Python function that its config names.

Making such a network imports and runs that function, so `build` and `load_model` do it only where the caller says
that the code is trusted.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ncdeploy.errors import DependencyError, InputError
from ncdeploy.ports import Condition

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class ForeignModuleConfig:
    """How a module is made again.

    factory:       "package.module:function", a function without arguments that returns the module
    drop_variance: the module returns twice the channels, a learned variance behind the mean, which is left out
    """

    factory: str
    drop_variance: bool = False


class ForeignModule(nn.Module):
    """x [B, *shape], noise [B], labels int64 [B] or None -> [B, *shape], computed by the module inside.

    The module is called as module(x, noise), or module(x, noise, labels) where the model has classes, with each
    condition as a keyword of its name; it may return a tensor, a tuple whose first entry is one, or an object with
    `.sample`. Conditions come one a row, [B, *shape]. A module whose `forward` has a parameter `sample` gets them once
    a sample, [S, *shape], and int64 sample [B], which says whose each row is: so it can compute once what depends on
    them alone, keys and values of a prompt for example, and gather that.

    factory:       what makes the module again; without one the model can be exported, but not saved
    drop_variance: it returns [B, 2 C, ...], of which the first C are the output

    Raises InputError if the module cannot be called so or returns another shape.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, ...],
        *,
        num_classes: int = 0,
        conditions: tuple[Condition, ...] = (),
        factory: str | None = None,
        drop_variance: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"kind": type(module).__name__ if factory is None else "module"}
        if factory is not None:
            self.config["factory"] = factory
        if drop_variance:
            self.config["drop_variance"] = True
        self.drop_variance = drop_variance
        self.module = module
        self.classes = num_classes > 0
        self.gathers = "sample" in inspect.signature(module.forward).parameters
        self._try(shape, conditions)

    @classmethod
    def make(
        cls,
        shape: tuple[int, ...],
        config: ForeignModuleConfig,
        num_classes: int = 0,
        conditions: tuple[Condition, ...] = (),
    ) -> "ForeignModule":
        """Import and run the factory. Raises InputError where that fails or returns anything but a module."""
        return cls(
            run_factory(config.factory), shape, num_classes=num_classes, conditions=conditions, factory=config.factory,
            drop_variance=config.drop_variance,
        )  # fmt: skip

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        output = self._whole(x, noise, labels, conditions, sample)
        return output[:, : x.shape[1]] if self.drop_variance else output

    def _whole(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        given: dict[str, Any] = {}
        if conditions is not None and sample is not None:
            gathers = self.gathers
            given = {name: v if gathers else v.index_select(0, sample) for name, v in conditions.items()}
            if gathers:
                given["sample"] = sample
        output = self.module(x, noise, labels, **given) if self.classes else self.module(x, noise, **given)
        output = getattr(output, "sample", output)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    @torch.no_grad()
    def _try(self, shape: tuple[int, ...], conditions: tuple[Condition, ...]) -> None:
        names = ["x", "noise"] + ["labels"] * self.classes + [f"{c.name}=..." for c in conditions]
        call = f"module({', '.join([*names, *(['sample=...'] if conditions and self.gathers else [])])})"
        parameter = next(self.module.parameters(), torch.zeros(()))
        dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
        x = torch.zeros((2, *shape), dtype=dtype, device=parameter.device)
        noise, labels = torch.ones_like(x.flatten(1)[:, 0]), torch.zeros(2, dtype=torch.int64, device=x.device)
        given: tuple[Any, ...] = ()
        if conditions:
            values = {c.name: torch.from_numpy(np.array(c.none()[None])).to(x.device) for c in conditions}
            given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()}, labels
        modes = {part: part.training for part in self.module.modules()}
        self.module.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                output = self._whole(x, noise, labels, *given)
        except Exception as e:  # whatever the module's code raises
            reason = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise InputError(f"module: {call} with x {tuple(x.shape)} and noise (2,) failed: {reason}") from e
        finally:
            for part, mode in modes.items():
                part.training = mode
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        twice = (2, 2 * shape[0], *shape[1:])
        if got != (twice if self.drop_variance else tuple(x.shape)):
            hint = "; if half of that is a learned variance, give --learned-variance drop" if got == twice else ""
            expected = "twice the channels of x" if self.drop_variance else "the shape of x"
            raise InputError(f"module: {call} with x {tuple(x.shape)} returned {got}, expected {expected}{hint}")


def run_factory(name: str) -> nn.Module:
    """Import "package.module:function", call the function, and return the module it makes.

    The current folder is searched first, as with `python -m`. Runs foreign code: for trusted names alone.
    Raises InputError for a name that leads nowhere and for anything but a module, DependencyError where the code
    itself imports a package that is not installed.
    """
    if not is_factory(name):
        raise InputError(f"factory: got {name!r}, expected a name like package.module:function")
    where, _, path = name.partition(":")
    with _searching(Path.cwd()):
        try:
            found: Any = importlib.import_module(where)
        except ModuleNotFoundError as e:
            if e.name is None or not (where == e.name or where.startswith(e.name + ".")):
                raise DependencyError(f"factory {name}: needs {e.name}, which is not installed: pip install it") from e
            raise InputError(
                f"factory {name}: there is no module {e.name!r}; run in its folder, or put that on PYTHONPATH"
            ) from e
        except Exception as e:  # foreign code may fail in any way while it is imported
            raise InputError(f"factory {name}: importing it failed: {_reason(e)}") from e
        for part in path.split("."):
            if not hasattr(found, part):
                raise InputError(f"factory {name}: {where} has no {part!r}")
            found = getattr(found, part)
        made = _call(found, name)
    if not isinstance(made, nn.Module):
        raise InputError(f"factory {name}: returned {type(made).__name__}, expected a torch.nn.Module")
    return made


def is_factory(name: str) -> bool:
    """Whether this reads like "package.module:function"."""
    return _NAME.fullmatch(name) is not None


def _call(function: Any, name: str) -> Any:
    if not callable(function):
        raise InputError(f"factory {name}: is a {type(function).__name__}, expected a function that makes the module")
    try:
        return function()
    except Exception as e:  # foreign code again
        raise InputError(f"factory {name}: calling it without arguments failed: {_reason(e)}") from e


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


@contextmanager
def _searching(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
