"""Networks of Wu et al. 2024. cdl_golden.npz holds what their own code returned for weights made by a formula, with the
names and shapes of those weights, and the steps that it made of log-SNRs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden import Golden
from ncdeploy.denoisers.checkpoint import load_model, save_model
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers import detect_format, import_model

golden = Golden(Path(__file__).parent / "cdl_golden.npz")
STEPS, LOG_SNRS = [3, 500, 999], [4.0, 0.0, -6.0]
CDL = {"cdl_loss_weight": 1.0, "clip": 3.0, "logsnr_loc": 2.0, "logsnr_scale": 3.0, "learning_rate": 1e-4}
ITD = {"logsnr_loc": 2.0, "logsnr_scale": 3.0, "learning_rate": 1e-4}
DDPM = {"num_timesteps": 1000, "st_schedule": 0.0001, "end_schedule": 0.02, "learning_rate": 1e-4}


def weights(kind: str) -> dict[str, Tensor]:
    made = golden.weights(kind, 0.15, len)
    for name, shape in golden.shapes(kind):
        if name.endswith("pos_enc"):  # not a weight there, but a table
            places, pairs = torch.arange(shape[0], dtype=torch.float64), torch.arange(shape[1]) // 2
            angles = places[:, None] * 1e-4 ** (2 * pairs.double() / shape[1])
            made[name] = torch.where(torch.arange(shape[1]) % 2 == 0, angles.cos(), angles.sin()).float()
    return made


def lightning(path: Path, tensors: dict[str, Tensor], settings: dict[str, Any], *, ema: bool = False) -> Path:
    """As Lightning writes it."""
    state = {f"model.{name}": tensor + 1 if ema else tensor for name, tensor in tensors.items()}
    state |= {f"ema_model.{name}": tensor for name, tensor in tensors.items()} if ema else {}
    content = {
        "epoch": 9, "global_step": 3910, "pytorch-lightning_version": "2.1.0", "state_dict": state, "loops": {},
        "callbacks": {"ModelCheckpoint": {"best_model_score": None, "kth_best_model": ""}}, "optimizer_states": [],
        "lr_schedulers": [], "hparams_name": "kwargs", "hyper_parameters": settings,
    }  # fmt: skip
    torch.save(content, path)
    return path


def inputs(shape: tuple[int, ...]) -> Tensor:
    return (1.7 * torch.arange(3 * math.prod(shape), dtype=torch.float64)).sin().float().reshape(3, *shape)


def eps_apart(model: Any, sigma: Tensor, wanted: Any) -> float:
    """Of the eps in D(x, sigma), where alpha x is their network's input."""
    x = inputs(model.info.shape)
    over = sigma.reshape(-1, *[1] * (x.ndim - 1)).double()
    model = model.double()
    with torch.no_grad():
        ve = x.double() * (1 + over**2).sqrt()
        eps = (ve - model(ve, sigma.double())) / over
    return float(np.abs(eps.numpy() - wanted).max() / np.abs(wanted).max())


def ddpm_levels(steps: list[float]) -> Tensor:
    """sigma at DDPM's steps."""
    a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    return torch.tensor(np.sqrt((1 - a) / a)[steps])


def tenths_levels() -> Tensor:
    """sigma where their U-Net takes the tenths of steps in the golden file."""
    a = np.cumprod(1 - np.linspace(1e-5, 2e-3, 10_000))
    return torch.tensor(np.sqrt((1 - a) / a)[np.round(10 * golden("unet_tenths")).astype(int)])


LOG_SNR_LEVELS = torch.tensor(LOG_SNRS, dtype=torch.float64).mul(-0.5).exp()
CASES = {
    "U-Net, DDPM": ("unet", {**DDPM, "x_shape": torch.Size([3, 8, 8])}, {}, ddpm_levels(STEPS), "unet_step"),
    "U-Net, CDL": ("unet", {**CDL, "x_shape": (3, 8, 8)}, {}, None, "unet_logsnr"),
    "table, DDPM": ("residual", DDPM, {}, ddpm_levels(STEPS), "residual_step"),
    "table, CDL": ("residual", CDL, {}, ddpm_levels(STEPS), "residual_step"),
    "perceptron": ("perceptron0", CDL, {"noise": "log-snr"}, LOG_SNR_LEVELS, "perceptron0_logsnr"),
    "perceptron, dropout": ("perceptron1", ITD, {"noise": "log-snr"}, LOG_SNR_LEVELS, "perceptron1_logsnr"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lightning_file_answers_as_their_code_does(case: str, tmp_path: Path) -> None:
    kind, settings, options, sigma, wanted = CASES[case]
    if kind == "unet":
        pytest.importorskip("diffusers")
    path = lightning(tmp_path / "epoch=9-step=3910.ckpt", weights(kind), settings, ema=case == "U-Net, CDL")
    assert detect_format(path) == "cdl"
    model = import_model(path, **options)
    save_model(tmp_path / "m.pt", model)
    again = load_model(tmp_path / "m.pt")
    x, low = inputs(model.info.shape), torch.full((3,), 0.5)
    with torch.no_grad():
        assert torch.equal(again(x, low), model(x, low))
    assert eps_apart(model, tenths_levels() if sigma is None else sigma, golden(wanted)) < 1e-5


def test_the_same_under_diffusers_names_and_bare(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    old = weights("unet")
    torch.save(old, tmp_path / "model-790000.ckpt")
    assert detect_format(tmp_path / "model-790000.ckpt") == "cdl"
    model = import_model(tmp_path / "model-790000.ckpt", noise="step", shape=(3, 8, 8))
    file = lightning(tmp_path / "d.ckpt", model.network.unet.state_dict(), {**DDPM, "x_shape": (3, 8, 8)})
    assert eps_apart(import_model(file), ddpm_levels(STEPS), golden("unet_step")) < 1e-5
    for options, what in (({"shape": (3, 8, 8)}, "--noise step or"), ({"noise": "step"}, "--shape")):
        with pytest.raises(InputError, match=what):
            import_model(tmp_path / "model-790000.ckpt", **options)


@pytest.mark.parametrize(
    ("kind", "settings", "options", "message"),
    [
        ("perceptron0", CDL, {}, "--noise step or --noise log-snr"),
        ("perceptron0", CDL, {"noise": "c-noise"}, "expected step or log-snr"),
        ("perceptron0", DDPM, {"noise": "log-snr"}, "give the noise levels"),
        ("perceptron0", {**CDL, "clip": 1e9}, {"noise": "log-snr"}, "is none of a training"),
        ("perceptron0", CDL, {"noise": "step", "sigma_min": 0.1}, "the steps fix them"),
        ("residual", CDL, {"noise": "log-snr"}, "looks whole steps up"),
        ("residual", {**DDPM, "st_schedule": "a"}, {}, "expected a number"),
        ("residual", {**DDPM, "st_schedule": 7.0}, {}, "is none"),
        ("residual", CDL, {"shape": (2,)}, "leave it out"),
    ],
)
def test_what_must_be_said_or_makes_no_sense(
    kind: str, settings: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = lightning(tmp_path / "m.ckpt", weights(kind), settings)
    with pytest.raises((InputError, FileError), match=message) as caught:
        import_model(path, **options)
    assert "\n" not in str(caught.value)


def test_a_network_with_a_weight_too_many_is_refused(tmp_path: Path) -> None:
    path = lightning(tmp_path / "m.ckpt", {**weights("residual"), "extra.weight": torch.ones(2)}, DDPM)
    with pytest.raises(FileError, match=r"does not know, 'extra\.weight'"):
        import_model(path)
