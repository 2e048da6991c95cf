"""Noise classification: the scores against brute force, and an exact model against Bayes."""

import math

import numpy as np
import pytest

from ncdeploy.errors import InputError
from ncdeploy.evaluation.budget import Budget
from ncdeploy.evaluation.classification import area, calibration, classify, log_losses
from ncdeploy.evaluation.gaussian import Gaussian
from ncdeploy.evaluation.likelihood import Estimator


def test_area_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    score, positive = np.round(rng.standard_normal(60), 1), rng.random(60) < 0.3  # rounding makes ties
    pairs = score[positive][:, None] - score[~positive]
    assert area(score, positive) == pytest.approx((np.sum(pairs > 0) + np.sum(pairs == 0) / 2) / pairs.size)
    assert area(positive.astype(float), positive) == 1
    assert area(np.zeros(60), positive) == 0.5


def test_calibration_and_log_loss_know_a_calibrated_guess() -> None:
    rng = np.random.default_rng(0)
    llr = 2 * rng.standard_normal(100_000)
    noised = rng.random(llr.size) < 1 / (1 + np.exp(-llr))
    assert calibration(llr, noised) < 0.01
    assert calibration(3 * llr, noised) > 0.05
    certain = np.array([99.0, 3.0])  # one cell, although the first rounds to a probability of 1
    assert calibration(certain, np.array([False, True])) == pytest.approx(0.5 / (1 + np.exp(-3)))
    p = 1 / (1 + np.exp(-llr))
    np.testing.assert_allclose(log_losses(llr, noised), -np.log(np.where(noised, p, 1 - p)), rtol=1e-9)
    assert log_losses(llr, noised).mean() < log_losses(3 * llr, noised).mean()
    assert log_losses(np.zeros(4), np.arange(4) < 2) == pytest.approx(math.log(2))


def _energy(denoise, y: np.ndarray, s: float) -> np.ndarray:
    return ((y - denoise(y, np.full(len(y), s))) ** 2).sum(axis=1)


@pytest.mark.parametrize("vp_unit", [None, 0.7])
def test_an_exact_model_reaches_bayes_and_a_wrong_one_does_not(vp_unit: float | None) -> None:
    gaussian = Gaussian(mean=np.array([0.5, -0.5]), variances=np.array([0.1, 1.0]))
    x = gaussian.mean + np.sqrt(gaussian.variances) * np.random.default_rng(0).standard_normal((300, 2))
    s = 0.6
    scale = 1.0 if vp_unit is None else math.sqrt(1 + (s / vp_unit) ** 2)
    both = np.concatenate([x, (x + s * np.random.default_rng(1).standard_normal(x.shape)) / scale])
    noised = np.arange(600) >= 300
    exact = gaussian.log_prob(scale * both, s) + 2 * math.log(scale) - gaussian.log_prob(both)
    bayes = log_losses(exact, np.arange(600) >= 300).mean()

    def scored(denoise) -> float:
        estimator = Estimator(
            denoise=denoise, reference=gaussian, sigma_min=0.002, sigma_max=160.0, dtype=np.float64,
            budget=Budget(repeats=2, levels=16),
        )  # fmt: skip
        found = classify(estimator, x, [s], vp_unit=vp_unit, seed=1)
        assert found.log_loss == found.levels[0].log_loss
        assert found.levels[0].energy_area == pytest.approx(area(_energy(denoise, scale * both, s), noised), abs=1e-12)
        assert vp_unit is not None or found.levels[0].energy_area > 0.55
        return found.log_loss

    assert scored(gaussian) == pytest.approx(bayes, abs=0.005)
    assert scored(lambda y, sigma: 0.7 * gaussian(y, sigma)) > bayes + 0.03


def test_bad_levels() -> None:
    gaussian = Gaussian(mean=np.zeros(2), variances=np.ones(2))
    estimator = Estimator(denoise=gaussian, reference=gaussian, sigma_min=0.01, sigma_max=10.0)
    with pytest.raises(InputError, match="noise levels"):
        classify(estimator, np.zeros((3, 2)), [0.5, 0.0])
