"""What a denoiser should say, from data alone: the mean of the samples that may lie behind a noisy state."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError

Floats = NDArray[np.float64]

_CHUNK_VALUES = 1 << 22


class Posterior:
    """E[x0 | x0 + sigma n = x] where x0 is one of `data` [n, *shape] plus `std` of noise: the exact denoiser of the
    data, on the training distribution and off it. With std = 0 x0 is one of the samples themselves.
    """

    def __init__(self, data: ArrayLike, *, std: float = 0.0) -> None:
        array = np.asarray(data, np.float64)
        if array.ndim < 2 or not len(array) or not np.isfinite(array).all() or std < 0:
            raise InputError(f"posterior: got data {array.shape} and std {std}, expected (n, ...) and std >= 0")
        self.means, self.std = array.reshape(len(array), -1), float(std)
        self._centre = self.means.mean(axis=0)
        self._offsets = self.means - self._centre
        self._half_norm = 0.5 * np.sum(self._offsets**2, axis=1)

    def __call__(self, x: ArrayLike, sigma: ArrayLike) -> Floats:
        """x [B, *shape], sigma > 0 scalar or [B] -> [B, *shape] in float64."""
        array = np.asarray(x, np.float64)
        rows = array.reshape(len(array), -1)
        signal = self.std**2
        noise = np.broadcast_to(np.asarray(sigma, np.float64), (len(rows),))[:, None] ** 2
        out = np.empty_like(rows)
        step = max(1, _CHUNK_VALUES // len(self.means))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores = ((rows[part] - self._centre) @ self._offsets.T - self._half_norm) / (signal + noise[part])
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mu_hat = weights @ self.means / weights.sum(axis=1, keepdims=True)
            out[part] = (signal * rows[part] + noise[part] * mu_hat) / (signal + noise[part])
        return out.reshape(array.shape)
