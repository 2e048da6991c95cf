"""Networks of NVlabs/edm2 (Karras et al. 2024, arXiv 2312.02696), whose pickles are laid out as EDM's."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.foreign.edm2 import EPS, EDM2Config, EDM2UNet
from ncdeploy.denoisers.precondition import EDM
from ncdeploy.errors import FileError
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.pickle_machine import Record
from ncdeploy.importers.weights import filled
from ncdeploy.modelinfo import ModelInfo

STEPS, SIGMA_MIN, SIGMA_MAX = 32, 0.002, 80.0  # of its sampler
LATENTS = (
    "samples are latents, of mean 0 and standard deviation 0.5 or as its encoder says, of an autoencoder that the file "
    "names and does not hold"
)
NO_NULL = "every sample needs a class: EDM2 guides with a second network, not by leaving the class out"


def edm2_denoiser(outer: Record, inner: Record, weights: Mapping[str, Tensor], encoder: Any) -> Denoiser:
    """The denoiser of a preconditioning, the network inside it, that network's weights and the encoder beside both.

    Raises FileError and InputError for arguments and weights that do not belong together.
    """
    process, arguments = Arguments(outer.state), Arguments(inner.state.get("_init_kwargs", {}))
    if inner.kind != "UNet":
        raise FileError(f"has the network {inner.kind[:100]!r}; expected EDM2's UNet")
    side, classes = process.whole("img_resolution"), process.whole("label_dim", least=0)
    multipliers = arguments.wholes("channel_mult", (1, 2, 3, 4))
    channels = arguments.whole("model_channels", 192)
    config = EDM2Config(
        channels=channels, multipliers=multipliers, blocks=arguments.whole("num_blocks", 3),
        attention=arguments.wholes("attn_resolutions", (16, 8)),
        width=channels * _factor(arguments, "channel_mult_emb", max(multipliers)),
        features=channels * _factor(arguments, "channel_mult_noise", multipliers[0]),
        head_width=arguments.whole("channels_per_head", 64),
        label_balance=arguments.real("label_balance", 0.5), skip_balance=arguments.real("concat_balance", 0.5),
        residual_balance=arguments.real("res_balance", 0.3), attention_balance=arguments.real("attn_balance", 0.3),
        clip=None if "clip_act" in arguments.values and arguments.values["clip_act"] is None
        else arguments.real("clip_act", 256.0),
        taps=tuple(float(tap) for tap in arguments.wholes("resample_filter", (1, 1))),
    )  # fmt: skip
    latent = type(encoder) is Record and encoder.kind != "StandardRGBEncoder"
    info = ModelInfo(
        shape=(process.whole("img_channels"), side, side),
        sigma_min=SIGMA_MIN,
        sigma_max=SIGMA_MAX,
        sigma_data=process.real("sigma_data", 0.5),
        num_classes=classes,
        unconditional=not classes,
        offset=0.0 if latent else 127.5,
        scale=1.0 if latent else 127.5,
        default_plan={"solver": "heun", "steps": STEPS, "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX},
    )
    network = filled(lambda: EDM2UNet(info.shape, config, classes), applied(weights), "its network")
    denoiser = EDM(network, info).eval()
    denoiser.notes = (*((LATENTS,) if latent else ()), *((NO_NULL,) if classes else ()))
    return denoiser


def applied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are multiplied with: each output's of unit magnitude, over the root of its inputs, times its
    gain."""
    left = {name: tensor.float() for name, tensor in weights.items()}
    new = {}
    for theirs, ours in (("emb_fourier.freqs", "frequencies"), ("emb_fourier.phases", "phases")):
        if theirs not in left:
            raise FileError(f"lacks the weight {theirs!r}")
        new[ours] = left.pop(theirs)
    gains = {name: left.pop(name) for name in list(left) if name.endswith("_gain")}
    for name, tensor in left.items():
        if tensor.ndim not in (2, 4) or not tensor.numel():
            raise FileError(f"the weight {name[:100]!r} has {tensor.ndim} axes, expected 2 or 4")
        inputs = tensor[0].numel()
        norm = tensor.flatten(1).norm(dim=1).reshape(-1, *[1] * (tensor.ndim - 1))
        unit = tensor / (EPS + norm / math.sqrt(inputs))
        if name == "emb_label.weight":  # a class is one column, and its length is taken out where it is used
            new[name] = unit.T.contiguous()
            continue
        stem = name.removesuffix(".weight")
        owner = "out_gain" if stem == "out_conv" else re.sub("emb_linear$", "emb_gain", stem)
        new[name] = unit / math.sqrt(inputs) * gains.pop(owner, torch.ones(()))
    if gains:
        raise FileError(f"has the gain {min(gains)[:100]!r} without a weight that it belongs to")
    return new


def _factor(arguments: Arguments, name: str, default: int) -> int:
    """A multiplier, of which None and no word at all mean the default."""
    return default if arguments.values.get(name) is None else arguments.whole(name)
