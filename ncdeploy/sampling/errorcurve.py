"""The denoising error of a model by noise level, and the scalar Jacobian that follows from it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.records import about
from ncdeploy.records.kinds import NUMBERS


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """Mean squared denoising error per dimension, mse(sigma) = E|x0 - D(x0 + sigma n, sigma)|^2 / d.

    Tweedie's second-order formula makes mse / sigma^2 the mean diagonal of dD/dx.
    """

    sigmas: tuple[float, ...] = field(metadata=about(NUMBERS, "increasing noise levels, at least two"))
    mse: tuple[float, ...] = field(metadata=about(NUMBERS, "one positive value each, in squared model units"))

    def __post_init__(self) -> None:
        s, m = np.asarray(self.sigmas, float), np.asarray(self.mse, float)
        if s.ndim != 1 or s.shape != m.shape or s.size < 2:
            raise InputError(
                f"error curve: got shapes {s.shape} and {m.shape}, expected two equal lists of >= 2 values"
            )
        if not (np.all(s > 0) and np.all(np.diff(s) > 0) and np.all(m > 0) and np.all(np.isfinite(m))):
            raise InputError(
                "error curve: sigmas must increase from above 0, and every mse must be positive and finite"
            )

    def jacobian(self, sigma: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The scalar Jacobian tr(dD/dx)/d = mse/sigma^2 at each sigma, interpolated in log-log, in [0, 1]."""
        with np.errstate(divide="ignore"):
            log_sigma = np.log(np.asarray(sigma, float))
        log_mse = np.interp(log_sigma, np.log(self.sigmas), np.log(self.mse))
        g = np.exp(np.minimum(log_mse - 2 * np.maximum(log_sigma, np.log(self.sigmas[0])), 0.0))
        return np.asarray(g, np.float64)
