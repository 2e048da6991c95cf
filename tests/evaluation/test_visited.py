"""The exact denoiser of the data makes no error on any state; one that is wrong off the data shows there only."""

import numpy as np
import pytest

from ncdeploy import ModelInfo, make_plan
from ncdeploy.errors import InputError
from ncdeploy.evaluation.quality import measure_quality
from ncdeploy.evaluation.visited import visited_error
from ncdeploy.sampling.posterior import Posterior
from oracle import GaussianMixture

MEANS = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
STD = 0.1
INFO = ModelInfo(shape=(2,), sigma_min=0.002, sigma_max=160.0, sigma_data=0.8)
MIXTURE = GaussianMixture(MEANS, STD)
DATA = MIXTURE.sample(500).astype(np.float32)


def exact(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return MIXTURE(x, sigma).astype(np.float32)


def careless(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Right on the training distribution, wrong where no data with noise sigma would lie."""
    out = exact(x, sigma)
    far = np.sqrt(((x - out) ** 2).sum(axis=1)) > 3.5 * np.hypot(sigma, STD)
    return (out + np.where(far, 3 * np.minimum(sigma, 1), 0)[:, None]).astype(np.float32)


def test_posterior_is_the_mixtures_denoiser() -> None:
    rng = np.random.default_rng(0)
    x, sigma = 3 * rng.standard_normal((50, 1, 2)), rng.uniform(0.01, 3, 50)
    np.testing.assert_allclose(Posterior(MEANS, std=STD)(x, sigma), MIXTURE(x, sigma), atol=1e-12)
    nearest = MEANS[np.argmin(((x - MEANS) ** 2).sum(-1), axis=1)]
    np.testing.assert_allclose(Posterior(MEANS[:, None])(x, 1e-3)[:, 0], nearest, atol=1e-9)
    with pytest.raises(InputError, match="posterior"):
        Posterior(np.zeros((0, 2)))


def run(denoise, *, window: int | None = 50):
    return visited_error(
        denoise,
        INFO,
        make_plan("ddpm", 200),
        Posterior(MEANS, std=STD),
        DATA,
        window=window,
        seeds=range(8),
        tolerance=1e-2,
    )


def test_errors_are_found_where_they_are() -> None:
    right, wrong = run(exact), run(careless)
    assert right.visited < 1e-4
    assert right.training < 1e-4
    assert wrong.visited > 0.05
    assert max(g.visited - 2 * g.training for g in wrong.groups) > 0.05  # more than on training states
    assert sum(g.states for g in right.groups) > 1000
    for group in right.groups:
        assert 0 < group.sweeps[0] <= group.sweeps[1]
        assert group.sigma[0] < group.sigma[1] < 160.2


def test_sequential_states_are_judged_too() -> None:
    right, wrong = run(exact, window=None), run(careless, window=None)
    assert right.visited < 1e-4
    assert wrong.visited > 1e-3
    assert wrong.groups[-1].sweeps[1] == 200
    assert sum(g.states for g in right.groups) == 200 * 8


def test_quality_of_an_exact_model_is_that_of_data() -> None:
    def off(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        return (exact(x, sigma) + 0.3).astype(np.float32)

    plans = [(make_plan("dpmpp_2m", 12), [(12, 1e-3), (99, 1e-2)])]
    for denoise in (exact, off):
        denoise.info = INFO  # type: ignore[attr-defined]
    good, bad = (measure_quality(d, plans, DATA, MIXTURE.sample(500, seed=9), n=200) for d in (exact, off))
    assert [run.window for run in good.runs] == [None, 12, 12]
    assert [run.tolerance for run in good.runs] == [None, 1e-3, 1e-2]
    assert good.runs[0].depth == 12
    assert good.runs[2].depth <= good.runs[1].depth < 12
    assert good.runs[0].rms is None
    assert good.runs[1].rms is not None
    assert good.runs[1].rms < 1e-3
    assert good.samples.shape == (200, 2)
    for one, other in zip(good.runs, bad.runs, strict=True):
        assert one.energy < 4 * good.energy_floor < other.energy
        assert one.mmd < 4 * good.mmd_floor < other.mmd
    named = measure_quality(exact, plans, DATA, MIXTURE.sample(500, seed=9), n=200, bandwidth=0.1)
    assert named.bandwidth == 0.1
    assert named.mmd_floor > good.mmd_floor
