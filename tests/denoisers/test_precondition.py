"""A network that predicts the optimum of its own target must become the exact denoiser, whatever it predicts."""

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ncdeploy.denoisers import EDM, VP, Mixture, NoiseTable
from ncdeploy.denoisers.precondition import Prediction
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo

SIGMAS = torch.tensor(np.geomspace(1e-3, 160, 40))
TABLES = {
    "linear": NoiseTable.linear(),
    "cosine": NoiseTable.cosine(),
    "given": NoiseTable.given([0.9, 0.5, 0.2, 0.01]),
}


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    means = np.random.default_rng(0).normal(size=(5, 3))
    return Mixture(means, 0.3, weights=[1, 2, 3, 4, 5]).double()


def points(sigma: Tensor, dimensions: int = 3) -> Tensor:
    noise = torch.randn(len(sigma), dimensions, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise * (1 + sigma[:, None] ** 2).sqrt()


class OptimalF(nn.Module):
    """EDM's F for which D is exact: (D - c_skip x) / c_out, written in F's own inputs."""

    def __init__(self, exact: Mixture, sigma_data: float) -> None:
        super().__init__()
        self.exact, self.sigma_data = exact, sigma_data

    def forward(self, scaled: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        sigma = (4 * c_noise).exp()
        total = (sigma**2 + self.sigma_data**2).sqrt()[:, None]
        x = scaled * total
        residual = self.exact(x, sigma) - (self.sigma_data / total) ** 2 * x
        return residual * total / (sigma[:, None] * self.sigma_data)


class OptimalVP(nn.Module):
    """The optimal eps, v or x0 prediction as a function of the variance-preserving state and the step."""

    def __init__(self, exact: Mixture, predicts: str, table: NoiseTable) -> None:
        super().__init__()
        self.exact, self.predicts, self.log_sigmas = exact, predicts, table.log_sigmas()

    def forward(self, x_vp: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        log_sigma = np.interp(t.numpy(), np.arange(len(self.log_sigmas)), self.log_sigmas)
        sigma = torch.from_numpy(np.exp(log_sigma))
        alpha, noise = (1 + sigma**2).rsqrt()[:, None], (sigma * (1 + sigma**2).rsqrt())[:, None]
        x0 = self.exact(x_vp / alpha, sigma)
        eps = (x_vp - alpha * x0) / noise
        return {"x0": x0, "eps": eps, "v": alpha * eps - noise * x0}[self.predicts]


class Record(nn.Module):
    """Returns a fixed output and remembers what it was given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        self.x, self.noise = x, noise
        return self.output


def test_edm_is_exact_at_the_optimal_network(mixture: Mixture) -> None:
    x = points(SIGMAS)
    exact = mixture(x, SIGMAS)
    torch.testing.assert_close(EDM(OptimalF(mixture, mixture.info.sigma_data), mixture.info)(x, SIGMAS), exact)
    wrong = EDM(OptimalF(mixture, 1.1 * mixture.info.sigma_data), mixture.info)
    assert (wrong(x, SIGMAS) - exact).abs().max() > 1e-2


def test_edm_without_a_network_is_exact_for_one_gaussian() -> None:
    info = ModelInfo(shape=(3,), sigma_min=0.01, sigma_max=100, sigma_data=0.7)
    gaussian = Mixture(np.zeros((1, 3)), 0.7).double()
    x = points(SIGMAS)
    torch.testing.assert_close(EDM(Record(torch.zeros_like(x)), info)(x, SIGMAS), gaussian(x, SIGMAS))


def test_edm_network_sees_unit_variance_and_a_quarter_of_log_sigma() -> None:
    info = ModelInfo(shape=(3,), sigma_min=0.01, sigma_max=100, sigma_data=0.5)
    network = Record(torch.zeros(40, 3, dtype=torch.float64))
    x = torch.ones(40, 3, dtype=torch.float64)
    EDM(network, info)(x, SIGMAS)
    torch.testing.assert_close(network.x[:, 0] ** 2 * (SIGMAS**2 + 0.25), torch.ones_like(SIGMAS))
    torch.testing.assert_close((4 * network.noise).exp(), SIGMAS)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_vp_is_exact_at_the_optimal_network(mixture: Mixture, predicts: str, table: NoiseTable) -> None:
    low, high = table.sigmas()[[0, -1]]
    sigma = torch.tensor(np.geomspace(low, high, 50))
    x = points(sigma)
    exact = mixture(x, sigma)
    for claimed in ("eps", "v", "x0"):
        vp = VP(OptimalVP(mixture, predicts, table), mixture.info, predicts=cast(Prediction, claimed), table=table)
        error = (vp(x, sigma) - exact).abs().max()
        assert error < 1e-6 if claimed == predicts else error > 1e-2


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_vp_keeps_float32_accuracy_at_every_sigma(mixture: Mixture, predicts: Prediction) -> None:
    x = points(SIGMAS)
    output = torch.randn(40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    vp = VP(Record(output), mixture.info, predicts=predicts, table=NoiseTable.linear())
    reference = vp(x, SIGMAS)
    vp.network.output = output.float()
    single = vp(x.float(), SIGMAS.float())
    assert single.dtype == torch.float32
    size = x.abs() + (SIGMAS[:, None] * output.abs() if predicts == "eps" else output.abs())
    assert ((single - reference).abs() / size).max() < 1e-6


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_step_is_exact_on_the_table_linear_between_and_clamped_outside(mixture: Mixture, table: NoiseTable) -> None:
    vp = VP(nn.Identity(), mixture.info, predicts="eps", table=table)
    logs = torch.tensor(table.log_sigmas())
    steps = torch.arange(len(logs), dtype=torch.float64)
    torch.testing.assert_close(vp.step(logs.exp()), steps, atol=1e-8, rtol=0)
    torch.testing.assert_close(vp.step(((logs[1:] + logs[:-1]) / 2).exp()), steps[:-1] + 0.5, atol=1e-8, rtol=0)
    torch.testing.assert_close(vp.step(logs.exp().float()).double(), steps, atol=2e-4, rtol=0)
    assert bool((vp.step(torch.tensor(np.geomspace(1e-4, 1e4, 2000))).diff() >= 0).all())
    outside = torch.stack([logs[0].exp() / 10, logs[-1].exp() * 10])
    assert vp.step(outside).tolist() == [0, len(logs) - 1]


def whole_step_tables() -> dict[str, NoiseTable]:
    from diffusers import DDPMScheduler

    tables = {"scaled linear": NoiseTable.scaled_linear(), "linear, 50": NoiseTable.linear(50, beta_end=0.3)}
    for steps in (100, 1000, 4000, 10_000):
        tables[f"linear, {steps}"] = NoiseTable.linear(steps, beta_start=0.1 / steps, beta_end=20 / steps)
        tables[f"cosine, {steps}"] = NoiseTable.cosine(steps)
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"):
        for zero in (False, True):
            table = DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero).alphas_cumprod.double().numpy()
            tables[f"diffusers {schedule}, zero SNR {zero}"] = NoiseTable.with_finite_end(table)
    return tables


def test_the_end_without_signal_is_at_four_times_the_level_before_it() -> None:
    table = NoiseTable.with_finite_end([0.9, 0.5, 0.0016, 0.0])
    assert table.alphas_cumprod == (0.9, 0.5, 0.0016, 0.0001)
    assert table.sigmas()[-1] == pytest.approx(4 * table.sigmas()[-2], rel=1e-3)
    assert NoiseTable.with_finite_end([0.9, 0.5]).alphas_cumprod == (0.9, 0.5)


@pytest.mark.parametrize("name", whole_step_tables())
def test_at_every_training_level_the_network_is_asked_at_its_own_whole_step(name: str) -> None:
    table = whole_step_tables()[name]
    info = ModelInfo(shape=(1,), sigma_min=0.01, sigma_max=100, sigma_data=0.5)
    vp = VP(Record(torch.zeros(1)), info, predicts="x0", table=table).eval()
    levels = torch.exp(vp.log_sigmas)
    wanted = torch.arange(len(levels))
    single = levels.float()
    for sigma in (levels, single, single * (1 - 1e-7), single * (1 + 1e-7)):  # another runtime's rounding
        vp(torch.zeros(len(levels), 1, dtype=sigma.dtype), sigma)
        assert torch.equal(vp.network.noise, wanted.to(sigma.dtype))
    between = vp.step((levels[:-1] * levels[1:]).sqrt().float())
    assert ((between - wanted[:-1] - 0.5).abs() < 0.01).all(), "what lies between is not drawn to a level"


def test_a_plan_goes_by_name_only_where_the_name_means_the_same_steps() -> None:
    own = np.array(NoiseTable.linear().alphas_cumprod)
    assert NoiseTable.linear().plan()["schedule"] == "ddpm"
    rounded = NoiseTable.given(own.astype(np.float32))  # the first levels are off by up to 0.0003 of a step
    assert rounded.plan()["schedule"] == "table"
    assert rounded.plan(within=0.002)["schedule"] == "ddpm"
    sigma = np.sqrt((1 - own) / own) * 1.0005  # a tenth of a step in the middle
    assert NoiseTable.given(1 / (1 + sigma**2)).plan(within=0.002)["schedule"] == "table"


def test_linear_table_is_the_product_of_one_minus_beta() -> None:
    table = NoiseTable.linear(10, beta_start=0.1, beta_end=0.2)
    assert table.alphas_cumprod[0] == pytest.approx(0.9)
    assert table.alphas_cumprod[-1] == pytest.approx(np.exp(np.log1p(-np.linspace(0.1, 0.2, 10)).sum()))


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.9], [1.0, 0.5], [0.5, 0.0], [0.9, float("nan")], []])
def test_tables_that_are_no_noise_schedule_are_refused(values: list[float]) -> None:
    with pytest.raises(InputError, match="alphas_cumprod"):
        NoiseTable.given(values)


def test_unknown_prediction_is_refused(mixture: Mixture) -> None:
    with pytest.raises(InputError, match=r"'noise'.*eps, v, x0"):
        VP(nn.Identity(), mixture.info, predicts=cast(Prediction, "noise"), table=NoiseTable.linear())
