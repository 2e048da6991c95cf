"""Networks of Wu et al. 2024 (github.com/yunshuwu/ContrastiveDiffusionLoss): Lightning files, and what they began with.

    step       DDPM's steps, asked at between two of them; whole steps for the network that looks them up
    log-snr    the log-SNR: itself for a perceptron. The U-Nets make a step of it that is finer than DDPM's, 1000 i / T
               on T = 10000 levels, of which their code takes the nearest and this the real-valued place

Settings that Lightning kept tell which of their classes trained the network, and hence its noise, except for a
perceptron, which different versions of one class told different things. The U-Net is that of DDPM, under the names of
its first PyTorch versions (pesser/pytorch_diffusion, ermongroup/ddim) or those of diffusers.
"""

import math
import os
from collections.abc import Mapping

from torch import Tensor, nn

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.foreign.cdl import CDLNetwork, CDLNetworkConfig
from ncdeploy.denoisers.foreign.diffusers_unet import DiffusersUNet, DiffusersUNetConfig
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import VP
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.ddpm_names import NEEDED, OLD_NEEDED, renamed, settings_of
from ncdeploy.importers.foreign import names_in
from ncdeploy.importers.weights import filled, find_weights, read_beside
from ncdeploy.modelinfo import ModelInfo

RESIDUAL = ("lin_in.weight", "lin_out.weight", "blocks.0.emb.pos_enc", "blocks.0.lin1.weight")
PERCEPTRON = ("layers.0.weight", "layers.0.bias")
FINE_STEPS = 10_000
LIGHTNING = b"pytorch-lightning_version"
ARMS = {"cdl_loss_weight": "cdl", "st_schedule": "ddpm", "logsnr_loc": "itd"}  # a setting of each of their classes
USUAL_CLIP = 3.0  # of the log-SNR, in scales from its location, where settings do not say
AS_PUBLISHED = "the norms' 32 groups and one attention head are as published; nothing in the file tells them"
FINE = "their code asks the U-Net at the nearest tenth of a step, this at the real-valued step"


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether the file looks like one, by the names in it; nothing of it is executed."""
    head = names_in(user_path(path))
    kinds: tuple[tuple[str, ...], ...] = (OLD_NEEDED, RESIDUAL)
    if LIGHTNING in head and any(setting.encode() in head for setting in ARMS):
        kinds = (*kinds, NEEDED, tuple(f".{name}" for name in PERCEPTRON))
    return any(all(name.encode() in head for name in names) for names in kinds)


def load(
    path: str | os.PathLike[str],
    *,
    noise: str | None = None,
    shape: tuple[int, ...] | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    key: str | None = None,
    strip: str | None = None,
) -> Denoiser:
    """The network of a file as a denoiser.

    noise:      step or log-snr, see above; None = as its settings say
    shape:      (C, H, W) of pictures; None = as its settings say
    sigma_min, sigma_max: of a perceptron told the log-SNR; None = as its settings say
    key, strip: where the weights stand, and the prefix of their names; see `find_weights`

    Raises FileError for a file that is damaged or holds another network, InputError for options that do not fit or are
    missing, DependencyError for a U-Net without diffusers.
    """
    if noise not in (None, "step", "log-snr"):
        raise InputError(f"noise: got {noise!r}, expected step or log-snr")
    head = names_in(user_path(path))
    kind = next(
        (names for names in (OLD_NEEDED, NEEDED, RESIDUAL, PERCEPTRON) if all(n.encode() in head for n in names)), None
    )
    if kind is None:
        raise FileError(f"{path}: holds none of the networks of this project")
    weights, notes = find_weights(path, kind, key=key, strip=strip)
    settings = Arguments(read_beside(path, "hyper_parameters"))
    arm = next((arm for setting, arm in ARMS.items() if setting in settings.values), None)
    try:
        network, shape = _network(path, kind, weights, settings, shape)
        noise = noise or _found(path, kind, arm)
        table = None if kind == PERCEPTRON and noise == "log-snr" else _table(kind, arm, noise, settings)
        if table is None:
            low, high = _range(settings, sigma_min, sigma_max)
        elif sigma_min is not None or sigma_max is not None:
            raise InputError("sigma-min, sigma-max: the steps fix them; leave them out")
        else:
            low, high = (float(level) for level in table.sigmas()[[0, -1]])
    except FileError as e:
        raise FileError(f"{path}: {e}") from e
    fine = table is not None and len(table.alphas_cumprod) == FINE_STEPS
    ddim = {"solver": "ddim", "steps": 50, "schedule": "ddpm"}
    karras = {"solver": "dpmpp_2m", "steps": 25, "schedule": "karras", "sigma_min": low, "sigma_max": high}
    pictures = len(shape) == 3
    info = ModelInfo(
        shape=shape,
        sigma_min=low,
        sigma_max=high,
        sigma_data=0.5 if pictures else 1.0,
        offset=127.5 if pictures else 0.0,
        scale=127.5 if pictures else 1.0,
        default_plan=karras if table is None else ddim if fine else table.plan(),
    )
    told = "log-snr" if table is None else "time1000" if fine else "step-int" if kind == RESIDUAL else "step"
    denoiser = VP(network, info, predicts="eps", table=table, noise=told)
    denoiser.notes = (*notes, *((AS_PUBLISHED,) if pictures else ()), *((FINE,) if fine else ()))
    return denoiser.eval()


def _network(
    path: str | os.PathLike[str], kind: tuple[str, ...], weights: Mapping[str, Tensor], settings: Arguments,
    shape: tuple[int, ...] | None,
) -> tuple[nn.Module, tuple[int, ...]]:  # fmt: skip
    """The network with its weights, and the shape of a sample."""
    if kind in (RESIDUAL, PERCEPTRON):
        if shape is not None:
            raise InputError("shape: is of pictures; leave it out")
        return _small(path, kind, weights)
    shape = shape or settings.wholes("x_shape")
    if not shape:
        raise InputError(f"shape: {path} does not say how large its pictures are; give it, such as --shape 3,32,32")
    named = renamed(weights) if kind == OLD_NEEDED else weights
    config = DiffusersUNetConfig(unet=settings_of(named))
    config.check(shape, 0)
    made = filled(lambda: DiffusersUNet(shape, config), named, path, inside=lambda network: network.unet)
    return made, shape


def _small(
    path: str | os.PathLike[str], kind: tuple[str, ...], weights: Mapping[str, Tensor]
) -> tuple[nn.Module, tuple[int, ...]]:
    first = weights[kind[0]]
    if first.ndim != 2:
        raise FileError(f"{kind[0]}: has {first.ndim} axes, expected 2")
    if kind == RESIDUAL:
        steps = len(weights["blocks.0.emb.pos_enc"])
        blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
        config = CDLNetworkConfig(width=len(first), depth=len(blocks), steps=steps)
        shape = (first.shape[1],)
    else:  # where it has dropout, every third place of its list has weights, otherwise every second
        places = sorted({int(place) for name in weights if (place := name.split(".")[1]).isdigit()})
        order = {str(place): str(2 * index) for index, place in enumerate(places)}
        weights = {
            ".".join([first_part, order.get(place, place), *rest]): tensor
            for name, tensor in weights.items() for first_part, place, *rest in [name.split(".")]
        }  # fmt: skip
        config, shape = CDLNetworkConfig(width=len(first), depth=len(places)), (first.shape[1] - 1,)
    return filled(lambda: CDLNetwork(shape, config), weights, path), shape


def _found(path: str | os.PathLike[str], kind: tuple[str, ...], arm: str | None) -> str:
    """What the network is told, as the class that trained it says."""
    if arm == "ddpm" or kind == RESIDUAL:
        return "step"
    if arm is not None and kind != PERCEPTRON:
        return "log-snr"
    raise InputError(
        f"noise: {path} does not say what its network is told of the noise level, and asked with another it answers "
        "wrongly: give --noise step or --noise log-snr"
    )


def _table(kind: tuple[str, ...], arm: str | None, noise: str, settings: Arguments) -> NoiseTable:
    """Its training steps: DDPM's, or ten times as many where it is told tenths of them."""
    if noise == "log-snr" and kind == RESIDUAL:
        raise InputError("noise: this network looks whole steps up; give --noise step or leave it out")
    if noise == "log-snr" or (kind == PERCEPTRON and arm == "itd"):
        return NoiseTable.linear(FINE_STEPS, beta_start=1e-5, beta_end=2e-3)
    if arm != "ddpm":
        return NoiseTable.linear()
    steps = settings.whole("num_timesteps", 1000, least=2)
    start, end = settings.real("st_schedule"), settings.real("end_schedule", 0.02)
    if not (steps <= FINE_STEPS and 0 < start < 1 and 0 < end < 1):
        raise FileError(f"its schedule, {steps} betas from {start:g} to {end:g}, is none")
    return NoiseTable.linear(steps, beta_start=start, beta_end=end)


def _range(settings: Arguments, low: float | None, high: float | None) -> tuple[float, float]:
    """Noise levels of a network that is told the log-SNR, -2 ln sigma, where it was drawn from."""
    if low is not None and high is not None:
        return low, high
    if not {"logsnr_loc", "logsnr_scale"} <= settings.values.keys():
        raise InputError("sigma-min, sigma-max: give the noise levels that it was trained on; the file does not say")
    centre = settings.real("logsnr_loc")
    reach = settings.real("logsnr_scale") * settings.real("clip", USUAL_CLIP)
    if not (abs(centre) < 100 and 0 < reach < 100):
        raise FileError(f"its log-SNR, {centre:g} and {reach:g} around it, is none of a training")
    least, most = math.exp(-(centre + reach) / 2), math.exp(-(centre - reach) / 2)
    return least if low is None else low, most if high is None else high
