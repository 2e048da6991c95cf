"""The exact denoiser that the tests stand on: a Gaussian mixture, in NumPy and float64.

x0 = mu_i + std * n with i uniform. Then x = x0 + sigma * n has component variance std^2 + sigma^2 and

    D(x; sigma) = (std^2 x + sigma^2 mu_hat) / (sigma^2 + std^2),   mu_hat = sum_i w_i(x) mu_i,
    w = softmax_i( -|x - mu_i|^2 / 2 (sigma^2 + std^2) ).

It needs no training, has a known density, and behaves like a real model: it has modes to choose between.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.datasets import load_digits

from ncdeploy.sampling.errorcurve import ErrorCurve

Floats = NDArray[np.float64]


class GaussianMixture:
    """Equal weights, means [m, d], one standard deviation for every component and dimension."""

    def __init__(self, means: ArrayLike, std: float) -> None:
        self.means: Floats = np.array(means, np.float64)
        self.std = float(std)
        self._half_norm = 0.5 * np.sum(self.means**2, axis=1)

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def __call__(self, x: NDArray[Any], sigma: ArrayLike) -> Floats:
        """E[x0 | x] for x [B, *shape] with d values a row and sigma [B] or scalar; float64 [B, *shape]."""
        rows, variance = self._flat(x, sigma)
        mu_hat = self._weights(rows, variance) @ self.means
        noise = variance - self.std**2
        return ((self.std**2 * rows + noise * mu_hat) / variance).reshape(x.shape)

    def log_prob(self, x: NDArray[Any], sigma: ArrayLike = 0.0) -> Floats:
        """Natural log of the density of x0 + sigma * n at x [B, *shape]; float64 [B]."""
        rows, variance = self._flat(x, sigma)
        distance = np.sum((rows[:, None, :] - self.means) ** 2, axis=-1)
        exponent = -0.5 * distance / variance
        top = exponent.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(exponent - top).mean(axis=1))
        return np.asarray(log_sum - 0.5 * self.dim * np.log(2 * np.pi * variance[:, 0]))

    def sample(self, n: int, *, seed: int = 0) -> Floats:
        """n draws of x0, float64 [n, d]."""
        rng = np.random.default_rng(seed)
        return self.means[rng.integers(len(self.means), size=n)] + self.std * rng.standard_normal((n, self.dim))

    def error_curve(self, *, samples: int = 512, seed: int = 0) -> ErrorCurve:
        """mse(sigma) per dimension on 48 sigmas from 0.002 to 200, averaged over `samples` noised draws.

        The squared error is replaced by its conditional mean, the posterior variance, which is known exactly.
        """
        x0 = self.sample(samples, seed=seed)
        noise = np.random.default_rng(seed + 1).standard_normal(x0.shape)
        sigmas = np.geomspace(0.002, 200.0, 48)
        return ErrorCurve(
            sigmas=tuple(sigmas.tolist()),
            mse=tuple(float(self._posterior_variance(x0 + s * noise, s).mean()) for s in sigmas),
        )

    def _posterior_variance(self, x: Floats, sigma: float) -> Floats:
        """Variance of x0 given x [B, d], mean over dimensions: within a component and between components."""
        rows, variance = self._flat(x, sigma)
        w = self._weights(rows, variance)
        between = 2 * w @ self._half_norm - np.sum((w @ self.means) ** 2, axis=1)
        shrink = sigma**2 / variance[:, 0]
        return np.asarray(self.std**2 * shrink + shrink**2 * np.maximum(between, 0.0) / self.dim)

    def _weights(self, rows: Floats, variance: Floats) -> Floats:
        logits = (rows @ self.means.T - self._half_norm) / variance  # |x|^2 is common to all components
        w = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(w / w.sum(axis=1, keepdims=True))

    def _flat(self, x: NDArray[Any], sigma: ArrayLike) -> tuple[Floats, Floats]:
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        if rows.shape[1] != self.dim:
            raise ValueError(f"x has {rows.shape[1]} values a row, the mixture has {self.dim}")
        level = np.broadcast_to(np.asarray(sigma, np.float64), (len(x),))
        return rows, (level**2 + self.std**2)[:, None]


@cache
def digits() -> GaussianMixture:
    """Scikit-learn's 1797 handwritten digits, 64 values in [-1, 1], as component means; std 0.1."""
    return GaussianMixture(load_digits().data / 8.0 - 1.0, 0.1)


@cache
def error_curve() -> ErrorCurve:
    """The error curve of `digits()`, measured once."""
    return digits().error_curve()
