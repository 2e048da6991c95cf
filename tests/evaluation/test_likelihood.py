"""Likelihoods and ratios against their exact values: Gaussians in 1, 2, 8 and 64 dimensions, and digits."""

import numpy as np
import pytest

from ncdeploy.errors import InputError, NumericalError
from ncdeploy.evaluation.budget import Budget
from ncdeploy.evaluation.gaussian import Gaussian
from ncdeploy.evaluation.likelihood import Estimate, Estimator, shares
from ncdeploy.modelinfo import ModelInfo
from oracle import digits

FAR = 10.0


def exact_gaussian(dim: int) -> Gaussian:
    rng = np.random.default_rng(dim)
    basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return Gaussian(mean=rng.standard_normal(dim), variances=np.geomspace(0.05, 2, dim), basis=basis)


def draw(gaussian: Gaussian, n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    assert gaussian.basis is not None
    return gaussian.mean + rng.standard_normal((n, len(gaussian.mean))) * np.sqrt(gaussian.variances) @ gaussian.basis.T


def estimator(denoise, data: np.ndarray, **changes) -> Estimator:
    settings = {"sigma_min": 0.002, "sigma_max": 160.0, "dtype": np.float64, **changes}
    return Estimator(denoise=denoise, reference=Gaussian.fitted(data, least_std=1e-3), **settings)


def distances(found: Estimate, exact: np.ndarray, dim: int) -> np.ndarray:
    """To the exact values, in standard errors, which are at most 1 % of a nat per dimension."""
    assert found.error.max() <= 0.01 * dim
    return np.abs(found.value - exact) / found.error


@pytest.mark.parametrize("dim", [1, 2, 8, 64])
@pytest.mark.parametrize("far", [0.0, FAR], ids=["data", "far outside"])
def test_gaussians(dim: int, far: float) -> None:
    gaussian = exact_gaussian(dim)
    data = draw(gaussian, 4000)
    x = data[:8] + far * np.random.default_rng(2).standard_normal((8, dim)) / np.sqrt(dim)
    found = [estimator(gaussian, data, seed=seed) for seed in range(7)]  # noise of its own for each quantity
    p, p_s = gaussian.log_prob(x), gaussian.log_prob(x, 0.5)
    off = [distances(found[0].nll(x), -p, dim), distances(found[1].nll(x, s=0.5), -p_s, dim)]
    for s, plain, scaled in ((0.1, *found[2:4]), (1.0, *found[4:6])):
        off.append(distances(plain.ratio(x, s), gaussian.log_prob(x, s) - p, dim))
        r = np.sqrt(1 + s**2)
        exact = gaussian.log_prob(r * x, s) + dim * np.log(r) - p
        off.append(distances(scaled.ratio(x, s, scale=r), exact, dim))
    off.append(distances(found[6].ratio(x, 0.8, base=0.5), gaussian.log_prob(x, 0.8) - p_s, dim))
    # A standard error out of 32 repeats is uncertain itself: one value in a hundred lies beyond three.
    assert np.mean(np.stack(off) < 3) >= 0.95
    assert np.median(np.stack(off)) < 1


@pytest.mark.parametrize("far", [0.0, 0.5, 0.8], ids=["data", "outside", "far outside"])
def test_digits(far: float) -> None:
    """A mixture of 1797 components in 64 dimensions, which no Gaussian resembles."""
    mixture = digits()
    x = mixture.sample(2, seed=11) + far * np.random.default_rng(5).standard_normal((8, 64))[:2]
    found = estimator(mixture, mixture.sample(2000, seed=3), seed=2)
    checks = [
        (found.nll(x), -mixture.log_prob(x)),
        (found.ratio(x, 0.2), mixture.log_prob(x, 0.2) - mixture.log_prob(x)),
        (
            found.ratio(x, 0.5, scale=np.sqrt(1.25)),
            mixture.log_prob(np.sqrt(1.25) * x, 0.5) + 32 * np.log(1.25) - mixture.log_prob(x),
        ),
    ]
    for estimate, exact in checks:
        assert (np.abs(estimate.value - exact) / estimate.error).max() < 3
        assert estimate.error.max() <= 0.01 * 64


def test_hard_points_get_more_repeats() -> None:
    """Far outside the digits a few draws decide, which the first repeats may not hold."""
    mixture = digits()
    x = mixture.sample(4, seed=11)[3:] + 0.8 * np.random.default_rng(5).standard_normal((8, 64))[3:4]
    data, exact = mixture.sample(2000, seed=3), -mixture.log_prob(x)
    once = estimator(mixture, data, seed=4, budget=Budget(goal=None)).nll(x)
    more = estimator(mixture, data, seed=4).nll(x)
    assert once.error > 0.01 * 64 > more.error
    assert np.abs(more.value - exact) < 3 * more.error


def test_a_goal_asks_for_what_is_missing_and_no_more() -> None:
    budget = Budget(repeats=32, goal=0.01)
    assert budget.further(32, 0.64, 64) == 0  # reached
    assert budget.further(32, 2 * 0.64, 64) == 128  # four times the draws, and a quarter more to be sure
    assert budget.further(32, 0.65, 64) == 16
    assert budget.further(32, 100.0, 64) == 15 * 32
    assert budget.further(16 * 32, 100.0, 64) == 0
    assert Budget(goal=None).further(32, 100.0, 64) == 0


def test_shares_leave_less_variance_and_no_bias() -> None:
    """On a control that is in the gap to a share that varies over the levels."""
    rng = np.random.default_rng(0)
    share = np.linspace(-0.5, 1.5, 16)
    rest = rng.standard_normal((400, 32, 16))
    gap = 3.0 + share * rest + 0.1 * rng.standard_normal(rest.shape)
    left = np.stack([one - shares(one, control) * control for one, control in zip(gap, rest, strict=True)])
    assert left.std() < 0.3 * gap.std()
    assert abs(left.mean() - 3) < 4 * left.std() / np.sqrt(left.size)


def test_a_wrong_denoiser_shows() -> None:
    """What the tests above compare is sensitive: 1 % off in D is many standard errors off in nats."""
    gaussian = exact_gaussian(8)
    data = draw(gaussian, 4000)
    exact = -gaussian.log_prob(data[:3])
    wrong = estimator(lambda x, sigma: 0.99 * gaussian(x, sigma), data).nll(data[:3])
    assert (np.abs(wrong.value - exact) / wrong.error).min() > 3


def test_shape_dtype_and_labels_reach_the_denoiser() -> None:
    gaussian = exact_gaussian(8)
    x = draw(gaussian, 100)
    seen = set()

    def denoise(y: np.ndarray, sigma: np.ndarray, labels: np.ndarray) -> np.ndarray:
        seen.add((y.shape[1:], y.dtype.name, sigma.dtype.name, labels.dtype.name, *labels.tolist()))
        assert len(y) == len(sigma) == len(labels) <= 100
        return gaussian(y.reshape(-1, 8), sigma).reshape(y.shape).astype(y.dtype)

    found = estimator(denoise, x, dtype=np.float32, budget=Budget(repeats=2, levels=32, rows=100))
    estimate = found.nll(x[:2].reshape(2, 2, 4), labels=[7, 7])
    assert {key[:4] for key in seen} == {((2, 4), "float32", "float32", "int64")}
    assert {label for key in seen for label in key[4:]} == {7}
    np.testing.assert_allclose(estimate.value, -gaussian.log_prob(x[:2]), atol=0.1)


def test_noise_levels_stay_inside_what_the_model_knows() -> None:
    gaussian = exact_gaussian(2)
    asked = []

    def denoise(y: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        asked.extend([sigma.min(), sigma.max()])
        return gaussian(y, sigma)

    data = draw(gaussian, 1000)
    found = estimator(denoise, data, sigma_min=0.02, sigma_max=20.0, seed=1)
    x = data[:4]
    estimate = found.nll(x)
    found.ratio(x, 3.0, scale=2.0)
    assert min(asked) >= 0.02 * (1 - 1e-9)
    assert max(asked) <= 20 * (1 + 1e-9)
    # The ends of the integral are not lost: without the tails the value would be off by the tail of the spectrum.
    np.testing.assert_allclose(estimate.value, -gaussian.log_prob(x), atol=2e-3)


def test_of_a_model_with_and_without_data() -> None:
    gaussian = Gaussian(mean=np.full(2, 0.3), variances=np.full(2, 0.5))
    info = ModelInfo(shape=(2,), sigma_min=0.002, sigma_max=80.0, sigma_data=np.sqrt(0.5), mean=(0.3, 0.3))

    def engine(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        return gaussian(x, sigma).astype(np.float32)

    x = np.array([[0.1, 0.2], [1.0, -1.0]])
    data = gaussian.mean + np.sqrt(0.5) * np.random.default_rng(0).standard_normal((500, 2))
    for given in (None, data):
        found = Estimator.of(engine, info, given, budget=Budget(repeats=4, levels=16)).nll(x)
        np.testing.assert_allclose(found.value, -gaussian.log_prob(x), atol=0.05)


def test_means_and_errors() -> None:
    estimate = Estimate(value=np.array([1.0, 3.0]), error=np.array([0.3, 0.4]))
    assert estimate.mean() == pytest.approx((2.0, 0.25))


def test_bad_requests() -> None:
    gaussian = exact_gaussian(2)
    found = estimator(gaussian, draw(gaussian, 100), budget=Budget(repeats=2, levels=4))
    with pytest.raises(InputError, match="finite values"):
        found.nll(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match="of 2 each"):
        found.nll(np.zeros((4, 3)))
    with pytest.raises(InputError, match="below 160"):
        found.ratio(np.zeros((4, 2)), 200.0)
    with pytest.raises(InputError, match="0 or more"):
        found.ratio(np.zeros((4, 2)), -1.0)
    with pytest.raises(InputError, match="at least"):
        Budget(repeats=1)
    with pytest.raises(NumericalError, match="sigma"):
        estimator(lambda x, sigma: x * np.nan, draw(gaussian, 100)).nll(np.zeros((1, 2)))
