"""The denoising loss and its noise levels."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from ncdeploy.denoisers import build, default_config
from ncdeploy.errors import InputError
from ncdeploy.sampling import schedules
from ncdeploy.training.alphas import LogisticAlphas, principal_variances
from ncdeploy.training.denoising import NoiseLevels, denoising_loss, draw_levels, edm_weight

VARIANCES = torch.tensor([0.5, 0.2])
LEVELS = NoiseLevels(sigma_min=0.002, sigma_max=160.0)


def distribution(sigma: Tensor) -> np.ndarray:
    """The wanted cumulative distribution at each sigma."""
    bell = NormalDist(LEVELS.mean, LEVELS.std)
    low, high = math.log(LEVELS.sigma_min), math.log(LEVELS.sigma_max)
    below, above = bell.cdf(low), bell.cdf(high)
    logs = sigma.double().log().tolist()
    normal = np.array([(bell.cdf(v) - below) / (above - below) for v in logs])
    uniform = (np.array(logs) - low) / (high - low)
    return LEVELS.uniform * uniform + (1 - LEVELS.uniform) * normal


def deviation(sigma: Tensor) -> float:
    """Kolmogorov-Smirnov distance to the wanted distribution."""
    wanted = np.sort(distribution(sigma))
    return float(np.abs(wanted - (np.arange(len(wanted)) + 0.5) / len(wanted)).max())


def test_noise_levels_follow_their_distribution_far_closer_than_independent_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [LEVELS.draw(256, generator) for _ in range(8)]
    assert max(map(deviation, batches)) < 4 / 256
    # one level from each of 256 batches: the same distribution without stratification
    independent = torch.cat([LEVELS.draw(256, generator)[:1] for _ in range(256)])
    assert 6 / 256 < deviation(independent) < 0.12


def test_noise_levels_reach_what_samplers_ask_for() -> None:
    sigma = LEVELS.draw(4096, torch.Generator().manual_seed(1))
    assert float(sigma.min()) >= 0.002 * (1 - 1e-6)
    assert float(sigma.max()) <= 160 * (1 + 1e-6)
    assert float((sigma < 0.01).float().mean()) > 0.02
    assert float((sigma > 80).float().mean()) > 0.01


def test_bad_noise_levels() -> None:
    with pytest.raises(InputError, match="sigma range"):
        NoiseLevels(sigma_min=1.0, sigma_max=0.5)
    with pytest.raises(InputError, match="uniform"):
        NoiseLevels(sigma_min=0.1, sigma_max=1.0, uniform=1.5)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 3.0, 100.0])
def test_fresh_network_scores_one_at_every_noise_level(sigma: float) -> None:
    """With F = 0 the EDM denoiser is the best linear one, whose error is sigma^2 sigma_d^2 / (sigma^2 + sigma_d^2)."""
    generator = torch.Generator().manual_seed(0)
    x0 = 0.7 * torch.randn(40_000, 2, generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    denoiser = build(default_config((2,), sigma_data=0.7))
    level = torch.full((len(x0),), sigma)
    loss = denoising_loss(denoiser, x0, level, noise, None, weight=edm_weight(level, 0.7))
    assert float(loss.detach()) == pytest.approx(1, abs=0.02)


def test_loss_is_the_weighted_squared_error() -> None:
    x0, noise = torch.zeros(2, 3), torch.ones(2, 3)
    sigma = torch.tensor([0.5, 2.0])
    error = torch.tensor([[0.1], [0.3]])
    loss = denoising_loss(lambda x, s, labels: x0 + error, x0, sigma, noise, None, weight=edm_weight(sigma, 0.5))
    wanted = (0.01 * (0.25 + 0.25) / 0.0625 + 0.09 * (4 + 0.25) / 1.0) / 2
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("weighting", ["edm", "likelihood", "ddpm"])
def test_levels_are_spread_and_in_range(weighting: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sigma, weight = draw_levels(
        weighting, 4096, generator, sigma_min=0.02, sigma_max=50.0, sigma_data=0.5, variances=VARIANCES
    )
    assert sigma.dtype == weight.dtype == torch.float32
    assert float(sigma.min()) >= 0.02 * (1 - 1e-6)
    assert float(sigma.max()) <= 50 * (1 + 1e-6)
    assert bool((weight > 0).all())
    assert abs(float(torch.corrcoef(torch.stack([sigma.log(), torch.arange(4096.0)]))[0, 1])) < 0.1  # random order


def test_likelihood_weighting_is_the_likelihood() -> None:
    """For the exact denoiser of a Gaussian the loss is half the integral of lambda/(lambda + tau^2) over alpha, the
    part of -log p that training can change."""
    variance, low, high = 0.5, 0.01, 100.0
    generator = torch.Generator().manual_seed(0)
    x0 = math.sqrt(variance) * torch.randn(200_000, 1, generator=generator)
    sigma, weight = draw_levels(
        "likelihood", len(x0), generator, sigma_min=low, sigma_max=high, sigma_data=0.7, variances=VARIANCES
    )
    noise = torch.randn(x0.shape, generator=generator)

    def exact(x: Tensor, s: Tensor, labels: Tensor | None) -> Tensor:
        return variance / (variance + s[:, None] ** 2) * x

    loss = denoising_loss(exact, x0, sigma, noise, None, weight=weight)
    integral = math.log((variance / low**2 + 1) / (variance / high**2 + 1))  # of 1/(1 + e^-alpha/variance)
    assert float(loss) == pytest.approx(integral / 2, rel=0.02)


def test_likelihood_levels_are_as_wide_as_the_data_and_reach_both_ends() -> None:
    """Of data in the plane logistic with scale 3, around minus the mean logarithm of their variances."""
    alphas = LogisticAlphas.fitted(torch.tensor([0.5, 0.02]), 0.01, 100.0)
    loc = -(math.log(0.5) + math.log(0.02)) / 2
    assert (alphas.loc, alphas.scale) == (pytest.approx(loc), 3.0)
    u = torch.linspace(0, 1, 100_001)
    tau, weight = alphas.at(u)
    assert (float(tau[0]), float(tau[-1])) == (pytest.approx(100, rel=1e-5), pytest.approx(0.01, rel=1e-5))
    alpha = -2 * tau.log()
    density = 1 / torch.cosh((alpha - loc) / 6) ** 2 / 12  # of the logistic distribution
    kept = torch.sigmoid((alpha[-1] - loc) / 3) - torch.sigmoid((alpha[0] - loc) / 3)
    torch.testing.assert_close(weight, kept / density, rtol=1e-5, atol=0)
    assert float(weight.mean()) == pytest.approx(float(alpha[-1] - alpha[0]), rel=1e-3)  # the integral of 1
    # narrow data whose middle is far off the range's: no end is further than five scales, none weighs a draw away
    narrow = LogisticAlphas.fitted(torch.full((64,), 1e-9), 0.002, 160.0)
    assert narrow.scale == pytest.approx((2 * math.log(160) - 2 * math.log(0.002)) / 5)


def test_principal_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    x = torch.randn(1024, 3, generator=generator) * torch.tensor([2.0, 0.1, 0.0]) @ turn
    assert principal_variances(x).tolist() == pytest.approx([0.01, 4.0], rel=0.15)  # none of the flat direction
    few = principal_variances(torch.randn(5, 2, 40, generator=generator))
    assert len(few) == 4  # of five samples in 80 dimensions


def test_ddpm_weighting_is_the_error_of_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    sigma, weight = draw_levels(
        "ddpm", 1000, generator, sigma_min=0.002, sigma_max=160.0, sigma_data=0.5, variances=VARIANCES
    )
    table = np.sort(schedules.ddpm(1000)[:-1])
    np.testing.assert_allclose(np.sort(sigma.numpy()), table, rtol=1e-5)  # one of each step in a batch of 1000
    noise = torch.randn(1000, 3, generator=generator)
    loss = denoising_loss(lambda x, s, labels: x, torch.zeros(1000, 3), sigma, noise, None, weight=weight)
    assert float(loss) == pytest.approx(float((noise**2).mean()), rel=1e-5)  # D = x claims that there was no noise
