"""Heun with churn against algorithm 2 of Karras et al. 2022, step by step, under the same noise."""

from math import inf, sqrt

import numpy as np
import pytest

from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.schedules import karras
from oracle import digits, error_curve

N, DOUBLE = 3, np.zeros((), np.float64)
OPTIONS = SampleOptions(shape=(64,), like=DOUBLE, error_curve=error_curve())


def xi(node: int) -> np.ndarray:
    return normal(np, range(N), [[node]] * N, 64)[:, 0]


def algorithm_2(steps: int, churn: float, noise: float, low: float, high: float) -> np.ndarray:
    """In the names of the paper. The first draw of the plan stands for x_0 and its first eps together."""
    t = karras(steps, sigma_min=0.02)
    x = None
    for i in range(steps):
        gamma = min(churn / steps, sqrt(2) - 1) if low <= t[i] <= high else 0.0
        t_hat = t[i] + gamma * t[i]
        added = noise * sqrt(t_hat**2 - t[i] ** 2)
        x_hat = sqrt(t[0] ** 2 + added**2) * xi(0) if x is None else x + added * xi(2 * i)
        d = (x_hat - digits()(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_next = (x - digits()(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d + d_next) / 2
    assert x is not None
    return x


@pytest.mark.parametrize("steps", [7, 18])
@pytest.mark.parametrize(
    ("churn", "noise", "low", "high"),
    [(0.0, 1.0, 0.0, inf), (2.0, 1.0, 0.0, inf), (40.0, 1.003, 0.05, 50.0), (3.0, 1.0, 0.3, 100.0)],
)
def test_it_is_algorithm_2(steps: int, churn: float, noise: float, low: float, high: float) -> None:
    plan = make_plan("heun", steps, churn=churn, churn_noise=noise, churn_min=low, churn_max=high)
    exact = algorithm_2(steps, churn, noise, low, high)
    assert plan.evaluations == 2 * steps - 1
    assert plan.stochastic is (churn > 0)
    step_by_step = sample(digits(), plan, seeds=range(N), options=OPTIONS)
    assert np.abs(step_by_step.samples - exact).max() < 1e-12
    at_once = sample(digits(), plan, seeds=range(N), window=8, tolerance=0, options=OPTIONS)
    assert np.abs(at_once.samples - exact).max() < 1e-12
    if churn:
        other = make_plan("heun", steps, churn=churn, churn_noise=1.02 * noise, churn_min=low, churn_max=high)
        assert np.abs(sample(digits(), other, seeds=range(N), options=OPTIONS).samples - exact).max() > 1e-3


def test_noise_is_added_at_the_levels_that_are_asked_for() -> None:
    plan = make_plan("heun", 12, churn=6.0, churn_min=0.1, churn_max=10.0)
    starts = np.append(0, np.arange(2, len(plan), 2))  # of the steps; between them lie predictions
    levels = karras(12, sigma_min=0.02)[:-1]
    raised = (levels >= 0.1) & (levels <= 10.0)
    assert np.allclose(plan.sigmas[starts], np.where(raised, levels * (1 + min(0.5, sqrt(2) - 1)), levels))
    assert np.array_equal(plan.noise[starts][1:] > 0, raised[1:])
    assert plan.noise[0] == levels[0]
