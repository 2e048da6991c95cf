"""The exact denoiser of a Gaussian mixture: a real model without training, whose density is known."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser, base_config
from ncdeploy.denoisers.error_curve import measure_error_curve
from ncdeploy.errors import DependencyError, InputError, install
from ncdeploy.modelinfo import ModelInfo

CURVE_VALUES = 2**15  # measured per sigma: the curve is good to about 1 %


class Mixture(Denoiser):
    """x0 ~ sum_i w_i N(mu_i, s^2 I), hence, with v = sigma^2 + s^2,

        D(x; sigma) = (s^2 x + sigma^2 mu_hat) / v,   mu_hat = sum_i softmax_i(ln w_i - |x - mu_i|^2 / 2v) mu_i

    means:   [m, *shape]
    std:     s > 0
    weights: [m], positive, of any sum; default equal
    info:    default: made from the means, with an error curve measured on draws from the mixture

    Raises InputError for means, std or weights that do not fit together.
    """

    means: Tensor
    weights: Tensor

    def __init__(self, means: Any, std: float, weights: Any = None, *, info: ModelInfo | None = None) -> None:
        means = torch.as_tensor(means).detach().to(torch.get_default_dtype(), copy=True)
        if means.ndim < 2 or len(means) < 1 or not bool(means.isfinite().all()):
            raise InputError(f"means: got shape {tuple(means.shape)}, expected finite values of shape (m, *shape)")
        if not 0 < std < math.inf:
            raise InputError(f"std: got {std}, expected a positive number")
        weights = torch.ones(len(means)) if weights is None else torch.as_tensor(weights).detach()
        weights = weights.to(means.dtype, copy=True)
        if weights.shape != means.shape[:1] or not bool(((weights > 0) & weights.isfinite()).all()):
            raise InputError(f"weights: expected {len(means)} positive numbers, one per mean")
        described = info or describe(means, std, weights)
        super().__init__(described, {**base_config("mixture", described), "components": len(means), "std": float(std)})
        self.std = float(std)
        self.register_buffer("means", means)
        self.register_buffer("weights", weights)
        if info is None:
            draws = min(max(CURVE_VALUES // described.dim, 256), 4096)
            x = self.sample(draws, torch.Generator().manual_seed(0))
            self.info = replace(described, error_curve=measure_error_curve(self, x))

    @classmethod
    def digits(cls, std: float = 0.1) -> "Mixture":
        """The mixture around scikit-learn's 1797 handwritten digits, scaled to [-1, 1], of shape (1, 8, 8).

        Raises DependencyError without scikit-learn.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as e:
            raise DependencyError(f"the digits need scikit-learn: {install('torch')}") from e
        pictures = torch.from_numpy(load_digits().images / 8 - 1)[:, None]
        mixture = cls(pictures, std)
        mixture.info = replace(mixture.info, data="digits", offset=8.0, scale=8.0)
        return mixture

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        self.fill_labels(sigma, labels)
        signal, noise = self.std**2, sigma[:, None] ** 2  # variances: of a component; of the noise (B, 1)
        offset, scores, centred = self._scores(x, signal + noise)
        mu_hat = scores.softmax(1) @ centred
        shrunk = (signal * offset + noise * mu_hat) / (signal + noise)
        return shrunk.reshape(-1, *self.info.shape) + self.means.mean(0)

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Exact log density [B], in nats, of x [B, *shape] under the mixture plus noise of std sigma, scalar or [B]."""
        variance = self.std**2 + torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))[:, None] ** 2
        offset, scores, _ = self._scores(x, variance)
        rest = offset.square().sum(1, keepdim=True) / variance + self.info.dim * (2 * math.pi * variance).log()
        return scores.logsumexp(1) - rest[:, 0] / 2

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws [n, *shape] from the mixture; the generator lives on the model's device."""
        if n < 1:
            raise InputError(f"n: got {n}, expected at least 1 sample")
        means = self.means[torch.multinomial(self.weights, n, replacement=True, generator=generator)]
        noise = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
        return means + self.std * noise

    def _scores(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x and the means relative to the centre of the means, [B, d] and [m, d], and between them, [B, m],

            ln w_i - |x - mu_i|^2 / 2v + |x|^2 / 2v.

        Expanding the square allows one matmul. It would cancel digits in float32, so the term in |x|^2, which no
        softmax feels, is never formed, and the centre is taken off both factors.
        """
        means = self.means.flatten(1)
        centre = means.mean(0)
        offset, centred = x.flatten(1) - centre, means - centre
        products = offset @ centred.T - centred.square().sum(1) / 2
        return offset, products / variance + self.weights.log().log_softmax(0), centred


def describe(means: Tensor, std: float, weights: Tensor) -> ModelInfo:
    """What is known of a mixture before any measurement."""
    share = (weights.double() / weights.double().sum()).reshape(-1, *[1] * (means.ndim - 1))
    flat = means.double()
    pixels = flat[0].numel()
    average = (share * flat).sum() / pixels
    spread = float((share * (flat - average) ** 2).sum() / pixels)
    return ModelInfo(
        shape=tuple(means.shape[1:]),
        sigma_min=0.002,
        sigma_max=160.0,
        sigma_data=math.sqrt(spread + std**2),
        mean=tuple((share * flat).sum(0).flatten().tolist()),
        data="Gaussian mixture",
    )
