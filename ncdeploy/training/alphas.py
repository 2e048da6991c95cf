"""Drawing alpha = -2 ln tau, the logarithm of the signal-to-noise ratio, for integrals over all noise levels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncdeploy.errors import InputError


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """One uniform draw in each of `count` equal parts of [0, 1), float64 [count], increasing."""
    return (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count


@dataclass(frozen=True, kw_only=True)
class LogisticAlphas:
    """Importance distribution of alpha = -2 ln tau: logistic(loc, scale) cut at loc +- clip * scale."""

    loc: float
    scale: float
    clip: float = 3.0

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.clip > 0 and math.isfinite(self.loc)):
            raise InputError(
                f"alphas: got loc {self.loc}, scale {self.scale}, clip {self.clip}; expected scale, clip > 0"
            )

    @classmethod
    def within(cls, tau_min: float, tau_max: float, *, clip: float = 3.0) -> "LogisticAlphas":
        """The distribution that reaches exactly from tau_max to tau_min."""
        if not 0 < tau_min < tau_max < math.inf:
            raise InputError(f"tau range: got {tau_min} .. {tau_max}, expected 0 < min < max")
        return cls(loc=-math.log(tau_min * tau_max), scale=math.log(tau_max / tau_min) / clip, clip=clip)

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """tau and the importance weight dalpha / q(alpha) at quantiles u in [0, 1], float64, of u's shape."""
        low = 1 / (1 + math.exp(self.clip))
        v = torch.logit(low + (1 - 2 * low) * u.double())
        weight = self.scale * math.tanh(self.clip / 2) / (v.sigmoid() * (-v).sigmoid())
        return torch.exp(-(self.loc + self.scale * v) / 2), weight
