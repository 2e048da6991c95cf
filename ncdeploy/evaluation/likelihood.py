"""Likelihoods and their ratios out of any denoiser: how well its errors integrate over all noise levels.

With y = x + tau n and alpha = -2 ln tau, a density and its denoiser D belong together by

    log p(x) = const - 1/2 integral dalpha E_n |n - (y - D(y; tau))/tau|^2

(Kong et al. 2023, "Information-Theoretic Diffusion", equation 8), and the density with noise s on it, or of
(x0 + s n)/r, needs no other network: put r y and sqrt((r tau)^2 + s^2) in (Wu et al. 2024, section 3). The constants
are infinite, so only differences can be computed. Everything here is one difference of two densities a and b:

    log p_b(x) - log p_a(x) = 1/2 integral dalpha E_n[ |e_a|^2 - |e_b|^2 ],
    e = (s^2 n - r tau (r x - D(r y; sigma)))/sigma^2,   sigma^2 = (r tau)^2 + s^2

with D the model's or, for a known density, the exact one. What is known about a Gaussian fitted to the data serves as
control variate: to a model's integral the Gaussian's is added with the opposite sign, from the same tau and n, and
its exact value is put back. For a likelihood that is Kong's estimate with the base measure inside the expectation.
What else makes it exact with few network calls:

- for a likelihood, how much of the Gaussian to take depends on the noise level: at small ones it knows nothing of the
  data and would only bring in noise of its own. Its mean over n is known at each level, so that any share of what it
  deviates by may be taken off; `shares` fits it. Ratios gain nothing by that;
- n comes with -n, which cancels what is linear in it, and is spread evenly (`spread_noise`);
- the alphas are a grid with a random shift, under a logistic law fitted to the spectrum of the data. The integrand
  falls off exponentially at both ends, where such a grid is far better than independent draws;
- beyond the noise levels that the network knows, the integrand goes on as the exponential that it is there:
  e^-alpha towards the data and e^alpha towards pure noise. It is evaluated at the end and damped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError, NumericalError
from ncdeploy.evaluation.budget import FEWEST, Budget
from ncdeploy.evaluation.draws import shifted_grid, spread_noise
from ncdeploy.evaluation.gaussian import Gaussian
from ncdeploy.modelinfo import ModelInfo

Floats = NDArray[np.float64]
Denoise = Callable[..., Any]

_VALUES = 1 << 22  # of x in one network call, 32 MiB in float64
_NEAR = 2  # noise levels on either side whose draws the share of the Gaussian is fitted to, too


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """value and its standard error, float64 [B] each, in nats."""

    value: Floats
    error: Floats

    def mean(self) -> tuple[float, float]:
        """Mean over the points, and its standard error from the estimate alone (not from the choice of points)."""
        return float(self.value.mean()), float(np.sqrt((self.error**2).sum()) / len(self.error))


@dataclass(frozen=True, kw_only=True, eq=False)
class Density:
    """That of (x0 + s n)/scale; s, scale: [B], one for each point."""

    s: Floats
    scale: Floats

    def at(self, i: int) -> tuple[float, float]:
        """s and scale for point i."""
        return float(self.s[i]), float(self.scale[i])

    def log_prob(self, gaussian: Gaussian, x: Floats) -> Floats:
        """Its exact logarithm for Gaussian data, at x [B, *shape]."""
        scale = self.scale.reshape(-1, *[1] * (x.ndim - 1))
        return np.asarray(gaussian.log_prob(scale * x, self.s) + x[0].size * np.log(self.scale))


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimator:
    """Likelihoods of a denoiser.

    denoise:   D(x, sigma) or, where labels are given, D(x, sigma, labels), on NumPy arrays
    reference: a Gaussian like the data
    sigma_min, sigma_max: noise levels at which the denoiser can be asked
    dtype:     of x and sigma; float32 is what backends take
    """

    denoise: Denoise
    reference: Gaussian
    sigma_min: float
    sigma_max: float
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    dtype: Any = np.float32

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise InputError(f"sigma range: got {self.sigma_min} .. {self.sigma_max}, expected 0 < min < max")

    @classmethod
    def of(
        cls,
        engine: Denoise,
        info: ModelInfo,
        data: ArrayLike | None = None,
        *,
        budget: Budget | None = None,
        seed: int = 0,
    ) -> "Estimator":
        """For a backend and the data [n, *shape] it was trained on; without them the reference is what info says."""
        reference = (
            Gaussian.described(info) if data is None else Gaussian.fitted(data, least_std=max(info.sigma_min, 1e-3))
        )  # fmt: skip
        return cls(
            denoise=engine, reference=reference, sigma_min=info.sigma_min, sigma_max=info.sigma_max,
            budget=budget or Budget(), seed=seed,
        )  # fmt: skip

    def nll(self, x: ArrayLike, *, s: float = 0.0, labels: ArrayLike | None = None) -> Estimate:
        """-log p_s(x) in nats at x [B, *shape], where p_s is the model's density with noise s on it.

        Raises InputError for points that do not fit, NumericalError where the denoiser returns NaN or infinity.
        """
        points = self._points(x)
        level = np.broadcast_to(np.float64(s), len(points))
        found = self._integrate(points, Density(s=level, scale=np.ones(len(points))), None, labels)
        return Estimate(value=found.value - self.reference.log_prob(points, s), error=found.error)

    def ratio(
        self,
        x: ArrayLike,
        s: ArrayLike,
        *,
        base: ArrayLike = 0.0,
        scale: ArrayLike = 1.0,
        labels: ArrayLike | None = None,
    ) -> Estimate:
        """log p_s(x) - log p_base(x) in nats: positive where x looks like data with noise s rather than base.

        x: [B, *shape]; s, base: noise levels, scalar or [B]; scale: p_s is the density of (x0 + s n)/scale, sqrt(1 +
        s^2) for the variance-preserving contrast of Wu et al.
        """
        points = self._points(x)
        given = [np.broadcast_to(np.asarray(v, np.float64), (len(points),)) for v in (base, s, scale)]
        if not (np.all(given[0] >= 0) and np.all(given[1] >= 0) and np.all(given[2] > 0)):
            raise InputError("ratio: noise levels must be 0 or more, and the scale positive")
        first, second = Density(s=given[0], scale=np.ones(len(points))), Density(s=given[1], scale=given[2])
        known = second.log_prob(self.reference, points) - first.log_prob(self.reference, points)
        found = self._integrate(points, first, second, labels)
        return Estimate(value=found.value + known, error=found.error)

    def alphas(self, u: Floats, sigma_max: float) -> tuple[Floats, Floats]:
        """tau and weight dalpha/q at quantiles u of the logistic law; tau stays within what the network knows."""
        logs = np.log(self.reference.variances)
        # As wide as the spectrum, and wide enough for the weighted integrand to vanish smoothly at both ends.
        loc, scale = -float(logs.mean()), max(2.5, math.sqrt(1 + 3 / math.pi**2 * float(logs.var())))
        alpha = loc + scale * (np.log(u) - np.log1p(-u))
        inside = np.clip(alpha, -2 * math.log(sigma_max), -2 * math.log(self.sigma_min))
        weight = scale / (u * (1 - u)) * np.exp(-np.abs(alpha - inside))
        return np.exp(-inside / 2), weight

    def _points(self, x: ArrayLike) -> Floats:
        points = np.asarray(x, np.float64)
        if points.ndim < 2 or points[0].size != self.reference.mean.size or not np.isfinite(points).all():
            raise InputError(
                f"points: got shape {points.shape}, expected finite values (n, ...) of {self.reference.mean.size} each"
            )
        return points

    def _integrate(self, points: Floats, first: Density, second: Density | None, labels: ArrayLike | None) -> Estimate:
        """1/2 integral dalpha E of |e_a|^2 - |e_b|^2, less that of the reference, at each point.

        a is the model's first density; b its second, or where there is none the reference's first.
        """
        budget, dim = self.budget, points[0].size
        densities = [first] if second is None else [first, second]
        top = max(float(density.s.max()) for density in densities)
        if top >= self.sigma_max:
            raise InputError(f"s: got {top:g}, expected below {self.sigma_max:g}, the most noise the model knows")
        stretch = max(float(density.scale.max()) for density in densities)
        sigma_max = math.sqrt(self.sigma_max**2 - top**2) / stretch
        classes = None if labels is None else np.asarray(labels, np.int64)
        rng = np.random.default_rng(self.seed)
        value, error = np.zeros((2, len(points)))
        for i, x in enumerate(points):
            at, label = [density.at(i) for density in densities], None if classes is None else classes[i]
            found = self._repeat(rng, budget.repeats, x, at, label, sigma_max)
            while further := budget.further(len(found), _standard_error(found), dim):
                found = np.append(found, self._repeat(rng, further, x, at, label, sigma_max))
            value[i], error[i] = found.mean(), _standard_error(found)
        return Estimate(value=value, error=error)

    def _repeat(
        self, rng: np.random.Generator, repeats: int, x: Floats, at: list[tuple[float, float]], label: Any,
        sigma_max: float,
    ) -> Floats:  # fmt: skip
        """So many independent estimates of the integral of `_integrate` at one point, between the densities `at`."""
        levels, dim = self.budget.levels, x.size
        together = max(1, min(self.budget.rows, _VALUES // dim) // (2 * levels))
        gap, rest, weights = (np.zeros((repeats, levels)) for _ in range(3))
        for start in range(0, repeats, together):
            part = slice(start, min(start + together, repeats))
            u = shifted_grid(rng, part.stop - start, levels)
            tau, weights[part] = self.alphas(u, sigma_max)
            noise = spread_noise(rng, *u.shape, dim=dim)[:, :, None, :] * np.array([1.0, -1.0])[:, None]
            model, known = (
                [self._error(denoise, x, density, tau[..., None, None], noise, label) for density in at]
                for denoise in (self.denoise, self.reference)
            )
            if len(at) == 1:
                gap[part] = _less(model[0], known[0])
                rest[part] = _less(known[0], 0.0) - self.reference.mean_square(x, tau, *at[0])
            else:
                gap[part] = _less(*model) - _less(*known)
        if len(at) == 1 and repeats >= FEWEST:
            gap -= shares(gap, rest) * rest
        return np.asarray(0.5 * (weights * gap).mean(axis=1))

    def _error(
        self, denoise: Denoise, x: Floats, density: tuple[float, float], tau: Floats, noise: Floats, label: Any
    ) -> Floats:
        """e of the formula above at one point x [*shape], of noise's shape."""
        s, scale = density
        own_tau, own_x = scale * tau, scale * x.ravel()
        variance = own_tau**2 + s**2
        y = (own_x + own_tau * noise).reshape(-1, *x.shape)
        sigma = np.broadcast_to(np.sqrt(variance), (*noise.shape[:-1], 1)).reshape(-1)
        D = np.empty(y.shape)
        dtype = np.float64 if denoise is self.reference else self.dtype
        for start in range(0, len(y), self.budget.rows):
            part = slice(start, start + self.budget.rows)
            inputs = [y[part].astype(dtype), sigma[part].astype(dtype)]
            if label is not None:
                inputs.append(np.full(len(inputs[0]), label))
            D[part] = denoise(*inputs)
        if not np.isfinite(D).all():
            bad = int(np.argmin(np.isfinite(D.reshape(len(D), -1)).all(axis=1)))
            raise NumericalError(f"the network returned NaN or infinity at sigma = {sigma[bad]:.6g}")
        return np.asarray((s**2 * noise - own_tau * (own_x - D.reshape(noise.shape))) / variance)


def shares(gap: Floats, rest: Floats) -> Floats:
    """How much of `rest`, which is 0 on average, to take off `gap` [repeats, levels] to leave the least variance.

    Fitted at each level and its neighbours, for either half of the repeats on the other, so that the share is
    independent of what it is applied to and the estimate stays unbiased.
    """
    out = np.zeros_like(gap)
    kernel = np.ones(2 * _NEAR + 1)
    for half in (0, 1):
        off, control = gap[1 - half :: 2] - gap[1 - half :: 2].mean(axis=0), rest[1 - half :: 2]
        both, square = (
            np.convolve((v * control).sum(axis=0), kernel)[_NEAR : _NEAR + gap.shape[1]] for v in (off, control)
        )
        out[half::2] = both / np.maximum(square, np.finfo(float).tiny)
    return out


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _less(a: Floats, b: Floats | float) -> Floats:
    """|a|^2 - |b|^2 without cancellation, meaned over the two signs of the noise."""
    return np.asarray(((a - b) * (a + b)).sum(axis=-1).mean(axis=-1))
