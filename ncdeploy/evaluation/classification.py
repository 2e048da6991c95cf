"""The network as the classifier that it secretly is: does it tell data with noise s on them from data?

Half of the points get noise, and the estimated log-likelihood ratio says how likely each one is to have it, as
P(noised) = sigmoid(llr) (Wu et al. 2024, section 3). A guess scores a log-loss of ln 2 = 0.693 and an area of 0.5.
Beside it stands what a single evaluation says: the residual energy |y - D(y, s)|^2, which is less where nothing is to
take off (see `ncdeploy.sampling.energy`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError
from ncdeploy.evaluation.likelihood import Estimator

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Level:
    """At noise level s: mean log-loss in nats; area under the ROC curve; calibration: mean |share of noised points -
    mean probability| over ten equal bins of probability, weighted by their points; energy_area: area under the curve of
    the residual energy alone."""

    s: float
    log_loss: float
    area: float
    calibration: float
    energy_area: float


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One entry per noise level, and the log-loss over all of them."""

    levels: tuple[Level, ...]
    log_loss: float


def classify(
    estimator: Estimator, x: ArrayLike, levels: Sequence[float], *, vp_unit: float | None = None, seed: int = 0,
    labels: ArrayLike | None = None,
) -> Classification:  # fmt: skip
    """Tell noised from clean among x [B, *shape] at each of `levels`; every point is shown once in either form.

    vp_unit: None adds the noise; a number also divides by sqrt(1 + (s/vp_unit)^2), the variance-preserving contrast
    for data of that standard deviation.
    """
    points = np.asarray(x, np.float64)
    if not len(levels) or not all(s > 0 for s in levels):
        raise InputError(f"noise levels: got {list(levels)}, expected at least one, all above 0")
    rng = np.random.default_rng(seed)
    both = None if labels is None else np.tile(np.asarray(labels), 2)
    noised = np.arange(2 * len(points)) >= len(points)
    found, losses = [], []
    for s in levels:
        scale = 1.0 if vp_unit is None else float(np.sqrt(1 + (s / vp_unit) ** 2))
        w = np.concatenate([points, (points + s * rng.standard_normal(points.shape)) / scale])
        llr = estimator.ratio(w, s, scale=scale, labels=both).value
        losses.append(log_losses(llr, noised))
        level = {
            "log_loss": float(losses[-1].mean()),
            "area": area(llr, noised),
            "calibration": calibration(llr, noised),
            "energy_area": area(_energy(estimator, scale * w, s, both), noised),
        }
        found.append(Level(s=float(s), **level))
    return Classification(levels=tuple(found), log_loss=float(np.mean(losses)))


def _energy(estimator: Estimator, y: Floats, s: float, labels: NDArray[np.int64] | None) -> Floats:
    """|y - D(y, s)|^2 of points y [B, *shape]."""
    x = y.astype(estimator.dtype)
    given = () if labels is None else (labels,)
    out = np.asarray(estimator.denoise(x, np.full(len(x), s, x.dtype), *given), np.float64)
    return np.asarray(((y - out) ** 2).reshape(len(y), -1).sum(axis=1))


def log_losses(llr: Floats, noised: NDArray[np.bool_]) -> Floats:
    """-log of the probability given to the truth, one for each point."""
    return np.logaddexp(0.0, np.where(noised, -llr, llr))


def area(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a random positive scores above a random negative, ties counted half (Mann-Whitney)."""
    order, counts = np.unique(score, return_inverse=True, return_counts=True)[1:]
    rank = (np.cumsum(counts) - (counts - 1) / 2)[order]
    n = int(positive.sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def calibration(llr: Floats, noised: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Mean distance between what was foretold and what was so, over bins of the foretold probability."""
    p = 0.5 * (1 + np.tanh(llr / 2))
    cell = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(cell, weights=noised - p, minlength=bins))
    return float(gaps.sum() / len(p))
