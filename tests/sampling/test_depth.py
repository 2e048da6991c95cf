"""How many sweeps and evaluations the parallel driver needs on the exact denoiser, at its default tolerance.

The bounds are 10 % above what a solve with the scalar Jacobian is known to need there.
"""

from functools import cache

import numpy as np
import pytest

from ncdeploy import SampleOptions, make_plan, sample
from oracle import digits, error_curve

SEEDS = range(16)
DOUBLE = np.zeros((), np.float64)


@cache
def sequential(solver: str, steps: int) -> np.ndarray:
    return sample(
        digits(), make_plan(solver, steps), seeds=SEEDS, options=SampleOptions(shape=(64,), like=DOUBLE)
    ).samples


@pytest.mark.parametrize(
    ("solver", "steps", "window", "sweeps", "nfe"),
    [
        ("ddpm", 1000, 64, 29.8, 1.7),
        ("ddpm", 1000, 256, 14.5, 2.8),
        ("ddim", 1000, 256, 10.8, 2.1),
        ("ddim", 100, 100, 9.8, 3.4),
        ("dpmpp_2m", 25, 25, 9.1, 3.6),
        ("heun", 18, 35, 9.3, 3.8),
    ],
)
def test_depth_and_nfe(solver: str, steps: int, window: int, sweeps: float, nfe: float) -> None:
    plan = make_plan(solver, steps)
    result = sample(
        digits(), plan, seeds=SEEDS, window=window,
        options=SampleOptions(shape=(64,), like=DOUBLE, error_curve=error_curve(), mean=digits().means.mean(0)),
    )  # fmt: skip
    assert result.sweeps.mean() <= 1.1 * sweeps
    assert result.nfe / plan.evaluations <= 1.1 * nfe
    error = np.sqrt(((result.samples - sequential(solver, steps)) ** 2).mean(-1))
    assert np.median(error) <= 2e-4
    assert (error > 1e-2).mean() <= 0.02
