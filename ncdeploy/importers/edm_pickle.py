"""Network pickles of NVlabs/edm (Karras et al. 2022, arXiv 2206.00364), DDPM++, NCSN++ and ADM, and of NVlabs/edm2.

Such a file holds the averaged network under the key "ema": tensors, constructor arguments, and Python source that its
own loader executes. Here it is data (`safe_pickle`): the class names and the arguments say which of our networks it is,
and the tensors become its weights. The source is neither run nor read, so a network that was changed under its old
names and arguments is taken for the published one.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.foreign.adm import ADM, ADMConfig
from ncdeploy.denoisers.foreign.song import Song, SongConfig
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import EDM, VESDE, VP, VPSDE
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.edm2 import edm2_denoiser
from ncdeploy.importers.edm_names import Kind, bring_weights
from ncdeploy.importers.learned_variance import DROPPED
from ncdeploy.importers.pickle_machine import Record
from ncdeploy.importers.safe_pickle import read_pickle
from ncdeploy.modelinfo import ModelInfo

STEPS, SIGMA_MIN, SIGMA_MAX = 18, 0.002, 80.0  # the sampler of the paper, and the levels it was made for
SIGMA_DATA = 0.5  # of pictures in [-1, 1], where the file does not say
MAX_NESTING = 8
LOOK = 1 << 16
KINDS = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")
EDM2 = "Precond"


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether this is a bare pickle that names NVIDIA's persistence module near its beginning."""
    file = user_path(path)
    try:
        if not file.is_file():
            return False
        with file.open("rb") as f:
            start = f.read(LOOK)
    except OSError:
        return False
    return start.startswith(b"\x80") and b"_reconstruct_persistent_obj" in start


def load(path: str | os.PathLike[str]) -> Denoiser:
    """The network under the key "ema" as a denoiser, in float32, with every class and "no class" among its labels.

    Nothing in the file is executed. Its plan is Heun's method in 18 steps on the paper's levels, as far as the network
    was trained there. Pictures of 8 bits are data = 127.5 + 127.5 x.

    Raises FileError for a file that is no such pickle, is damaged, names anything beyond tensors and plain values, or
    whose weights and arguments do not belong together; and for networks other than DDPM++, NCSN++ and ADM.
    """
    content = read_pickle(path)
    try:
        return _denoiser(content)
    except (FileError, InputError) as e:
        raise FileError(f"{path}: {e}") from e
    except (ValueError, TypeError, RuntimeError, OverflowError) as e:  # arguments no network can be built of
        raise FileError(f"{path}: its constructor arguments make no sense: {str(e).splitlines()[0]}") from e


def _denoiser(content: Any) -> Denoiser:
    outer = content.get("ema") if type(content) is dict else None
    if type(outer) is not Record:
        raise FileError("is no network pickle of NVlabs/edm; expected a network under the key 'ema'")
    if outer.kind == EDM2:
        unet = _part(outer, "_modules").get("unet")
        if type(unet) is not Record:
            raise FileError("lacks the network inside its preconditioning")
        return edm2_denoiser(outer, unet, _weights(unet), content.get("encoder"))
    if outer.kind not in KINDS:
        raise FileError(f"has the preconditioning {outer.kind[:100]!r}; expected one of {', '.join(KINDS)}, or EDM2's")
    inner = _part(outer, "_modules").get("model")
    if type(inner) is not Record:
        raise FileError("lacks the network inside its preconditioning")
    process, arguments = Arguments(outer.state), Arguments(_part(inner, "_init_kwargs"))
    side = process.whole("img_resolution")
    discrete = _discrete(outer, process.whole("M")) if outer.kind == "iDDPMPrecond" else None
    low = process.real("sigma_min", 0.0)
    high = process.real("sigma_max", float("inf"))
    if outer.kind == "EDMPrecond":  # which says 0 and infinity
        low, high = max(low, SIGMA_MIN), min(high, SIGMA_MAX)
    if discrete is not None:
        low, high = (float(level) for level in discrete.sigmas()[[0, -1]])
    if low >= SIGMA_MAX or high <= SIGMA_MIN:
        raise FileError(f"its noise levels, {low:.4g} to {high:.4g}, are not those of pictures in [-1, 1]")
    info = ModelInfo(
        shape=(process.whole("img_channels"), side, side),
        sigma_min=low,
        sigma_max=high,
        sigma_data=process.real("sigma_data", SIGMA_DATA),
        num_classes=process.whole("label_dim", least=0),
        offset=127.5,
        scale=127.5,
        default_plan={
            "solver": "heun", "steps": STEPS, "sigma_min": max(low, SIGMA_MIN), "sigma_max": min(high, SIGMA_MAX),
        } if discrete is None else discrete.plan(),
    )  # fmt: skip
    network = _network(inner, arguments, info, twice=discrete is not None)
    if discrete is not None:
        # Their loader asks at the nearest of the steps, and so does this network between them.
        denoiser = VP(network, info, predicts="eps", table=discrete, noise="step-int").eval()
        denoiser.notes = (DROPPED,)
        return denoiser
    if outer.kind == "VPPrecond":
        beta_d, beta_min = process.real("beta_d"), process.real("beta_min")
        return VPSDE(network, info, beta_d=beta_d, beta_min=beta_min, steps=process.whole("M")).eval()
    return (EDM if outer.kind == "EDMPrecond" else VESDE)(network, info).eval()


def _discrete(outer: Record, steps: int) -> NoiseTable:
    """The levels of a network that was trained on discrete steps, which its file holds from most noise to none."""
    levels = _part(outer, "_buffers").get("u")
    if not isinstance(levels, Tensor) or levels.shape != (steps + 1,):
        raise FileError(f"lacks its noise levels, u, {steps} and a zero")
    return NoiseTable.given(1 / (1 + levels[:-1].flip(0).double().numpy() ** 2))


def _network(inner: Record, arguments: "Arguments", info: ModelInfo, *, twice: bool = False) -> nn.Module:
    """twice: its last layer returns twice the channels, a variance behind the mean, which is left out"""
    channels = arguments.whole("model_channels", 192 if inner.kind == "DhariwalUNet" else 128)
    width = channels * arguments.whole("channel_mult_emb", 4)
    dropout = arguments.real("dropout", 0.1)
    weights = _weights(inner)
    last = [name for name in weights if name.startswith("out_conv.") or "_aux_conv." in name] if twice else []
    weights |= {name: weights[name][: info.shape[0]] for name in last if len(weights[name]) == 2 * info.shape[0]}
    make: type[Song] | type[ADM]
    config: Any
    kind: Kind
    if inner.kind == "SongUNet":
        encoder = arguments.choice("encoder_type", "standard", ("standard", "residual"))
        arguments.choice("decoder_type", "standard", ("standard",))
        kind, make = "song", Song
        config = SongConfig(
            channels=channels, width=width, dropout=dropout,
            multipliers=arguments.wholes("channel_mult", (1, 2, 2, 2)),
            blocks=arguments.whole("num_blocks", 4),
            attention=arguments.wholes("attn_resolutions", (16,)),
            embedding=arguments.choice("embedding_type", "positional", ("positional", "fourier")),  # type: ignore[arg-type]
            features=channels * arguments.whole("channel_mult_noise", 1),
            pyramid=encoder == "residual",
            taps=tuple(float(n) for n in arguments.wholes("resample_filter", (1, 1))),
        )  # fmt: skip
    elif inner.kind == "DhariwalUNet":
        kind, make = "adm", ADM
        config = ADMConfig(
            channels=channels, width=width, dropout=dropout,
            multipliers=arguments.wholes("channel_mult", (1, 2, 3, 4)),
            blocks=arguments.whole("num_blocks", 3),
            attention=arguments.wholes("attn_resolutions", (32, 16, 8)),
        )  # fmt: skip
    else:
        raise FileError(
            f"has the network {inner.kind[:100]!r}; expected SongUNet (DDPM++, NCSN++) or DhariwalUNet (ADM)"
        )
    if config.blocks * len(config.multipliers) > len(weights):
        raise FileError("its constructor arguments call for more blocks than it has weights")
    with torch.device("meta"):  # no memory before the file has shown weights that fit
        outline = make(info.shape, config, info.num_classes)
    brought = bring_weights(outline, kind, info.shape[1], weights)
    with torch.random.fork_rng(devices=[]):
        network = make(info.shape, config, info.num_classes)
    network.load_state_dict(brought)
    return network


def _weights(inner: Record) -> dict[str, Tensor]:
    """Dotted name -> tensor, of the parameters and buffers in a tree of Records."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    storages: set[int] = set()
    open_parts = [("", inner, 0)]
    while open_parts:
        prefix, part, depth = open_parts.pop()
        if id(part) in seen or depth > MAX_NESTING:
            raise FileError("has modules that hold themselves, or too many inside each other")
        seen.add(id(part))
        for group in ("_parameters", "_buffers"):
            for name, value in _part(part, group).items():
                if isinstance(value, Tensor):
                    found[f"{prefix}{name}"] = value
                    storages.add(value.untyped_storage().data_ptr())
                elif value is not None:
                    raise FileError(f"has {str(name)[:100]!r} among its weights, which is not a tensor")
        for name, value in _part(part, "_modules").items():
            if type(value) is Record:
                open_parts.append((f"{prefix}{name}.", value, depth + 1))
            elif value is not None:
                raise FileError(f"has {str(name)[:100]!r} among its modules, which is none")
    if len(storages) < len(found):  # a small file could stand for a network beyond all memory
        raise FileError("has weights that share their values, which no network of its kind does")
    return found


def _part(record: Record, name: str) -> dict[str, Any]:
    found = record.state.get(name)
    if type(found) is not dict:
        raise FileError(f"a module of it, {record.kind[:100]!r}, lacks {name!r}")
    return found
