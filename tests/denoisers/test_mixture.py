"""The exact denoiser against its own density, against brute force and against closed forms."""

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from ncdeploy.denoisers import Mixture, measure_error_curve
from ncdeploy.errors import DependencyError, InputError


@pytest.fixture(scope="module")
def small() -> Mixture:
    means = np.random.default_rng(0).normal(size=(6, 1, 2, 2))
    return Mixture(means, 0.2, weights=np.arange(1, 7)).double()


@pytest.fixture(scope="module")
def digits() -> Mixture:
    return Mixture.digits()


def brute_force(mixture: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
    """The definition, term by term, in float64."""
    x, means = x.double().flatten(1), mixture.means.double().flatten(1)
    noise, signal = sigma.double()[:, None] ** 2, mixture.std**2
    logits = -(torch.cdist(x, means, compute_mode="donot_use_mm_for_euclid_dist") ** 2) / (2 * (noise + signal))
    mu_hat = (logits + mixture.weights.double().log()).softmax(1) @ means
    return ((signal * x + noise * mu_hat) / (noise + signal)).reshape(-1, *mixture.info.shape)


def test_density_matches_an_independent_implementation(small: Mixture) -> None:
    sigma = 0.7
    x = small.sample(9, torch.Generator().manual_seed(0))
    std = math.hypot(small.std, sigma)
    parts = torch.distributions.Independent(torch.distributions.Normal(small.means.flatten(1), std), 1)
    family = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(small.weights), parts)
    expected = family.log_prob(x.flatten(1))
    torch.testing.assert_close(small.log_prob(x, sigma), expected)
    torch.testing.assert_close(small.log_prob(x, torch.full((9,), sigma).double()), expected)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 2.0, 50.0])
def test_tweedie(small: Mixture, sigma: float) -> None:
    """D = x + sigma^2 grad log p_sigma(x), the gradient by central differences."""
    x = small.sample(8, torch.Generator().manual_seed(1))
    x = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-5 * math.hypot(sigma, small.std)
    shifts = step * torch.eye(4, dtype=torch.float64).reshape(4, 1, 1, 2, 2)
    slopes = [(small.log_prob(x + s, sigma) - small.log_prob(x - s, sigma)) / (2 * step) for s in shifts]
    gradient = torch.stack(slopes, 1).reshape(x.shape)
    denoised = small(x, torch.full((8,), sigma, dtype=torch.float64))
    torch.testing.assert_close(denoised, x + sigma**2 * gradient, rtol=0, atol=1e-7 * (1 + sigma**2))


def test_float32_on_digits_matches_brute_force_at_every_sigma(digits: Mixture) -> None:
    sigma = torch.tensor(np.geomspace(1e-3, 160, 200), dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    # Halfway between two digits is where the softmax is the most sensitive to rounding.
    between = (digits.sample(200, generator) + digits.sample(200, generator)) / 2
    x = between + sigma.reshape(-1, 1, 1, 1) * torch.randn(between.shape, generator=generator)
    exact = brute_force(digits, x, sigma)
    assert (digits(x, sigma) - exact).abs().max() < 2e-5
    assert (digits(x, 1.01 * sigma) - exact).abs().max() > 1e-3


def test_error_curve_of_one_gaussian_is_the_harmonic_sum() -> None:
    """The posterior variance of N(0, s^2) under noise sigma is s^2 sigma^2 / (s^2 + sigma^2)."""
    gaussian = Mixture(np.zeros((1, 16)), 0.5)
    curve = gaussian.info.error_curve
    assert curve is not None
    sigma = np.array(curve.sigmas)
    np.testing.assert_allclose(curve.mse, 0.25 * sigma**2 / (0.25 + sigma**2), rtol=0.03)


def test_error_curve_does_not_depend_on_the_batch(small: Mixture) -> None:
    x = small.sample(50, torch.Generator().manual_seed(4))
    one, other = (measure_error_curve(small, x, sigmas=[0.1, 1.0, 10.0], batch=b) for b in (7, 64))
    np.testing.assert_allclose(one.mse, other.mse, rtol=1e-12)
    assert one.sigmas == (0.1, 1.0, 10.0)


def test_samples_have_the_moments_of_the_mixture(small: Mixture) -> None:
    x = small.sample(40_000, torch.Generator().manual_seed(5)).flatten(1)
    share, means = small.weights / small.weights.sum(), small.means.flatten(1)
    mean = share @ means
    second = (means.T * share) @ means + small.std**2 * torch.eye(4)
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.T @ x / len(x), second, atol=0.05, rtol=0)
    assert torch.equal(small.sample(40_000, torch.Generator().manual_seed(5)).flatten(1), x)


def test_digits_describe_themselves(digits: Mixture) -> None:
    info = digits.info
    pixels = digits.means
    assert info.shape == (1, 8, 8)
    assert len(pixels) == 1797
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    assert info.sigma_data == pytest.approx(math.hypot(float(pixels.std(correction=0)), 0.1), rel=1e-5)
    assert info.offset + info.scale * -1.0 == 0.0
    assert info.offset + info.scale * 1.0 == 16.0


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DependencyError, match="pip install"):
        Mixture.digits()


@pytest.mark.parametrize(
    ("means", "std", "weights", "named"),
    [
        (np.zeros(3), 0.1, None, "means"),
        (np.zeros((0, 3)), 0.1, None, "means"),
        (np.full((2, 3), np.nan), 0.1, None, "means"),
        (np.zeros((2, 3)), 0.0, None, "std"),
        (np.zeros((2, 3)), float("nan"), None, "std"),
        (np.zeros((2, 3)), 0.1, [1.0], "weights"),
        (np.zeros((2, 3)), 0.1, [1.0, -1.0], "weights"),
    ],
)
def test_impossible_mixtures_are_refused(means: np.ndarray, std: float, weights: list[float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Mixture(means, std, weights)


def test_labels_are_refused(small: Mixture) -> None:
    with pytest.raises(InputError, match="unconditional"):
        small(torch.zeros(1, 1, 2, 2).double(), torch.ones(1).double(), torch.zeros(1, dtype=torch.int64))
