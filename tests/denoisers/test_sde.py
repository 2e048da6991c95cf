"""The VP and VE columns of Karras et al. 2022, table 1: the optimal network must give the exact denoiser."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ncdeploy.denoisers import VESDE, VPSDE, Mixture
from ncdeploy.errors import InputError

SIGMAS = torch.tensor(np.geomspace(2e-3, 150, 25))


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture(np.random.default_rng(0).normal(size=(5, 3)), 0.3, weights=[1, 2, 3, 4, 5]).double()


class Optimal(nn.Module):
    """F that makes D exact, found from its own inputs: the noise input alone tells sigma."""

    def __init__(self, exact: Mixture, *, preserving: bool, beta_d: float = 19.9, beta_min: float = 0.1) -> None:
        super().__init__()
        self.exact, self.preserving, self.beta_d, self.beta_min = exact, preserving, beta_d, beta_min

    def forward(self, scaled: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        if not self.preserving:
            sigma = 2 * noise.exp()
            return (self.exact(scaled, sigma) - scaled) / sigma[:, None]
        t = noise / 999
        sigma = torch.expm1(self.beta_d * t**2 / 2 + self.beta_min * t).sqrt()  # sigma(t) of the same table
        x = scaled * (1 + sigma[:, None] ** 2).sqrt()
        return (x - self.exact(x, sigma)) / sigma[:, None]


@pytest.mark.parametrize("preserving", [True, False])
def test_the_optimal_network_is_the_exact_denoiser(mixture: Mixture, preserving: bool) -> None:
    network = Optimal(mixture, preserving=preserving)
    denoiser = VPSDE(network, mixture.info) if preserving else VESDE(network, mixture.info)
    x = torch.randn(len(SIGMAS), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * (1 + SIGMAS[:, None] ** 2).sqrt()
    assert torch.allclose(denoiser(x, SIGMAS), mixture(x, SIGMAS), rtol=1e-6, atol=1e-7)


def test_another_process_is_another_denoiser(mixture: Mixture) -> None:
    network = Optimal(mixture, preserving=True, beta_d=10.0)
    x, sigma = torch.ones(1, 3).double(), torch.ones(1).double()
    matching, other = (VPSDE(network, mixture.info, beta_d=beta_d) for beta_d in (10.0, 19.9))
    assert torch.allclose(matching(x, sigma), mixture(x, sigma))
    assert not torch.allclose(other(x, sigma), mixture(x, sigma), atol=1e-2)


@pytest.mark.parametrize("wrong", [{"beta_d": 0.0}, {"beta_min": math.nan}, {"steps": 1}])
def test_impossible_processes(mixture: Mixture, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="beta_d, beta_min, steps"):
        VPSDE(nn.Identity(), mixture.info, **wrong)  # type: ignore[arg-type]
