"""From a JSON-able config to a denoiser, and a sensible config for data of a given shape."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import nn

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.mixture import Mixture
from ncdeploy.denoisers.mlp import MLP, MLPConfig
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import EDM, VP
from ncdeploy.denoisers.unet import UNet, UNetConfig
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo

NETWORKS = ("unet", "mlp")
Config = TypeVar("Config", UNetConfig, MLPConfig)


def build(config: Mapping[str, Any]) -> Denoiser:
    """The architecture that a denoiser's `config` describes, with fresh weights.

    Raises InputError for unknown kinds and for missing, unknown or impossible settings.
    """
    try:
        return _build(config)
    except InputError:
        raise
    except KeyError as e:
        raise InputError(f"config: {e} is missing; configs come from default_config or a denoiser's .config") from e
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f"config: cannot be built: {str(e).splitlines()[0]}") from e


def _build(config: Mapping[str, Any]) -> Denoiser:
    info = ModelInfo(
        shape=tuple(config["shape"]),
        num_classes=config["num_classes"],
        sigma_min=config["sigma_min"],
        sigma_max=config["sigma_max"],
        sigma_data=config["sigma_data"],
    )
    kind = config["kind"]
    if kind == "edm":
        return EDM(build_network(config["network"], info), info)
    if kind == "vp":
        table = NoiseTable.given(config["table"]["alphas_cumprod"])
        return VP(build_network(config["network"], info), info, predicts=config["predicts"], table=table)
    if kind == "mixture":
        return Mixture(torch.zeros(config["components"], *info.shape), config["std"], info=info)
    raise InputError(f"config: got kind {kind!r}, expected 'edm', 'vp' or 'mixture'")


def build_network(config: Mapping[str, Any], info: ModelInfo) -> nn.Module:
    """The network inside EDM and VP, with fresh weights: {"kind": "unet" or "mlp", settings ...}."""
    settings = dict(config)
    kind = settings.pop("kind", None)
    if kind not in NETWORKS:
        raise InputError(f"network: got kind {kind!r}, expected one of {', '.join(NETWORKS)}")
    if kind == "unet":
        return UNet(info.shape, _read(UNetConfig, settings), info.num_classes)
    return MLP(info.shape, _read(MLPConfig, settings), info.num_classes)


def default_config(
    shape: tuple[int, ...],
    *,
    num_classes: int = 0,
    sigma_data: float = 0.5,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    network: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A config for `build`: an EDM denoiser with a U-Net for pictures (C, H, W), an MLP for anything else.

    network: settings of UNetConfig or MLPConfig to use instead of the defaults, "kind" among them if wanted.
    sigma_data, sigma_min, sigma_max: in model units. Raises InputError for settings that cannot be built.
    """
    wanted = dict(network or {})
    kind = wanted.pop("kind", "unet" if len(shape) == 3 and min(shape[1:]) >= 8 else "mlp")
    defaults = default_unet(shape) if kind == "unet" else {}
    config = {
        "kind": "edm",
        "shape": list(shape),
        "num_classes": num_classes,
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
        "sigma_data": sigma_data,
        "network": {"kind": kind, **defaults, **wanted},
    }
    return build(config).config


def default_unet(shape: tuple[int, ...]) -> dict[str, Any]:
    """Settings that suit the picture's size: about 1 M parameters at 8x8, 5 M at 32x32, 17 M at 64x64."""
    if len(shape) != 3:
        raise InputError(f"shape: got {shape}, a U-Net takes (channels, height, width); use an MLP for vectors")
    side = min(shape[1:])
    common = math.gcd(shape[1], shape[2])
    levels = min(3 if side < 48 else 4, (common & -common).bit_length())  # sides can be halved levels - 1 times
    settings: dict[str, Any]
    if side < 16:
        settings = {"channels": 24, "multipliers": [1, 2, 4], "blocks": 1, "width": 128, "head_width": 24}
    elif side < 48:
        settings = {"channels": 64, "multipliers": [1, 2, 2], "blocks": 2, "width": 256}
    else:
        settings = {"channels": 64, "multipliers": [1, 2, 3, 4], "blocks": 2, "width": 256}
    multipliers = settings["multipliers"][:levels]
    heights = [shape[1] >> level for level in range(levels)]
    return {**settings, "multipliers": multipliers, "attention": [h for h in heights if 4 <= h <= 16][-1:]}


def _read(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(f"network: unknown settings {unknown}, expected some of {sorted(known)}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    return kind(**values)
