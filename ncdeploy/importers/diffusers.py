"""diffusers' unconditional and class-conditional image models: a folder with a UNet2DModel, and its scheduler.

    folder/unet/config.json, folder/unet/*.safetensors, folder/scheduler/scheduler_config.json      a pipeline
    folder/config.json, folder/*.safetensors [, folder/scheduler_config.json]                       a bare model

The noise table is the scheduler's own, computed by diffusers, float32 rounding included; a table that ends without
any signal gets a finite end (`NoiseTable.with_finite_end`). Weights may be .bin files, which are opened as plain
tensors or not at all. Of what a scheduler does while sampling, spacing and clipping are taken over; thresholding and
step offsets are not.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.foreign.diffusers_unet import DiffusersUNet, DiffusersUNetConfig, first_line, require_diffusers
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import VP, Prediction
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers.tables import named_prediction, named_table
from ncdeploy.importers.weights import put_weights, read_weights
from ncdeploy.modelinfo import ModelInfo

MODEL = "UNet2DModel"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# Their tables all follow from the same settings; other schedulers belong to other noise processes.
SCHEDULERS = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
    "LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
)  # fmt: skip
TABLE_SETTINGS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
)  # fmt: skip

# The attention of models written before diffusers 0.18: what it was called, and is called now.
_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)$")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a model was trained: table and prediction, and the samplers' spacing of steps and clipping of D."""

    table: NoiseTable
    predicts: Prediction
    spacing: str | None = None
    clip: float | None = None


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder that diffusers wrote."""
    folder = Path(path).expanduser()
    for file in (folder / "model_index.json", folder / "config.json", folder / "unet" / "config.json"):
        try:
            if "_class_name" in json.loads(file.read_text(encoding="utf-8")):
                return True
        except (OSError, ValueError, TypeError, RecursionError):
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
) -> Denoiser:
    """The model of a folder.

    predicts, schedule ...: how it was trained (eps, v or x0; see `named_table`), for a model without a scheduler
    shape:      (C, H, W), for a model whose config names no size
    null_class: the model's last class stands for "no class"; else every sample needs a class
    sigma_data: standard deviation of its training data in model units, [-1, 1]; some samplers like to know it
    clip:       cut D to [-1, 1]; None = as the scheduler says

    Raises FileError for a folder that is incomplete, damaged or holds another kind of model, InputError for options
    that do not fit, DependencyError without diffusers.
    """
    diffusers = require_diffusers()
    root = Path(path).expanduser()
    folder = root / "unet" if (root / "unet" / "config.json").is_file() else root
    settings = _settings(folder)
    if schedule is None:
        if train_steps is not None or beta_start is not None or beta_end is not None:
            raise InputError("train-steps, beta-start, beta-end: belong to a schedule; give --schedule, too")
        trained = _read_scheduler(_find_scheduler(path, root, folder), diffusers)
    else:
        table = named_table(schedule, train_steps=train_steps or 1000, beta_start=beta_start, beta_end=beta_end)
        trained = Trained(table=table, predicts="eps")
    if predicts is not None:
        trained = replace(trained, predicts=named_prediction(predicts))
    elif schedule is not None:
        raise InputError("predicts: say what the network predicts, beside --schedule: --predicts eps, v or x0")
    embeddings = settings.get("num_class_embeds") or 0
    if null_class and embeddings < 2:
        raise InputError(f"null-class: the model has {embeddings} classes, so none can stand for no class")
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
        default_plan=trained.table.plan(spacing=trained.spacing),
        versions={"diffusers": str(diffusers.__version__)},
    )
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights, replaced below, must not disturb the caller
            network = DiffusersUNet(info.shape, DiffusersUNetConfig(unet=settings), info.num_classes)
    except InputError as e:
        raise FileError(f"{folder / 'config.json'}: {e}") from e
    source = _find_weights(folder)
    put_weights(network.unet, _renamed(read_weights(source)), source)
    limit = trained.clip if clip is None else (trained.clip or 1.0) if clip else None
    return VP(network, info, predicts=trained.predicts, table=trained.table, clip=limit)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise FileError(f"{file}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise FileError(f"{file}: is not JSON ({first_line(e)}); copy it again") from e
    if not isinstance(record, dict):
        raise FileError(f"{file}: holds {type(record).__name__}, expected settings by name")
    return record


def _settings(folder: Path) -> dict[str, Any]:
    """Arguments of UNet2DModel."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileError(f"{folder}: has no config.json; expected a folder that diffusers wrote, a model or a pipeline")
    config = _read_json(file)
    kind = config.get("_class_name")
    if kind != MODEL:
        raise FileError(f"{file}: describes a {kind}; only {MODEL} can be imported (no text, no latents)")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _shape(settings: Mapping[str, Any], given: tuple[int, ...] | None) -> tuple[int, ...]:
    size = settings.get("sample_size")
    if given is not None:
        return given
    if size is None:
        raise InputError("shape: the model's config names no sample_size; give it, for example --shape 3,32,32")
    sides = [size, size] if isinstance(size, int) else list(size)
    return (settings.get("in_channels", 3), *sides)


def _find_scheduler(path: str | os.PathLike[str], root: Path, folder: Path) -> Path:
    places = [root / "scheduler", root, folder]
    if folder.name == "unet":
        places.append(folder.parent / "scheduler")
    for place in places:
        if (place / "scheduler_config.json").is_file():
            return place / "scheduler_config.json"
    raise InputError(
        f"{path}: has no scheduler_config.json, which says how the model was trained; say it yourself, for example "
        "--predicts eps --schedule linear"
    )


def _read_scheduler(file: Path, diffusers: Any) -> Trained:
    config = _read_json(file)
    kind = config.get("_class_name")
    if kind not in SCHEDULERS:
        raise FileError(
            f"{file}: describes a {kind}, expected a scheduler of discrete variance-preserving steps such as "
            "DDPMScheduler; to import the model as one of those, give --predicts and --schedule"
        )
    prediction = config.get("prediction_type", "epsilon" if config.get("predict_epsilon", True) else "sample")
    if prediction not in PREDICTIONS:
        raise FileError(f"{file}: prediction_type is {prediction!r}, expected one of {', '.join(PREDICTIONS)}")
    spacing = config.get("timestep_spacing")
    settings = {name: config[name] for name in TABLE_SETTINGS if config.get(name) is not None}
    try:
        scheduler = diffusers.DDPMScheduler(**settings)
        table = NoiseTable.with_finite_end(scheduler.alphas_cumprod.double().numpy())
        clip = float(config.get("clip_sample_range") or 1.0) if config.get("clip_sample") else None
    except (TypeError, ValueError, RuntimeError) as e:
        raise FileError(f"{file}: its settings give no noise table: {first_line(e)}") from e
    return Trained(
        table=table,
        predicts=PREDICTIONS[prediction],
        spacing=spacing if spacing in ("trailing", "linspace") else None,
        clip=clip,
    )


def _find_weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p.name for p in folder.iterdir() if p.name.endswith((".safetensors", ".bin", ".index.json")))
    found = f"; found {', '.join(others)}: save it again with save_pretrained, in one file" if others else ""
    raise FileError(f"{folder}: has no {' or '.join(WEIGHTS)}{found}")


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def new(match: re.Match[str]) -> str:
        return f"{match[1]}.{_NEW_NAMES[match[2]]}.{match[3]}"

    return {_OLD_ATTENTION.sub(new, name): tensor for name, tensor in weights.items()}
