"""The log-likelihood ratio against its exact value, its gradient against finite differences, and the two tricks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ncdeploy.denoisers import Mixture, build, default_config
from ncdeploy.errors import InputError
from ncdeploy.training.alphas import LogisticAlphas
from ncdeploy.training.config import ContrastiveConfig, TrainConfig
from ncdeploy.training.contrastive import Draws, contrastive_loss, draw, llr, vp_scale
from ncdeploy.training.data import Dataset
from ncdeploy.training.fit import describe
from ncdeploy.training.objective import Objective

WIDE = LogisticAlphas.within(1e-3, 300.0)
SIGNS = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(100)
DIM = 6


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    means = torch.randn(5, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Mixture(means.float(), 0.3).double()


def points(mixture: Mixture, far: float, noise: float) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    w = mixture.means[torch.arange(4) % 5].clone()
    w += noise * torch.randn(w.shape, generator=generator, dtype=torch.float64)
    return w + far * torch.nn.functional.normalize(
        torch.randn(w.shape, generator=generator, dtype=torch.float64), dim=1
    )


def estimates(mixture: Mixture, w: Tensor, s: float, *, repeats: int = 64, terms: int = 48) -> Tensor:
    """[repeats, B] independent estimates."""
    generator = torch.Generator().manual_seed(5)
    draws = draw(WIDE, repeats * len(w), terms, (DIM,), generator, dtype=torch.float64)
    level = torch.full((repeats * len(w),), s, dtype=torch.float64)
    return llr(mixture, w.repeat(repeats, 1), level, draws).reshape(repeats, len(w))


def agreement(found: Tensor, wanted: Tensor) -> float:
    """Largest distance to the exact value, in standard errors."""
    error = found.std(dim=0) / math.sqrt(len(found))
    return float(((found.mean(dim=0) - wanted) / error).abs().max())


@pytest.mark.parametrize("s", [0.2, 1.0])
@pytest.mark.parametrize(("far", "noise"), [(0.0, 0.3), (0.0, 1.0), (8.0, 0.3)], ids=["data", "noised", "far outside"])
def test_ratio_is_exact_near_and_far(mixture: Mixture, s: float, far: float, noise: float) -> None:
    w = points(mixture, far, noise)
    exact = mixture.log_prob(w, s) - mixture.log_prob(w)
    found = estimates(mixture, w, s)
    error = found.std(dim=0) / math.sqrt(len(found))
    assert agreement(found, exact) < 3
    assert float(error.mean()) < 0.05 * float(exact.abs().mean()) + 0.05, "too noisy to tell"
    assert agreement(0.9 * found, exact) > 3, "a wrong constant must show"
    assert agreement(found, mixture.log_prob(w, 1.3 * s) - mixture.log_prob(w)) > 3, "a wrong noise level must show"


@pytest.mark.parametrize("far", [0.0, 8.0], ids=["data", "far outside"])
@pytest.mark.parametrize(("sigma_data", "base"), [(0.5, None), (None, 0.1), (0.5, 0.1)], ids=["vp", "base", "both"])
def test_other_contrasts_are_exact(mixture: Mixture, far: float, sigma_data: float | None, base: float | None) -> None:
    """The variance-preserving alternative has its own density, (x0 + s n)/scale; a base puts noise on the data, too."""
    w, s, repeats = points(mixture, far, 0.3), 0.3, 64
    level = torch.full((repeats * len(w),), s, dtype=torch.float64)
    scale = None if sigma_data is None else vp_scale(level, sigma_data)
    lower = None if base is None else torch.full_like(level, base)
    draws = draw(WIDE, len(level), 48, (DIM,), torch.Generator().manual_seed(5), dtype=torch.float64)
    found = llr(mixture, w.repeat(repeats, 1), level, draws, scale=scale, base=lower).reshape(repeats, len(w))
    r = 1.0 if scale is None else float(scale[0])
    first, second = mixture.log_prob(w, base or 0.0), mixture.log_prob(r * w, s) + DIM * math.log(r)
    assert agreement(found, second - first) < 3
    wrong = mixture.log_prob(w, s) - mixture.log_prob(w)
    assert agreement(found, wrong) > 3, "the plain ratio is another one"


def test_loss_shows_the_model_what_it_says(mixture: Mixture) -> None:
    """Clean points with base * noise, alternatives with s * noise over the scale: those and no others reach D."""
    x0 = mixture.means[:2].clone()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, DIM, generator=generator, dtype=torch.float64)
    s, base = torch.tensor([0.4, 0.4], dtype=torch.float64), torch.tensor([0.2, 0.2], dtype=torch.float64)
    scale = vp_scale(s, 0.5)
    draws = draw(WIDE, 2, 4, (DIM,), generator, dtype=torch.float64)
    silent = Draws(tau=draws.tau, weight=draws.weight, noise=0 * draws.noise)  # then y is w itself, or scale * w
    seen: list[Tensor] = []

    def record(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(x)
        return mixture(x, sigma, labels)

    contrastive_loss(record, x0, s, noise, torch.tensor([1.0, -1.0]).double(), silent, scale=scale, base=base)
    w = torch.stack([x0[0] + 0.2 * noise[0], (x0[1] + 0.4 * noise[1]) / scale[1]])
    expected = torch.cat([w.repeat_interleave(4, 0), (scale[:, None] * w).repeat_interleave(4, 0)])
    torch.testing.assert_close(seen[0], expected)


def test_float32_keeps_the_digits(mixture: Mixture) -> None:
    """The differences of squares are written so that nothing cancels."""
    w = points(mixture, 8.0, 0.3)
    draws = draw(WIDE, 4, 64, (DIM,), torch.Generator().manual_seed(6), dtype=torch.float64)
    s = torch.full((4,), 0.2, dtype=torch.float64)
    exact = llr(mixture, w, s, draws)
    short = Draws(tau=draws.tau.float(), weight=draws.weight.float(), noise=draws.noise.float())

    def rounded(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return mixture(x.double(), sigma.double(), labels).float()

    np.testing.assert_allclose(llr(rounded, w.float(), s.float(), short), exact, rtol=2e-3)


@pytest.mark.parametrize("contrast", ["ve", "vp", "base"])
def test_gradient_is_that_of_finite_differences(contrast: str) -> None:
    config = default_config((3,), sigma_data=0.8, num_classes=2, network={"width": 16, "blocks": 1})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = build(config).double()
        for p in denoiser.parameters():  # layers that start at zero would hide their gradients
            torch.nn.init.normal_(p, std=0.3)
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    s, labels = torch.tensor([0.1, 0.2, 0.5, 0.3], dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    sign = SIGNS[:4]
    draws = draw(LogisticAlphas.within(0.05, 10), 4, 6, (3,), generator, dtype=torch.float64)
    parameters = list(denoiser.parameters())
    options = {"ve": {}, "vp": {"scale": vp_scale(s, 0.8)}, "base": {"base": 0.5 * s}}[contrast]

    def loss() -> Tensor:
        return contrastive_loss(denoiser, x0, s, noise, sign, draws, labels, **options)

    gradient = torch.autograd.grad(loss(), parameters)
    for trial in range(3):
        torch.manual_seed(10 + trial)
        direction = [torch.randn_like(p) for p in parameters]
        slope = sum(float((g * v).sum()) for g, v in zip(gradient, direction, strict=True))
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                for p, v in zip(parameters, direction, strict=True):
                    p.add_(v, alpha=step)
                values.append(float(loss()))
                for p, v in zip(parameters, direction, strict=True):
                    p.sub_(v, alpha=step)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)


def test_common_random_numbers_are_worth_it(mixture: Mixture) -> None:
    """With its own noise in each term, the same number of draws has a many times larger standard deviation."""
    w, s, terms, repeats = points(mixture, 0.0, 0.3), 0.2, 32, 64
    common = estimates(mixture, w, s, repeats=repeats, terms=terms).std(dim=0)

    generator = torch.Generator().manual_seed(7)
    rows = w.repeat(repeats, 1)[:, None]
    first, second = (draw(WIDE, len(rows), terms, (DIM,), generator, dtype=torch.float64) for _ in range(2))

    def denoised(draws: Draws, sigma: Tensor) -> tuple[Tensor, Tensor]:
        y = rows + draws.tau[..., None] * draws.noise
        return y, mixture(y.flatten(0, 1), sigma.flatten()).reshape(y.shape)

    y, D = denoised(first, first.tau)
    data_term = (first.noise - (y - D) / first.tau[..., None]).square().sum(-1) * first.weight
    raised = (second.tau**2 + s**2).sqrt()
    y, D = denoised(second, raised)
    noised_term = second.noise - second.tau[..., None] * (y - D) / raised[..., None] ** 2
    separate = (data_term - noised_term.square().sum(-1) * second.weight).mean(dim=1) / 2
    separate = separate.reshape(repeats, len(w)).std(dim=0)
    assert float((separate / common).min()) > 4


def test_terms_are_averaged_before_the_softplus(mixture: Mixture) -> None:
    w = points(mixture, 0.0, 0.3)
    s, sign = torch.full((4,), 0.2, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    draws = draw(WIDE, 4, 16, (DIM,), torch.Generator().manual_seed(8), dtype=torch.float64)
    loss = contrastive_loss(mixture, w, s, torch.zeros_like(w), sign, draws)
    single = torch.stack(
        [
            llr(mixture, w, s, Draws(tau=draws.tau[:, [k]], weight=draws.weight[:, [k]], noise=draws.noise[:, [k]]))
            for k in range(16)
        ]
    )
    assert float(loss) == pytest.approx(float(softplus(single.mean(dim=0)).mean()), rel=1e-9)
    assert float(softplus(single).mean()) > float(loss) + 0.1  # Jensen: what the order avoids


def test_exact_model_tells_noise_from_data_and_a_wrong_one_does_worse(mixture: Mixture) -> None:
    generator = torch.Generator().manual_seed(9)
    x0 = mixture.sample(200, generator).double()
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    s, sign = torch.full((200,), 0.25, dtype=torch.float64), SIGNS
    draws = draw(WIDE, 200, 64, (DIM,), generator, dtype=torch.float64)
    exact = float(contrastive_loss(mixture, x0, s, noise, sign, draws))
    wrong = float(contrastive_loss(lambda x, sigma, labels: x * 0, x0, s, noise, sign, draws))
    assert exact < 0.62 < math.log(2) < wrong


def test_alphas_are_importance_weighted() -> None:
    """The weights make any integral over alpha come out: here that of a Gaussian bump."""
    alphas = LogisticAlphas.within(0.01, 20.0)
    draws = draw(alphas, 50, 64, (1,), torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(draws.tau.min()) >= 0.01
    assert float(draws.tau.max()) <= 20.0
    alpha = -2 * draws.tau.log()
    integral = (draws.weight * torch.exp(-((alpha - alphas.loc) ** 2) / 2)).mean()
    assert float(integral) == pytest.approx(math.sqrt(2 * math.pi), rel=0.01)


def test_noise_comes_with_its_negative() -> None:
    draws = draw(WIDE, 3, 8, (2,), torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.noise[:, ::2], -draws.noise[:, 1::2])
    torch.testing.assert_close(draws.tau[:, ::2], draws.tau[:, 1::2])
    assert len(draws.tau.unique()) == 3 * 4
    twice = draws.twice()
    torch.testing.assert_close(twice.noise[3:], draws.noise)


def test_training_shows_every_sample_both_ways_under_the_same_draws() -> None:
    data = Dataset(name="two", x=np.array([[1.0, 0.0], [-1.0, 0.5]] * 8, np.float32), held_out=np.zeros((1, 2), "f4"))
    options = ContrastiveConfig(fraction=0.5, terms=4, gap=0.0)
    config = TrainConfig(batch=8, device="cpu", contrastive=options)
    objective = Objective(data, config, info=describe(data, config), batch=8, process=0, device=torch.device("cpu"))
    seen: list[Tensor] = []

    def record(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    objective(record, 0)
    assert options.points(8) == 4
    first = seen[1][:16].reshape(4, 4, 2)  # the first density of 4 points: 2 samples, and the same with noise
    clean, noised = (first[k : k + 2, ::2] + first[k : k + 2, 1::2] for k in (0, 2))  # + and - cancel: twice w
    for row in clean / 2:
        torch.testing.assert_close(row, row[:1].expand_as(row), atol=1e-4, rtol=0)
        assert min(float((row[0] - torch.from_numpy(x)).abs().max()) for x in data.x[:2]) < 1e-4
    assert float((noised - clean).abs().amax(dim=(1, 2)).min()) > 1e-3
    torch.testing.assert_close(first[:2] - clean[:, :1] / 2, first[2:] - noised[:, :1] / 2, atol=1e-3, rtol=1e-3)


def test_pairs_and_negatives_take_noise_out_of_the_gradient(mixture: Mixture) -> None:
    """With as many network rows: of a weight that scales the exact denoiser."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    alphas = LogisticAlphas.within(0.01, 20.0)

    def slope(sign: Tensor, x0: Tensor, s: Tensor, noise: Tensor, draws: Draws) -> float:
        loss = contrastive_loss(lambda x, sigma, labels: weight * mixture(x, sigma), x0, s, noise, sign, draws)
        return float(torch.autograd.grad(loss, weight)[0])

    ours, independent = [], []
    for _ in range(200):
        x0 = mixture.sample(4, generator).double()
        s = 0.2 + 0.2 * torch.rand(4, generator=generator, dtype=torch.float64)
        noise = torch.randn(4, DIM, generator=generator, dtype=torch.float64)
        pair, draws = [torch.cat([v[:2], v[:2]]) for v in (x0, s, noise)], draw(alphas, 2, 16, (DIM,), generator)
        ours.append(slope(torch.tensor([1.0, 1.0, -1.0, -1.0]).double(), *pair, _double(draws).twice()))
        single = draw(alphas, 4, 32, (DIM,), generator)  # every second one: noise without its negative
        apart = Draws(tau=single.tau[:, ::2], weight=single.weight[:, ::2], noise=single.noise[:, ::2])
        independent.append(slope(SIGNS[:4], x0, s, noise, _double(apart)))
    assert np.std(ours) < 0.6 * np.std(independent)


def _double(draws: Draws) -> Draws:
    return Draws(tau=draws.tau.double(), weight=draws.weight.double(), noise=draws.noise.double())


def test_bad_ranges() -> None:
    with pytest.raises(InputError, match="tau range"):
        LogisticAlphas.within(1.0, 0.1)
    with pytest.raises(InputError, match="expected scale > 0"):
        LogisticAlphas(loc=0.0, scale=0.0, tau_min=0.1, tau_max=1.0)
