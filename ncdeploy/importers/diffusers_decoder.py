"""The autoencoder beside a network of latents: the half that makes pictures, in [-1, 1], of samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ncdeploy.denoisers.base import PartModule
from ncdeploy.denoisers.factory import without_memory
from ncdeploy.denoisers.foreign.diffusers_unet import first_line
from ncdeploy.errors import FileError, InputError, NcdeployError
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.diffusers_files import read_json, read_model_weights, renamed
from ncdeploy.importers.weights import check_weights, put_weights

KINDS = ("AutoencoderKL", "VQModel")


class Decoder(nn.Module):
    """Latents x [B, C, H, W] -> pictures [B, colours, height, width] of vae(scale x + shift)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        vae.encoder = vae.quant_conv = None  # which only training needs
        self.vae = vae
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        picture: Tensor = self.vae.decode(self.scale * x + self.shift, return_dict=False)[0]
        return picture


def read_decoder(
    folder: Path, channels: int, diffusers: Any, variant: str | None
) -> tuple[PartModule, tuple[str, ...]]:
    """Of a folder with an autoencoder, and what is to be said of it. channels: of a latent.

    Raises FileError for one that is incomplete, damaged or of another kind.
    """
    file = folder / "config.json"
    config = read_json(file)
    kind = config.get("_class_name")
    if kind not in KINDS:
        raise FileError(f"{file}: describes a {str(kind)[:60]}; of latents only {' and '.join(KINDS)} can be decoded")
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        weights, source, notes = read_model_weights(folder, variant)
    except InputError:  # the variant is of the network, and the autoencoder may have the plain ones alone
        weights, source, notes = read_model_weights(folder)
    weights = renamed(weights)

    def make() -> nn.Module:
        module: nn.Module = getattr(diffusers, kind)(**settings)
        return module

    try:
        scale, shift = scaling(settings, kind, channels)
        with without_memory(len(weights)):
            check_weights(make(), weights, source)
        with torch.random.fork_rng(devices=[]):
            vae = make()
    except NcdeployError as e:
        raise e if str(folder) in str(e) else FileError(f"{file}: {e}") from e
    except Exception as e:  # settings of any type meet code that checks few of them
        message = f"diffusers {diffusers.__version__} cannot make this autoencoder: {first_line(e)}"
        raise FileError(f"{file}: {message}") from e
    put_weights(vae, weights, source)
    module = Decoder(vae.eval(), scale, shift).eval()
    said = tuple(f"{folder.name}: {note}" for note in notes)
    return PartModule(role="decoder", module=module, inputs=None, outputs=("picture",)), said


def scaling(settings: Mapping[str, Any], kind: str, channels: int) -> tuple[Tensor, Tensor]:
    """scale, shift [1, channels or 1, 1, 1]: what the autoencoder decodes is scale x + shift."""
    known = Arguments(settings)
    if known.whole("latent_channels", 4 if kind == "AutoencoderKL" else 3) != channels:
        raise FileError(f"latent_channels: is {settings.get('latent_channels')}, but the network has {channels}")
    factor = known.real("scaling_factor", 0.18215)
    if factor == 0:
        raise FileError("scaling_factor: is 0, expected another number")
    scale, shift = torch.full((1, 1, 1, 1), 1 / factor), torch.zeros(1, 1, 1, 1)
    given = {name: settings.get(name) for name in ("latents_mean", "latents_std", "shift_factor")}
    means, spreads, offset = given.values()
    if (means is None) != (spreads is None) or (means is not None and offset is not None):
        raise FileError("latents_mean, latents_std, shift_factor: expected both of the first, or the last, or none")
    if means is not None and spreads is not None:
        mean, spread = _numbers(means, "latents_mean", channels), _numbers(spreads, "latents_std", channels)
        scale, shift = spread / factor, mean
    elif offset is not None:
        shift = torch.full((1, 1, 1, 1), known.real("shift_factor"))
    return scale, shift


def _numbers(values: Any, name: str, count: int) -> Tensor:
    if type(values) is not list or len(values) != count or any(type(v) not in (int, float) for v in values):
        raise FileError(f"{name}: expected {count} numbers, one for each channel of a latent")
    return torch.tensor(values, dtype=torch.float32).reshape(1, count, 1, 1)
