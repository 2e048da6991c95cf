"""From a JSON-able config to a denoiser, and a sensible config for data of a given shape."""

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.flow import Flow
from ncdeploy.denoisers.foreign.adm import ADM, ADMConfig
from ncdeploy.denoisers.foreign.cdl import CDLNetwork, CDLNetworkConfig
from ncdeploy.denoisers.foreign.diffusers_model import DiffusersModel, DiffusersModelConfig
from ncdeploy.denoisers.foreign.diffusers_unet import DiffusersUNet, DiffusersUNetConfig
from ncdeploy.denoisers.foreign.dit import DiT, DiTConfig
from ncdeploy.denoisers.foreign.edm2 import EDM2Config, EDM2UNet
from ncdeploy.denoisers.foreign.guided import GuidedUNet, GuidedUNetConfig
from ncdeploy.denoisers.foreign.module import ForeignModule, ForeignModuleConfig
from ncdeploy.denoisers.foreign.policy_unet import PolicyUNet, PolicyUNetConfig
from ncdeploy.denoisers.foreign.song import Song, SongConfig
from ncdeploy.denoisers.mixture import Mixture
from ncdeploy.denoisers.mlp import MLP, MLPConfig
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import EDM, VESDE, VP, VPSDE
from ncdeploy.denoisers.unet import UNet, UNetConfig
from ncdeploy.errors import InputError, NcdeployError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition
from ncdeploy.records import read


@dataclass(frozen=True, kw_only=True)
class Network:
    """How a kind of network is made again.

    config:    frozen dataclass of its settings, which the network's own .config holds beside "kind"
    construct: construct(shape, config, num_classes) -> network(x [B, *shape], noise [B], labels int64 [B] or None)
    observes:  whether it takes conditions, as construct(..., conditions) -> network(..., conditions, sample)
    """

    config: type[Any]
    construct: Callable[..., nn.Module]
    observes: bool = False


NETWORKS: dict[str, Network] = {
    "unet": Network(config=UNetConfig, construct=UNet, observes=True),
    "mlp": Network(config=MLPConfig, construct=MLP, observes=True),
    "diffusers": Network(config=DiffusersUNetConfig, construct=DiffusersUNet),
    "diffusers-model": Network(config=DiffusersModelConfig, construct=DiffusersModel, observes=True),
    "cdl": Network(config=CDLNetworkConfig, construct=CDLNetwork),
    "dit": Network(config=DiTConfig, construct=DiT),
    "edm2": Network(config=EDM2Config, construct=EDM2UNet),
    "song": Network(config=SongConfig, construct=Song),
    "adm": Network(config=ADMConfig, construct=ADM),
    "guided": Network(config=GuidedUNetConfig, construct=GuidedUNet),
    "policy": Network(config=PolicyUNetConfig, construct=PolicyUNet, observes=True),
    "module": Network(config=ForeignModuleConfig, construct=ForeignModule.make, observes=True),
}


SIZES = ("small", "medium", "large")
_UNETS: dict[str, dict[str, Any]] = {
    "small": {"channels": 24, "multipliers": [1, 2, 4], "blocks": 1, "width": 128, "head_width": 24},
    "medium": {"channels": 64, "multipliers": [1, 2, 2], "blocks": 2, "width": 256},
    "large": {"channels": 64, "multipliers": [1, 2, 3, 4], "blocks": 2, "width": 256},
}
_MLPS: dict[str, dict[str, Any]] = {
    "small": {},
    "medium": {"width": 256, "blocks": 6},
    "large": {"width": 512, "blocks": 8},
}


def build(config: Mapping[str, Any], *, allow_module: bool = False) -> Denoiser:
    """The architecture that a denoiser's `config` describes, with fresh weights.

    allow_module: whether a config may name a Python factory, which is then imported and run

    Raises InputError for unknown kinds, for missing, unknown or impossible settings, and for a factory that is not
    allowed; DependencyError where the network comes from a package that is not installed.
    """
    factory = named_factory(config)
    if factory is not None and not allow_module:
        raise InputError(
            f"its network is made by Python code that it names, {factory}, which would be imported and run; "
            "if you trust that code, say so with --trust (in Python: allow_module=True)"
        )
    try:
        return _build(config)
    except NcdeployError:
        raise
    except KeyError as e:
        raise InputError(f"config: {e} is missing; configs come from default_config or a denoiser's .config") from e
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f"config: cannot be built: {str(e).splitlines()[0]}") from e


def named_factory(config: Mapping[str, Any]) -> str | None:
    """The Python factory that building this config would import and run, "module:function"; None for all others."""
    network = config.get("network")
    if not isinstance(network, Mapping) or network.get("kind") != "module":
        return None
    return str(network.get("factory"))


def _build(config: Mapping[str, Any]) -> Denoiser:
    info = ModelInfo(
        shape=tuple(config["shape"]),
        num_classes=config["num_classes"],
        unconditional=config.get("unconditional", True),
        sigma_min=config["sigma_min"],
        sigma_max=config["sigma_max"],
        sigma_data=config["sigma_data"],
        conditions=tuple(read(Condition, condition) for condition in config.get("conditions", ())),
    )
    kind = config["kind"]
    if kind == "edm":
        return EDM(build_network(config["network"], info), info, noise=config.get("noise", "c-noise"))
    if kind == "vp":
        table = None if config["table"] is None else NoiseTable.given(config["table"]["alphas_cumprod"])
        network = build_network(config["network"], info)
        settings = {"predicts": config["predicts"], "noise": config.get("noise", "step"), "clip": config.get("clip")}
        return VP(network, info, table=table, **settings)
    if kind == "flow":
        network = build_network(config["network"], info)
        return Flow(network, info, towards=config["towards"], noise=config["noise"])
    if kind == "vp_sde":
        process = {name: config[name] for name in ("beta_d", "beta_min", "steps")}
        return VPSDE(build_network(config["network"], info), info, **process)
    if kind == "ve_sde":
        return VESDE(build_network(config["network"], info), info)
    if kind == "mixture":
        return Mixture(torch.zeros(config["components"], *info.shape), config["std"], info=info)
    raise InputError(f"config: got kind {kind!r}, expected edm, vp, vp_sde, ve_sde, flow or mixture")


def count_values(config: Mapping[str, Any], *, tensors: int) -> int:
    """How many numbers the weights of this config hold; no memory is taken for them. 0 for a factory's network.

    tensors: that there are of these weights; a network that has far more is not built to its end

    Raises as `build` does.
    """
    if named_factory(config) is not None:
        return 0
    components, shape = config.get("components"), config.get("shape")
    if type(components) is int and isinstance(shape, list) and all(type(n) is int for n in shape):
        return components * math.prod(shape)  # of a mixture, whose means are checked and hence cannot be on "meta"
    with without_memory(tensors):
        return sum(tensor.numel() for tensor in build(config).state_dict().values())


@contextlib.contextmanager
def without_memory(tensors: int) -> Iterator[None]:
    """Networks made in the body are on "meta". One with far more parameters than there are tensors for it, as a
    damaged or hostile config asks for, raises InputError before it is whole."""
    most, thread = 2 * tensors + 64, threading.get_ident()
    count = 0

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise InputError(f"asks for more than {most} weights, and there are {tensors}")

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(registered)
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # such as of layers without values
            yield
    finally:
        hook.remove()


def build_network(config: Mapping[str, Any], info: ModelInfo) -> nn.Module:
    """The network inside a preconditioned denoiser, with fresh weights: {"kind": one of NETWORKS, settings ...}."""
    settings = dict(config)
    kind = settings.pop("kind", None)
    if kind not in NETWORKS:
        raise InputError(f"network: got kind {kind!r}, expected one of {', '.join(NETWORKS)}")
    network = NETWORKS[kind]
    if info.conditions and not network.observes:
        takers = ", ".join(name for name, other in NETWORKS.items() if other.observes)
        raise InputError(f"network: {kind} takes no conditions; choose one of {takers}")
    conditions = (info.conditions,) if info.conditions else ()
    return network.construct(info.shape, _read(network.config, settings), info.num_classes, *conditions)


def default_config(
    shape: tuple[int, ...],
    *,
    num_classes: int = 0,
    sigma_data: float = 0.5,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    network: Mapping[str, Any] | str | None = None,
    conditions: Sequence[Condition] = (),
) -> dict[str, Any]:
    """A config for `build`: an EDM denoiser with a U-Net for pictures (C, H, W), an MLP for anything else.

    network: one of SIZES; or settings of UNetConfig or MLPConfig to use instead of the defaults, "kind" among them if
             wanted. None: as suits the picture's size
    sigma_data, sigma_min, sigma_max: in model units; conditions: of real numbers, which both networks take as vectors

    Raises InputError for settings that cannot be built.
    """
    size = network if isinstance(network, str) else None
    if size is not None and size not in SIZES:
        raise InputError(f"network: got {size!r}, expected {', '.join(SIZES)}")
    wanted = {} if isinstance(network, str) else dict(network or {})
    kind = wanted.pop("kind", "unet" if len(shape) == 3 and min(shape[1:]) >= 8 else "mlp")
    defaults = default_unet(shape, size) if kind == "unet" else _MLPS[size or "small"]
    config = {
        "kind": "edm",
        "shape": list(shape),
        "num_classes": num_classes,
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
        "sigma_data": sigma_data,
        "network": {"kind": kind, **defaults, **wanted},
        "conditions": [asdict(condition) for condition in conditions],
    }
    return build(config).config


def default_unet(shape: tuple[int, ...], size: str | None = None) -> dict[str, Any]:
    """Settings for pictures: about 1 M parameters for small, 5 M for medium, 17 M for large (9 M below 48 pixels).

    size: one of SIZES; None: small up to 15 pixels a side, medium up to 47, large for more
    """
    if len(shape) != 3:
        raise InputError(f"shape: got {shape}, a U-Net takes (channels, height, width); use an MLP for vectors")
    side = min(shape[1:])
    common = math.gcd(shape[1], shape[2])
    levels = min(3 if side < 48 else 4, (common & -common).bit_length())  # sides can be halved levels - 1 times
    settings = _UNETS[size or ("small" if side < 16 else "medium" if side < 48 else "large")]
    multipliers = settings["multipliers"][:levels]
    heights = [shape[1] >> level for level in range(len(multipliers))]
    return {**settings, "multipliers": multipliers, "attention": [h for h in heights if 4 <= h <= 16][-1:]}


def _read(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"network: unknown settings {unknown}, expected some of {sorted(known)}")
    for name, f in known.items():
        if name not in settings and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"network: the setting {name!r} is missing")
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, OverflowError) as e:
        raise InputError(f"network: a setting is of another type or length than it should be ({str(e)[:200]})") from e
