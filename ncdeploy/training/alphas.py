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
    """Importance distribution of alpha = -2 ln tau: logistic(loc, scale), cut at the alphas of tau_max and tau_min."""

    loc: float
    scale: float
    tau_min: float
    tau_max: float

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.loc)):
            raise InputError(f"alphas: got loc {self.loc}, scale {self.scale}; expected scale > 0")
        if not 0 < self.tau_min < self.tau_max < math.inf:
            raise InputError(f"tau range: got {self.tau_min} .. {self.tau_max}, expected 0 < min < max")

    @classmethod
    def within(cls, tau_min: float, tau_max: float) -> "LogisticAlphas":
        """Centred on the range, and cut at three times its scale on either side."""
        if not 0 < tau_min < tau_max < math.inf:
            raise InputError(f"tau range: got {tau_min} .. {tau_max}, expected 0 < min < max")
        loc, scale = -math.log(tau_min * tau_max), math.log(tau_max / tau_min) / 3
        return cls(loc=loc, scale=scale, tau_min=tau_min, tau_max=tau_max)

    @classmethod
    def fitted(cls, variances: Tensor, tau_min: float, tau_max: float) -> "LogisticAlphas":
        """As wide as the data's variances along their principal directions [n], on all of the range (Kong et al. 2023,
        "Information-Theoretic Diffusion", section 4): loc = -mean ln variance, scale^2 = 1 + (3 / pi) var ln variance.

        A variance below tau_min^2 counts as that: no level tells it from none. The scale is 3 at least, as Wu et al.
        2024 have it in the plane, and so wide that no end of the range is further than five of it from loc: a draw
        there, one in 150, weighs forty times one of the middle.
        """
        logs = variances.double().clamp(min=tau_min**2).log()
        loc = -float(logs.mean())
        reach = max(abs(-2 * math.log(tau) - loc) for tau in (tau_min, tau_max))
        scale = max(3.0, math.sqrt(1 + 3 / math.pi * float(logs.var(correction=0))), reach / 5)
        return cls(loc=loc, scale=scale, tau_min=tau_min, tau_max=tau_max)

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """tau and the importance weight dalpha / q(alpha) at quantiles u in [0, 1], float64, of u's shape."""
        ends = torch.tensor([-2 * math.log(tau) for tau in (self.tau_max, self.tau_min)], dtype=torch.float64)
        low, high = torch.sigmoid((ends - self.loc) / self.scale)
        v = torch.logit(low + (high - low) * u.double())
        weight = self.scale * (high - low) / (v.sigmoid() * (-v).sigmoid())
        return torch.exp(-(self.loc + self.scale * v) / 2), weight


def principal_variances(x: Tensor) -> Tensor:
    """Variances of x [N, *shape] along the principal directions of its first 1024 samples, float64, those above 0."""
    rows = x[:1024].flatten(1).double()
    rows = rows - rows.mean(dim=0)
    square = rows.T @ rows if rows.shape[1] <= len(rows) else rows @ rows.T  # the same values above 0
    values = torch.linalg.eigvalsh(square) / max(1, len(rows) - 1)
    above: Tensor = values[values > 1e-10 * values[-1]]
    return above
