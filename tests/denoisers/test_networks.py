"""What U-Net and MLP promise inside a denoiser: shapes, rows that do not mix, labels and noise that count."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ncdeploy.denoisers import Denoiser, build, default_config
from ncdeploy.denoisers.factory import SIZES
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo

TINY = {
    "kind": "unet",
    "channels": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [4],
    "head_width": 8,
    "width": 16,
}
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "unet": ((2, 8, 8), TINY),
    "mlp": ((3,), {"kind": "mlp", "width": 16, "blocks": 2}),
    "flat mlp": ((1, 4, 6), {"kind": "mlp", "width": 16, "blocks": 2}),
}


def make(name: str, num_classes: int = 4) -> Denoiser:
    """A denoiser with no weight left at zero, in float64, without dropout."""
    shape, network = NETWORKS[name]
    torch.manual_seed(0)
    denoiser = build(default_config(shape, num_classes=num_classes, network=network)).double().eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return denoiser


def batch(info: ModelInfo, rows: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *info.shape, generator=generator, dtype=torch.float64)
    sigma = torch.linspace(0.1, 3, rows, dtype=torch.float64)
    return x, sigma, torch.randint(0, info.num_classes, (rows,), generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_row_depends_on_its_own_inputs_alone(name: str) -> None:
    denoiser = make(name)
    x, sigma, labels = batch(denoiser.info)
    together = denoiser(x, sigma, labels)
    for row in range(5):
        alone = denoiser(x[row : row + 1], sigma[row : row + 1], labels[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-10, atol=1e-10)
    for changed in ((x + torch.eye(5)[2].reshape(-1, *[1] * (x.ndim - 1)), sigma, labels),
                    (x, sigma * torch.tensor([1, 1, 1.1, 1, 1]), labels),
                    (x, sigma, labels + torch.tensor([0, 0, 1, 0, 0]))):  # fmt: skip
        difference = (denoiser(*changed) - together).flatten(1).abs().amax(1)
        assert difference[2] > 1e-4
        assert difference[[0, 1, 3, 4]].max() < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
def test_no_labels_means_unconditional(name: str) -> None:
    denoiser = make(name)
    x, sigma, labels = batch(denoiser.info)
    unconditional = torch.full_like(labels, denoiser.info.num_classes)
    torch.testing.assert_close(denoiser(x, sigma), denoiser(x, sigma, unconditional))
    assert (denoiser(x, sigma) - denoiser(x, sigma, labels)).abs().max() > 1e-3
    with pytest.raises(InputError, match="unconditional"):
        make(name, num_classes=0)(x, sigma, labels)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_against_finite_differences(name: str) -> None:
    denoiser = make(name)
    x, sigma, labels = batch(denoiser.info, rows=2)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def energy(at: Tensor) -> Tensor:
        return denoiser(at, sigma, labels).square().sum()

    (gradient,) = torch.autograd.grad(energy(x.requires_grad_()), x)
    step = 1e-5 * direction
    measured = (energy(x + step) - energy(x - step)).detach() / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_is_used(name: str) -> None:
    denoiser = make(name)
    x, sigma, _ = batch(denoiser.info)
    denoiser(x, sigma, torch.arange(5)).square().sum().backward()
    unused = [n for n, p in denoiser.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert unused == []


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ((1, 8, 8), 0.9),
        ((3, 32, 32), 6),
        ((3, 64, 64), 18),
        ((1, 28, 28), 6),
        ((3, 9, 8), 0.1),
        ((1, 128, 128), 18),
        ((2,), 0.3),
    ],
)
def test_default_networks_start_as_the_gaussian_denoiser(shape: tuple[int, ...], parameters: float) -> None:
    """With the output layer at zero D = c_skip x, exact for data of std sigma_data around 0."""
    denoiser = build(default_config(shape, num_classes=3, sigma_data=0.5)).eval()
    x, sigma = torch.randn(2, *shape), torch.tensor([0.1, 7.0])
    with torch.no_grad():
        denoised = denoiser(x, sigma, torch.tensor([0, 3]))
    assert denoised.dtype == torch.float32
    expected = x * (0.25 / (0.25 + sigma**2)).reshape(-1, *[1] * len(shape))
    torch.testing.assert_close(denoised, expected)
    millions = sum(p.numel() for p in denoiser.parameters()) / 1e6
    assert 0.5 * parameters < millions < 2 * parameters


def test_dropout_acts_in_training_only() -> None:
    denoiser = make("unet")
    config = {**denoiser.config, "network": {**denoiser.config["network"], "dropout": 0.5}}
    dropping = build(config).double()
    dropping.load_state_dict(denoiser.state_dict())
    x, sigma, labels = batch(denoiser.info)
    assert (dropping.train()(x, sigma, labels) - denoiser(x, sigma, labels)).abs().max() > 1e-3
    torch.testing.assert_close(dropping.eval()(x, sigma, labels), denoiser(x, sigma, labels))


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((1, 9, 8), {}, "divisible by 2"),
        ((1, 8, 9), {}, "divisible by 2"),
        ((64,), {}, "use an MLP"),
        ((1, 8, 8), {"attention": [16]}, "heights"),
        ((1, 8, 8), {"head_width": 5}, "head_width"),
        ((1, 8, 8), {"channels": 7}, "channels"),
        ((1, 8, 8), {"multipliers": []}, "multipliers"),
        ((1, 8, 8), {"blocks": 0}, "blocks"),
        ((1, 8, 8), {"width": 10}, "width"),
        ((1, 8, 8), {"dropout": 1.0}, "dropout"),
        ((1, 8, 8), {"frequencies": [2.0, 1.0]}, "frequencies"),
        ((1, 8, 8), {"chanels": 8}, "chanels"),
        ((1, 8, 8), {"kind": "transformer"}, "transformer"),
        ((2,), {"kind": "mlp"}, "unknown settings"),
    ],
)
def test_impossible_networks_are_refused(shape: tuple[int, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        default_config(shape, network={**TINY, **changes})


@pytest.mark.parametrize("changes", [{"width": 10}, {"blocks": 0}, {"frequencies": [0.0, 1.0]}])
def test_impossible_mlps_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        default_config((2,), network=changes)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (3, 64, 64), (4,)])
def test_sizes_by_name_grow(shape: tuple[int, ...]) -> None:
    counts = [sum(p.numel() for p in build(default_config(shape, network=size)).parameters()) for size in SIZES]
    assert 2 * counts[0] < counts[1]
    assert 1.4 * counts[1] < counts[2]
    assert build(default_config(shape, network="small")).config["shape"] == list(shape)
    with pytest.raises(InputError, match="got 'tiny', expected small, medium, large"):
        default_config(shape, network="tiny")
