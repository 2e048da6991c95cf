"""The denoising loss of Karras et al. 2022 (EDM), table 1 and equation 108, with noise levels for every sampler.

EDM draws ln sigma from a normal distribution that all but ignores noise far below and far above the data. A model
that several samplers share is asked about the whole range, so a part of the draws is uniform in ln sigma. The bell
sits a little higher than EDM's -1.2: the noise levels around the spread of the data decide what a sample becomes.
Every draw is stratified: one batch covers the distribution evenly, which lowers the variance of its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ncdeploy.errors import InputError

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """The distribution of sigma while training, on [sigma_min, sigma_max].

    uniform: share of draws that is uniform in ln sigma; the others are normal in ln sigma with `mean` and `std`,
    cut to the range.
    """

    sigma_min: float
    sigma_max: float
    mean: float = -0.5
    std: float = 1.2
    uniform: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < float("inf"):
            raise InputError(f"sigma range: got {self.sigma_min} .. {self.sigma_max}, expected 0 < min < max")
        if not 0 <= self.uniform <= 1 or self.std <= 0:
            raise InputError(f"noise levels: uniform {self.uniform} must lie in 0 .. 1 and std {self.std} above 0")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Stratified draws, float32 [count], in random order."""
        u = stratified(count, generator)
        share = torch.rand(1, generator=generator, dtype=torch.float64)
        # The strata are dealt to the two parts in proportion: row k goes to the uniform part whenever the running
        # total k * uniform passes an integer, so each part is stratified by itself as well.
        ticks = torch.floor(self.uniform * torch.arange(count + 1, dtype=torch.float64) + share)
        uniform = ticks[1:] > ticks[:-1]
        low, high = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64).log()
        bell = NormalDist(self.mean, self.std)
        below, above = bell.cdf(float(low)), bell.cdf(float(high))
        p = (below + (above - below) * u).clamp(1e-12, 1 - 1e-12)
        normal = self.mean + self.std * torch.special.ndtri(p)
        log_sigma = torch.where(uniform, low + (high - low) * u, normal).clamp(low, high)
        return log_sigma[torch.randperm(count, generator=generator)].exp().float()


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """One uniform draw in each of `count` equal parts of [0, 1), float64 [count], increasing."""
    return (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count


def denoising_loss(
    denoise: Denoise, x0: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None, *, sigma_data: float
) -> Tensor:
    """Weighted squared error per dimension, a scalar; 1 is what a constant answer scores at large sigma.

    x0, noise: [B, *shape]; sigma: [B]; labels: int64 [B] or None. The weight (sigma^2 + sigma_d^2) / (sigma
    sigma_d)^2 makes every noise level count alike for a freshly initialised EDM network.
    """
    s = sigma.reshape(-1, *(1,) * (x0.dim() - 1))
    denoised = denoise(x0 + s * noise, sigma, labels)
    weight = (s**2 + sigma_data**2) / (s * sigma_data) ** 2
    return (weight * (denoised - x0) ** 2).mean()
