"""The denoising loss of Karras et al. 2022 (EDM), table 1 and equation 108, with noise levels for every sampler.

EDM draws ln sigma from a normal distribution that all but ignores noise far below and far above the data. A model
that several samplers share is asked about the whole range, so a part of the draws is uniform in ln sigma. The bell
sits a little higher than EDM's -1.2: the noise levels around the spread of the data decide what a sample becomes.
Every draw is stratified: one batch covers the distribution evenly, which lowers the variance of its gradient.
Two other weightings are there to compare with: the likelihood, and the error of the noise on DDPM's steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ncdeploy.errors import InputError
from ncdeploy.sampling import schedules
from ncdeploy.training.alphas import LogisticAlphas, stratified

DDPM_STEPS = 1000

Denoise = Callable[..., Tensor]  # D(x, sigma, labels)


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


def denoising_loss(
    denoise: Denoise, x0: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None, *, weight: Tensor
) -> Tensor:
    """Weighted squared error per dimension, a scalar. x0, noise: [B, *shape]; sigma, weight: [B]; labels: int64 [B] or
    None."""
    s, w = (v.reshape(-1, *(1,) * (x0.dim() - 1)) for v in (sigma, weight))
    return (w * (denoise(x0 + s * noise, sigma, labels) - x0) ** 2).mean()


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """(sigma^2 + sigma_d^2) / (sigma sigma_d)^2: every noise level counts alike for a freshly initialised EDM network,
    whose loss it makes 1."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def draw_levels(
    weighting: str,
    count: int,
    generator: torch.Generator,
    *,
    sigma_min: float,
    sigma_max: float,
    sigma_data: float,
    variances: Tensor,
) -> tuple[Tensor, Tensor]:
    """Noise levels and their weights in `denoising_loss`, float32 [count] each, stratified, in random order.

    edm:        `NoiseLevels` with `edm_weight`
    likelihood: dalpha / 2 tau^2 with alpha = -2 ln tau, drawn by importance from `LogisticAlphas.fitted` to the data's
                principal variances [n]: the loss is then the model's negative log-likelihood per dimension in nats up
                to a constant (Kong et al. 2023, "Information-Theoretic Diffusion", equation 10)
    ddpm:       the error of the predicted noise on the 1000 steps with linear beta (Ho et al. 2020, L_simple)
    """
    if weighting == "edm":
        sigma = NoiseLevels(sigma_min=sigma_min, sigma_max=sigma_max).draw(count, generator)
        return sigma, edm_weight(sigma, sigma_data)
    order = torch.randperm(count, generator=generator)
    u = stratified(count, generator)[order]
    if weighting == "likelihood":
        tau, importance = LogisticAlphas.fitted(variances, sigma_min, sigma_max).at(u)
        return tau.float(), (0.5 * importance / tau**2).float()
    table = torch.from_numpy(schedules.ddpm(DDPM_STEPS)[-2::-1].copy())
    sigma = table[(u * DDPM_STEPS).long()].clamp(sigma_min, sigma_max).float()
    return sigma, 1 / sigma**2
