"""The contrastive diffusion loss: Wu et al. 2024, "Your Diffusion Model is Secretly a Noise Classifier and
Benefits from Contrastive Training".

A denoiser carries the log-likelihood ratio of noised against clean data (Kong et al. 2023), here in
variance-exploding form: with noise n, y = w + tau n, sigma' = sqrt(tau^2 + s^2), alpha = -2 ln tau,

    log p_s(w) - log p(w) = 1/2 integral dalpha E_n[ |n - (y - D(y; tau))/tau|^2
                                                    - |n - tau (y - D(y; sigma'))/sigma'^2|^2 ]

and the loss asks that this ratio tells noised points w = x0 + s n from data: softplus(label * ratio), label +1
for data. It trains D where a parallel sampler's iterates lie: at points noisier than the claimed sigma.

These choices make a good estimate, and above all a good gradient, out of few network calls:
- the same tau and the same n in both terms (common random numbers): their differences cancel most of the noise;
- alpha is stratified and drawn by importance (logistic), so that K draws cover the integral evenly;
- n comes with -n, which takes out what is linear in it: that is noise, and most of it lies in the gradient;
- a sample is shown both ways, with noise and without, under the same draws: what the two have in common tells nothing;
- the K terms are averaged *before* the softplus: softplus of a noisy ratio punishes its variance (Jensen), not
  wrong classification.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ncdeploy.training.alphas import LogisticAlphas
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

    def twice(self) -> "Draws":
        """For the same points once more, after themselves."""
        tau, weight, noise = (torch.cat([v, v]) for v in (self.tau, self.weight, self.noise))
        return Draws(tau=tau, weight=weight, noise=noise)


def draw(
    alphas: LogisticAlphas, points: int, terms: int, shape: tuple[int, ...], generator: torch.Generator, *,
    dtype: torch.dtype = torch.float32,
) -> Draws:  # fmt: skip
    """K = terms, an even number: K/2 stratified alphas for each point, each with one noise and its negative."""
    levels = terms // 2
    u = torch.rand(points, levels, generator=generator, dtype=torch.float64)
    tau, weight = (v.repeat_interleave(2, dim=1).to(dtype) for v in alphas.at((torch.arange(levels) + u) / levels))
    noise = torch.randn(points, levels, *shape, generator=generator, dtype=dtype)
    return Draws(tau=tau, weight=weight, noise=torch.stack([noise, -noise], dim=2).flatten(1, 2))


def llr(
    denoise: Denoise,
    w: Tensor,
    s: Tensor,
    draws: Draws,
    labels: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """Estimate of log p_s(w) - log p(w) in nats, [B], in one network call of 2 B K rows.

    w: points [B, *shape]; s: noise level of the alternative [B]; labels: int64 [B] or None.
    scale: [B], the alternative is the density of (x0 + s n) / scale, as the VP contrast asks (`vp_scale`); None: 1
    base:  [B], noise level of the first density, below s; None: the data themselves

    The squares are differenced as (p - q)(p + q), both terms written so that nothing large cancels:
    p = (base^2 n - tau (w - D(y; tau_b)))/tau_b^2 with tau_b^2 = tau^2 + base^2, which is (D(y; tau) - w)/tau without
    a base, and q the same for the alternative, with scale * w, scale * tau and s.
    """
    points, terms = draws.tau.shape
    one = (points, *(1,) * w.dim())
    tau, noise, centre = draws.tau.unflatten(1, (terms, *(1,) * (w.dim() - 1))), draws.noise, w.unsqueeze(1)
    parts = []
    for level, stretch in ((base, None), (s, scale)):
        wide = torch.zeros_like(s).reshape(one) if level is None else level.reshape(one)
        own_tau, own_centre = (tau, centre) if stretch is None else (stretch.reshape(one) * v for v in (tau, centre))
        parts.append((wide, own_tau, own_centre, torch.sqrt(own_tau**2 + wide**2)))
    y = torch.cat([(own_centre + own_tau * noise).flatten(0, 1) for _, own_tau, own_centre, _ in parts])
    sigma = torch.cat([raised.flatten() for *_, raised in parts])
    repeated = None if labels is None else labels.repeat_interleave(terms).repeat(2)
    denoised = denoise(y, sigma, repeated).unflatten(0, (2, points, terms))
    p, q = (
        (wide**2 * noise - own_tau * (own_centre - D)) / raised**2
        for (wide, own_tau, own_centre, raised), D in zip(parts, denoised, strict=True)
    )
    gap = ((p - q) * (p + q)).flatten(2).sum(dim=2)
    ratio: Tensor = 0.5 * (draws.weight * gap).mean(dim=1)
    return ratio


def vp_scale(s: Tensor, sigma_data: float) -> Tensor:
    """What keeps the variance of data of that standard deviation: sqrt(1 + (s / sigma_data)^2), 1 / sqrt(sg(zeta)).

    With a base, the variance-preserving contrast of the two has scale vp_scale(s) / vp_scale(base).
    """
    return torch.sqrt(1 + (s / sigma_data) ** 2)


def contrastive_loss(
    denoise: Denoise,
    x0: Tensor,
    s: Tensor,
    noise: Tensor,
    sign: Tensor,
    draws: Draws,
    labels: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """Mean of softplus(sign * llr), in nats; ln 2 is what a model scores that cannot tell noise from data.

    sign: [B], +1 keeps the data point, with `base` of noise on it where one is given; -1 puts (x0 + s * noise) / scale
    in its place. scale, base: as in `llr`.
    """
    wide = (len(x0), *(1,) * (x0.dim() - 1))
    clean = x0 if base is None else x0 + base.reshape(wide) * noise
    noised = x0 + s.reshape(wide) * noise
    if scale is not None:
        noised = noised / scale.reshape(wide)
    w = torch.where(sign.reshape(wide) < 0, noised, clean)
    loss: Tensor = softplus(sign * llr(denoise, w, s, draws, labels, scale=scale, base=base)).mean()
    return loss
