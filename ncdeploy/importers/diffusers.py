"""diffusers' unconditional and class-conditional image models: a folder with a UNet2DModel, and its scheduler.

    folder/unet/config.json, folder/unet/*.safetensors, folder/scheduler/scheduler_config.json      a pipeline
    folder/config.json, folder/*.safetensors [, folder/scheduler_config.json]                       a bare model
    folder/checkpoint-N/unet_ema, folder/checkpoint-N/unet, folder/scheduler                        while training

Of two sets of weights the averaged ones, unet_ema, are taken. Weights may be .bin files, which are opened as plain
tensors or not at all. What a pipeline holds beside network and scheduler is named; one of latents is refused.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.factory import without_memory
from ncdeploy.denoisers.foreign.diffusers_unet import DiffusersUNet, DiffusersUNetConfig, require_diffusers
from ncdeploy.denoisers.precondition import VP
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers.diffusers_files import read_json, read_model_weights
from ncdeploy.importers.diffusers_scheduler import Trained, read_scheduler
from ncdeploy.importers.learned_variance import DROPPED, drops_variance
from ncdeploy.importers.tables import named_prediction, named_table
from ncdeploy.importers.weights import check_weights, put_weights
from ncdeploy.modelinfo import ModelInfo

MODEL = "UNet2DModel"
ROUNDING = 0.002  # steps by which their float32 tables differ from the float64 ones of the same name
ROUNDING = 0.002  # steps by which their float32 tables differ from the float64 ones of the same name
CLIPPED = (
    "clip_sample: D is cut to -{limit:g} .. {limit:g}, and ddim takes the noise it follows from that, as OpenAI's code "
    "does; DDIMPipeline takes it from the uncut D unless told use_clipped_model_output (--no-clip never cuts)"
)
NETWORKS = ("unet_ema", "unet")
LATENTS = ("vae", "vqvae", "movq")  # what turns latents into pictures, by the names it has beside a network
# What the file of an average says of how it was made, among the settings of its network.
AVERAGE = (
    "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power",
)  # fmt: skip
# The attention of models written before diffusers 0.18: what it was called, and is called now.
_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)$")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder that diffusers wrote."""
    folder = user_path(path)
    places = [folder / "model_index.json", *(folder / name / "config.json" for name in (".", *NETWORKS))]
    for file in places:
        try:
            if "_class_name" in read_json(file):
                return True
        except FileError:
            continue
    return False


def load(
    path: str | os.PathLike[str],
    *,
    predicts: str | None = None,
    schedule: str | None = None,
    train_steps: int | None = None,
    beta_start: float | None = None,
    beta_end: float | None = None,
    shape: tuple[int, ...] | None = None,
    null_class: bool = False,
    sigma_data: float = 0.5,
    clip: bool | None = None,
    ema: bool | None = None,
    variant: str | None = None,
    learned_variance: str | None = None,
) -> Denoiser:
    """The model of a folder.

    predicts, schedule ...: how it was trained (eps, v or x0; see `named_table`), for a model without a scheduler
    shape:      (C, H, W), for a model whose config names no size
    null_class: the model's last class stands for "no class"; else every sample needs a class
    sigma_data: standard deviation of its training data in model units, [-1, 1]; some samplers like to know it
    clip:       cut D to [-1, 1]; None = as the scheduler says
    ema:        take unet_ema (True) or unet (False) of a folder with both; None = unet_ema where there is one
    variant:    of the weights, "fp16" and the like; None = the plain ones, or the only variant
    learned_variance: "drop" leaves out the second half of the output; None = only where the scheduler says what it is

    Raises FileError for a folder that is incomplete, damaged or holds another kind of model, InputError for options
    that do not fit, DependencyError without diffusers.
    """
    diffusers = require_diffusers()
    root = user_path(path)
    folder, notes = _network_folder(root, ema)
    notes += _beside(root, folder)
    settings = _settings(folder)
    if schedule is None:
        if train_steps is not None or beta_start is not None or beta_end is not None:
            raise InputError("train-steps, beta-start, beta-end: belong to a schedule; give --schedule, too")
        trained = read_scheduler(_find_scheduler(path, root, folder), diffusers)
    else:
        table = named_table(schedule, train_steps=train_steps or 1000, beta_start=beta_start, beta_end=beta_end)
        trained = Trained(table=table, predicts="eps")
    if predicts is not None:
        trained = replace(trained, predicts=named_prediction(predicts))
    elif schedule is not None:
        raise InputError("predicts: say what the network predicts, beside --schedule: --predicts eps, v or x0")
    embeddings = settings.get("num_class_embeds") or 0
    if type(embeddings) is not int or embeddings < 0:
        raise FileError(f"{path}: num_class_embeds is {embeddings!r:.60} in its config, expected a number of classes")
    if null_class and embeddings < 2:
        raise InputError(f"null-class: the model has {embeddings} classes, so none can stand for no class")
    channels, returned = settings.get("in_channels", 3), settings.get("out_channels", 3)
    dropped = drops_variance(channels, returned, learned_variance, trained.learned_variance)
    if dropped:
        settings["out_channels"] = channels
        notes.append(DROPPED)
    sigmas = trained.table.sigmas()
    info = ModelInfo(
        shape=_shape(settings, shape),
        sigma_min=float(sigmas[0]),
        sigma_max=float(sigmas[-1]),
        sigma_data=sigma_data,
        num_classes=embeddings - null_class,
        unconditional=null_class or not embeddings,
        offset=127.5,
        scale=127.5,
        data=root.resolve().name,
        default_plan=trained.table.plan(spacing=trained.spacing, within=ROUNDING),
        versions={"diffusers": str(diffusers.__version__)},
    )
    weights, source, said = read_model_weights(folder, variant)
    weights = _renamed(weights)
    if dropped:
        last = {name: weight for name, weight in weights.items() if name.startswith("conv_out.") and weight.ndim}
        weights |= {name: weight[:channels] for name, weight in last.items()}

    def make() -> DiffusersUNet:
        return DiffusersUNet(info.shape, DiffusersUNetConfig(unet=settings), info.num_classes)

    try:
        with without_memory(len(weights)):  # what damaged settings claim must not be allocated before it is checked
            check_weights(make().unet, weights, source)
        with torch.random.fork_rng(devices=[]):  # initial weights, replaced below, must not disturb the caller
            network = make()
    except InputError as e:
        raise FileError(f"{folder / 'config.json'}: {e}") from e
    put_weights(network.unet, weights, source)
    limit = trained.clip if clip is None else (trained.clip or 1.0) if clip else None
    if limit is not None:
        notes.append(CLIPPED.format(limit=limit))
    denoiser = VP(network, info, predicts=trained.predicts, table=trained.table, clip=limit)
    denoiser.notes = (*notes, *said, *trained.notes)
    return denoiser


def _network_folder(root: Path, ema: bool | None) -> tuple[Path, list[str]]:
    """Where the network is, and what is to be said of the choice."""
    there = [name for name in NETWORKS if (root / name / "config.json").is_file()]
    if ema is not None and there != list(NETWORKS):
        raise InputError(f"ema: {root} has no choice between unet_ema and unet; leave --ema and --no-ema out")
    if len(there) == 2:
        chosen, left = NETWORKS if ema or ema is None else NETWORKS[::-1]
        return root / chosen, [f"the weights are those of {chosen}; {left} beside it is left out (--ema or --no-ema)"]
    if there:
        return root / there[0], []
    if root.name == "unet" and (root.parent / "unet_ema" / "config.json").is_file():
        return root, ["the weights are those of unet; unet_ema beside it holds the averaged ones"]
    return root, []


def _beside(root: Path, folder: Path) -> list[str]:
    """What is to be said of the other parts of a pipeline. Raises FileError for one of latents."""
    pipeline = folder.parent if folder.name in NETWORKS else root
    index = pipeline / "model_index.json"
    parts = read_json(index) if index.is_file() else {}
    named = {
        name: str(kind[1]) for name, kind in parts.items()
        if not name.startswith("_") and isinstance(kind, list) and len(kind) == 2 and kind[1] is not None
    }  # fmt: skip
    decoders = [name for name in LATENTS if name in named or (pipeline / name / "config.json").is_file()]
    decoders += [name for name, kind in named.items() if kind.startswith(("Autoencoder", "VQModel"))]
    if decoders:
        raise FileError(
            f"{pipeline}: is a latent pipeline: its network makes latents, which {decoders[0]} beside it decodes into "
            "pictures; only networks that make pictures themselves can be imported"
        )
    return [
        f"{name} ({kind}) of the pipeline is not taken over"
        for name, kind in named.items() if name not in ("unet", "scheduler")
    ]  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    """Arguments of UNet2DModel."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileError(f"{folder}: has no config.json; expected a folder that diffusers wrote, a model or a pipeline")
    config = read_json(file)
    kind = config.get("_class_name")
    if kind != MODEL:
        raise FileError(f"{file}: describes a {str(kind)[:60]}; only {MODEL} can be imported (no text, no latents)")
    return {name: value for name, value in config.items() if not name.startswith("_") and name not in AVERAGE}


def _shape(settings: Mapping[str, Any], given: tuple[int, ...] | None) -> tuple[int, ...]:
    size = settings.get("sample_size")
    if given is not None:
        return given
    if size is None:
        raise InputError("shape: the model's config names no sample_size; give it, for example --shape 3,32,32")
    if not isinstance(size, int | list):
        raise FileError(f"config.json: sample_size is {str(size)[:20]}, expected a number of pixels or two")
    sides = [size, size] if isinstance(size, int) else size
    return (settings.get("in_channels", 3), *sides)


def _find_scheduler(path: str | os.PathLike[str], root: Path, folder: Path) -> Path:
    places = [root / "scheduler", root, folder]
    if folder.name in NETWORKS:
        places.append(folder.parent / "scheduler")
        if folder.parent.name.startswith("checkpoint-"):
            places.append(folder.parent.parent / "scheduler")
    for place in places:
        if (place / "scheduler_config.json").is_file():
            return place / "scheduler_config.json"
    raise InputError(
        f"{path}: has no scheduler_config.json, which says how the model was trained; say it yourself, for example "
        "--predicts eps --schedule linear"
    )


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def new(match: re.Match[str]) -> str:
        return f"{match[1]}.{_NEW_NAMES[match[2]]}.{match[3]}"

    return {_OLD_ATTENTION.sub(new, name): tensor for name, tensor in weights.items()}
