"""Many small models trained at once: every weight is a stack [M, ...], and a step is one of batched matrix products.

A step is that of `ncdeploy.training.Training`, model by model: the same draws, the same Adam, clipping and average.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from ncdeploy.denoisers import Denoiser
from ncdeploy.errors import NumericalError
from ncdeploy.files import atomic_write
from ncdeploy.training import TrainConfig
from ncdeploy.training.denoising import Denoise
from ncdeploy.training.ema import decay_at

Drawn = dict[str, Tensor]


class OneLoss(Protocol):
    """The loss of one model, whose random numbers are drawn apart from it."""

    def draw(self, step: int) -> Drawn: ...

    def loss(self, denoise: Denoise, drawn: Drawn) -> Tensor: ...


class Batched:
    """M models of one architecture, each with its own draws.

    models: their weights as they begin; the first one also lends its forward pass
    losses: one for each model, which differ in what they draw only
    rate:   of learning, at step 0, 1, ...; None: that of the config
    """

    def __init__(
        self,
        models: Sequence[Denoiser],
        losses: Sequence[OneLoss],
        config: TrainConfig,
        *,
        device: str = "cpu",
        rate: Callable[[int], float] | None = None,
        compiled: bool = False,
    ) -> None:
        self.config, self.losses, self.device, self.step = config, losses, torch.device(device), 0
        self.model = models[0].to(self.device)
        self.rate = config.learning_rate if rate is None else rate
        weights = [dict(model.named_parameters()) for model in models]
        self.weights = {
            name: torch.stack([own[name].detach() for own in weights]).to(self.device).requires_grad_()
            for name in weights[0]
        }
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        self.adam = torch.optim.Adam(list(self.weights.values()), lr=config.lr, betas=(0.9, 0.99))
        self._total = torch.compile(self._sum_of_losses) if compiled else self._sum_of_losses

    def _sum_of_losses(self, weights: Drawn, drawn: Drawn) -> Tensor:
        def one(own: Drawn, its: Drawn) -> Tensor:
            return self.losses[0].loss(lambda *inputs: functional_call(self.model, own, inputs), its)

        return vmap(one)(weights, drawn).sum()

    def advance(self) -> None:
        """One step of every model. Raises NumericalError where a gradient is not finite."""
        drawn = [loss.draw(self.step) for loss in self.losses]
        together = {name: torch.stack([d[name] for d in drawn]).to(self.device) for name in drawn[0]}
        self.adam.zero_grad()
        self._total(self.weights, together).backward()
        self._clip()
        for group in self.adam.param_groups:
            group["lr"] = self.rate(self.step)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()), list(self.weights.values()), 1 - decay_at(self.config.ema, self.step)
            )
        self.step += 1

    def _clip(self) -> None:
        """Every model's gradient by its own norm, as torch.nn.utils.clip_grad_norm_ does."""
        gradients = [w.grad for w in self.weights.values() if w.grad is not None]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        if not bool(torch.isfinite(norms).all()):
            raise NumericalError(f"step {self.step + 1}: a gradient is NaN or infinite")
        factors = (self.config.clip / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.reshape(-1, *[1] * (g.ndim - 1)))

    def save(self, path: Path) -> None:
        """Everything that going on needs."""
        state: dict[str, Any] = {"step": self.step, "average": self.average, "adam": self.adam.state_dict()}
        state["weights"] = {name: w.detach() for name, w in self.weights.items()}
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """What `save` wrote."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for name, w in self.weights.items():
                w.copy_(state["weights"][name])
                self.average[name].copy_(state["average"][name])
        self.adam.load_state_dict(state["adam"])
        self.step = state["step"]


def trained(path: Path, into: Denoiser, *, averaged: bool) -> Iterator[Denoiser]:
    """The models of a file that `Batched.save` wrote, one after the other, each in the place of the last."""
    stacks = torch.load(path, map_location="cpu", weights_only=True)["average" if averaged else "weights"]
    for index in range(len(next(iter(stacks.values())))):
        into.load_state_dict({name: stack[index] for name, stack in stacks.items()})
        yield into
