"""The contrastive diffusion loss: Wu et al. 2024, "Your Diffusion Model is Secretly a Noise Classifier and
Benefits from Contrastive Training".

A denoiser carries the log-likelihood ratio of noised against clean data (Kong et al. 2023), here in
variance-exploding form: with noise n, y = w + tau n, sigma' = sqrt(tau^2 + s^2), alpha = -2 ln tau,

    log p_s(w) - log p(w) = 1/2 integral dalpha E_n[ |n - (y - D(y; tau))/tau|^2
                                                    - |n - tau (y - D(y; sigma'))/sigma'^2|^2 ]

and the loss asks that this ratio tells noised points w = x0 + s n from data: softplus(label * ratio), label +1
for data. It trains D where a parallel sampler's iterates lie: at points noisier than the claimed sigma.

Three choices make a good estimate out of few network calls:
- the same tau and the same n in both terms (common random numbers): their differences cancel most of the noise;
- alpha is stratified and drawn by importance (logistic), so that K draws cover the integral evenly;
- the K terms are averaged *before* the softplus: softplus of a noisy ratio punishes its variance (Jensen), not
  wrong classification.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ncdeploy.errors import InputError
from ncdeploy.training.denoising import Denoise


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of one estimate for B points with K terms each.

    tau, weight: [B, K], noise level and importance weight dalpha/q(alpha); noise: [B, K, *shape].
    """

    tau: Tensor
    weight: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> "Draws":
        """The same draws on another device."""
        return Draws(tau=self.tau.to(device), weight=self.weight.to(device), noise=self.noise.to(device))


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

    def draw(
        self, points: int, terms: int, shape: tuple[int, ...], generator: torch.Generator, *,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:  # fmt: skip
        """K = terms stratified alphas for each point, and one noise for each alpha."""
        u = torch.rand(points, terms, generator=generator, dtype=torch.float64)
        u = (torch.arange(terms) + u) / terms
        low = 1 / (1 + math.exp(self.clip))
        v = torch.logit(low + (1 - 2 * low) * u)
        weight = self.scale * math.tanh(self.clip / 2) / (v.sigmoid() * (-v).sigmoid())
        tau = torch.exp(-(self.loc + self.scale * v) / 2)
        noise = torch.randn(points, terms, *shape, generator=generator, dtype=dtype)
        return Draws(tau=tau.to(dtype), weight=weight.to(dtype), noise=noise)


def llr(denoise: Denoise, w: Tensor, s: Tensor, draws: Draws, labels: Tensor | None = None) -> Tensor:
    """Estimate of log p_s(w) - log p(w) in nats, [B], in one network call of 2 B K rows.

    w: points [B, *shape]; s: noise level of the alternative [B]; labels: int64 [B] or None.
    The squares are differenced as (p - q)(p + q), with p = (D(y; tau) - w)/tau and
    q = n - tau (y - D(y; sigma'))/sigma'^2 written so that nothing large cancels.
    """
    points, terms = draws.tau.shape
    spread = (points, terms, *(1,) * (w.dim() - 1))
    tau, noise = draws.tau.reshape(spread), draws.noise
    s_wide = s.reshape(points, *(1,) * (len(spread) - 1))
    raised = torch.sqrt(tau**2 + s_wide**2)
    centre = w.unsqueeze(1)
    y = (centre + tau * noise).flatten(0, 1)
    sigma = torch.cat([draws.tau.flatten(), raised.flatten()])
    repeated = None if labels is None else labels.repeat_interleave(terms).repeat(2)
    denoised = denoise(torch.cat([y, y]), sigma, repeated).unflatten(0, (2, points, terms))
    p = (denoised[0] - centre) / tau
    q = (s_wide**2 * noise - tau * (centre - denoised[1])) / raised**2
    gap = ((p - q) * (p + q)).flatten(2).sum(dim=2)
    ratio: Tensor = 0.5 * (draws.weight * gap).mean(dim=1)
    return ratio


def contrastive_loss(
    denoise: Denoise, x0: Tensor, s: Tensor, noise: Tensor, sign: Tensor, draws: Draws, labels: Tensor | None = None
) -> Tensor:
    """Mean of softplus(sign * llr), in nats; ln 2 is what a model scores that cannot tell noise from data.

    sign: [B], +1 keeps the data point, -1 puts x0 + s * noise in its place.
    """
    noised = (sign < 0).reshape(-1, *(1,) * (x0.dim() - 1))
    w = torch.where(noised, x0 + s.reshape(noised.shape) * noise, x0)
    loss: Tensor = softplus(sign * llr(denoise, w, s, draws, labels)).mean()
    return loss


def balanced_signs(count: int, generator: torch.Generator) -> Tensor:
    """+1 and -1 in turn from a random start: each is as likely in every place, and they balance in the batch."""
    start = torch.randint(2, (1,), generator=generator)
    return 1.0 - 2.0 * ((torch.arange(count) + start) % 2)
