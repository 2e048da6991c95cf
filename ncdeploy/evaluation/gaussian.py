"""A Gaussian fitted to data: density and denoiser in closed form, the known answer that others are measured from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo

Floats = NDArray[np.float64]

_LARGEST = 1024  # dimensions whose covariance is diagonalised; it takes seconds there


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
    """N(mean, basis diag(variances) basis^T) in d dimensions.

    mean, variances: [d]; basis: [d, d] with orthonormal columns, or None for the axes themselves
    """

    mean: Floats
    variances: Floats
    basis: Floats | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.variances.shape or not np.all(self.variances > 0):
            raise InputError(
                f"Gaussian: got mean {self.mean.shape} and variances {self.variances.shape}, expected two lists of one "
                "length, with positive variances"
            )

    @classmethod
    def fitted(cls, data: ArrayLike, *, least_std: float) -> "Gaussian":
        """Mean and covariance of data [n, *shape]; directions that vary less than least_std are given that much.

        With fewer samples than 2 d, or above 1024 dimensions, only the variances of the values themselves are used.
        """
        array = np.asarray(data, np.float64)
        rows = array.reshape(len(array), -1)
        if len(rows) < 2:
            raise InputError(f"Gaussian: got {len(rows)} samples, expected at least 2")
        mean, basis = rows.mean(axis=0), None
        if len(rows) >= 2 * rows.shape[1] and 1 < rows.shape[1] <= _LARGEST:
            variances, basis = np.linalg.eigh(np.cov(rows.T, bias=True))
        else:
            variances = rows.var(axis=0)
        return cls(mean=mean, variances=np.maximum(variances, least_std**2), basis=basis)

    @classmethod
    def described(cls, info: ModelInfo) -> "Gaussian":
        """What a model says of its data: mean (0 where it is silent) and one variance."""
        mean = np.zeros(info.dim) if info.mean is None else np.asarray(info.mean, np.float64)
        return cls(mean=mean, variances=np.full(info.dim, info.sigma_data**2))

    def log_prob(self, x: ArrayLike, sigma: ArrayLike = 0.0) -> Floats:
        """Natural log of the density of a draw plus sigma n at x [B, *shape]; sigma scalar or [B]; float64 [B]."""
        offset = self._into(np.asarray(x, np.float64))
        variances = self.variances + self._level(sigma, len(offset)) ** 2
        terms: Floats = offset**2 / variances + np.log(2 * np.pi * variances)
        return np.asarray(-0.5 * terms.sum(axis=1))

    def __call__(self, x: ArrayLike, sigma: ArrayLike, labels: ArrayLike | None = None) -> Floats:
        """The exact denoiser E[x0 | x0 + sigma n = x]; x [B, *shape], sigma scalar or [B]; labels change nothing."""
        array = np.asarray(x, np.float64)
        offset = self._into(array)
        offset *= self.variances / (self.variances + self._level(sigma, len(offset)) ** 2)
        out = offset if self.basis is None else offset @ self.basis.T
        return np.asarray((out + self.mean).reshape(array.shape))

    def mean_square(self, x: ArrayLike, tau: Floats, s: float, scale: float) -> Floats:
        """E_n |e|^2 at one point x [*shape], of tau's shape; e with its n, s and scale is that of `likelihood`."""
        offset = self._into(scale * np.asarray(x, np.float64)[None])[0]
        own = (scale * tau)[..., None]
        variance = own**2 + s**2
        slope = (s**2 + own**2 * self.variances / (self.variances + variance)) / variance
        return np.asarray((slope**2 + (own * offset / (self.variances + variance)) ** 2).sum(axis=-1))

    def _into(self, x: Floats) -> Floats:
        offset = x.reshape(len(x), -1) - self.mean
        return offset if self.basis is None else offset @ self.basis

    @staticmethod
    def _level(sigma: ArrayLike, rows: int) -> Floats:
        return np.broadcast_to(np.asarray(sigma, np.float64), (rows,))[:, None]
