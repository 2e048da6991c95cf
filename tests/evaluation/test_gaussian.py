"""The Gaussian against textbook formulas, and its denoiser against the gradient of its density."""

import numpy as np
import pytest

from ncdeploy.errors import InputError
from ncdeploy.evaluation.gaussian import Gaussian
from ncdeploy.modelinfo import ModelInfo


def data(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((500, 3)) @ np.array([[1.0, 0.5, 0], [0, 0.4, 0.2], [0, 0, 2.0]]) + [1.0, 0, -2]


def test_fit_has_the_moments_of_the_data() -> None:
    fitted = Gaussian.fitted(data().reshape(500, 1, 3), least_std=1e-3)
    assert fitted.basis is not None
    np.testing.assert_allclose(fitted.mean, data().mean(0))
    np.testing.assert_allclose(
        fitted.basis @ np.diag(fitted.variances) @ fitted.basis.T, np.cov(data().T, bias=True), atol=1e-12
    )


def test_density_is_the_textbook_one() -> None:
    fitted, x = Gaussian.fitted(data(), least_std=1e-3), data(1)[:4]
    covariance = np.cov(data().T, bias=True) + 0.3**2 * np.eye(3)
    offset = x - data().mean(0)
    wanted = -0.5 * np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
    wanted -= 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(fitted.log_prob(x, 0.3), wanted, rtol=1e-9)
    assert np.abs(fitted.log_prob(x, 0.4) - wanted).min() > 1e-3


def test_denoiser_is_tweedies() -> None:
    """D(x; sigma) = x + sigma^2 grad log p_sigma(x), with a noise level of its own for each row."""
    fitted, x, sigma = Gaussian.fitted(data(), least_std=1e-3), data(1)[:4], np.array([0.1, 0.5, 1.0, 4.0])
    gradient = np.stack(
        [
            (fitted.log_prob(x + 1e-5 * axis, sigma) - fitted.log_prob(x - 1e-5 * axis, sigma)) / 2e-5
            for axis in np.eye(3)
        ],
        axis=1,
    )
    np.testing.assert_allclose(fitted(x, sigma), x + sigma[:, None] ** 2 * gradient, rtol=1e-6)


@pytest.mark.parametrize(("s", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.5, 1.3)])
def test_mean_square_is_that_of_draws(s: float, scale: float) -> None:
    fitted, x, tau = Gaussian.fitted(data(), least_std=1e-3), data(1)[0], 0.7
    n = np.random.default_rng(2).standard_normal((200_000, 3))
    variance = (scale * tau) ** 2 + s**2
    D = fitted(scale * (x + tau * n), np.sqrt(variance))
    squares = (((s**2 * n - scale * tau * (scale * x - D)) / variance) ** 2).sum(axis=1)
    found = float(fitted.mean_square(x, np.array([tau]), s, scale)[0])
    assert abs(found - squares.mean()) < 4 * squares.std() / np.sqrt(len(n))


def test_few_samples_give_variances_alone_and_constant_values_a_least_spread() -> None:
    flat = np.zeros((5, 3))
    flat[:, 0] = np.arange(5)
    fitted = Gaussian.fitted(flat, least_std=0.01)
    assert fitted.basis is None
    np.testing.assert_allclose(fitted.variances, [2.0, 1e-4, 1e-4])


def test_what_a_model_says_of_its_data() -> None:
    info = ModelInfo(shape=(1, 2), sigma_min=0.1, sigma_max=9.0, sigma_data=0.5, mean=(1.0, 2.0))
    described = Gaussian.described(info)
    np.testing.assert_array_equal(described.mean, [1, 2])
    np.testing.assert_array_equal(described.variances, [0.25, 0.25])


def test_bad_gaussians() -> None:
    with pytest.raises(InputError, match="positive variances"):
        Gaussian(mean=np.zeros(2), variances=np.array([1.0, 0.0]))
    with pytest.raises(InputError, match="at least 2"):
        Gaussian.fitted(np.zeros((1, 3)), least_std=0.1)
