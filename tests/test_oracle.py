"""The oracle is what it claims: its denoiser, density and error curve agree with one another and with draws."""

import numpy as np
import pytest

from oracle import GaussianMixture, digits, error_curve


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_denoiser_is_tweedie_of_the_density(sigma: float) -> None:
    mixture = GaussianMixture([[-1.0, 0.5], [1.5, 0.0], [0.2, -1.0]], 0.3)
    x = mixture.sample(20) + sigma * np.random.default_rng(1).standard_normal((20, 2))
    h = 1e-5
    score = [(mixture.log_prob(x + h * e, sigma) - mixture.log_prob(x - h * e, sigma)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(mixture(x, sigma), x + sigma**2 * np.array(score).T, atol=1e-7)


def test_density_integrates_to_one() -> None:
    mixture = GaussianMixture([[-1.0], [1.5]], 0.3)
    x = np.linspace(-12, 12, 4001)
    density = np.exp(mixture.log_prob(x[:, None], 0.7))
    assert np.sum(density) * (x[1] - x[0]) == pytest.approx(1, abs=1e-12)


def test_error_curve_is_the_measured_error_and_the_jacobian() -> None:
    curve, data, rng = error_curve(), digits(), np.random.default_rng(3)
    x0 = data.sample(400, seed=11)
    for k in (5, 20, 28, 40):
        sigma = curve.sigmas[k]
        x = x0 + sigma * rng.standard_normal(x0.shape)
        squared = np.mean((data(x, sigma) - x0) ** 2)
        assert curve.mse[k] == pytest.approx(squared, rel=0.1)
        probe = rng.choice([-1.0, 1.0], x.shape)
        change = (data(x + 1e-5 * probe, sigma) - data(x - 1e-5 * probe, sigma)) / 2e-5
        assert curve.mse[k] / sigma**2 == pytest.approx(np.mean(probe * change), rel=0.1)


def test_rows_have_their_own_sigma_and_any_shape() -> None:
    data, sigma = digits(), np.array([0.1, 1.0, 10.0])
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    together = data(x, sigma)
    assert together.shape == x.shape
    assert together.dtype == np.float64
    for row in range(3):
        np.testing.assert_allclose(together[row : row + 1], data(x[row : row + 1], sigma[row]), atol=1e-12)
