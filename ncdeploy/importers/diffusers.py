"""diffusers' models: a folder with a network, or a whole pipeline with its scheduler and its autoencoder.

    folder/unet/config.json, folder/unet/*.safetensors, folder/scheduler/scheduler_config.json      a pipeline
    folder/transformer/..., folder/vae/..., folder/model_index.json                                 of latents
    folder/config.json, folder/*.safetensors [, folder/scheduler_config.json]                       a bare model
    folder/checkpoint-N/unet_ema, folder/checkpoint-N/unet, folder/scheduler                        while training

Of two sets of weights the averaged ones, unet_ema, are taken. Weights may be .bin files, which are opened as plain
tensors or not at all. An autoencoder becomes the model's decoder. What else a pipeline holds, such as what turns words
into embeddings, is named.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ncdeploy.denoisers.base import Denoiser, PartModule
from ncdeploy.denoisers.flow import Flow
from ncdeploy.denoisers.foreign.diffusers_families import FAMILIES, FROM_TEXT, PIXELS, Family, Flux
from ncdeploy.denoisers.foreign.diffusers_model import DiffusersModel, DiffusersModelConfig
from ncdeploy.denoisers.foreign.diffusers_unet import DiffusersUNet, DiffusersUNetConfig, first_line, require_diffusers
from ncdeploy.denoisers.precondition import VP
from ncdeploy.errors import FileError, InputError, NcdeployError
from ncdeploy.files import user_path
from ncdeploy.importers.diffusers_clip import CLIPPED, RAW_NOISE, cutting, limit_of
from ncdeploy.importers.diffusers_decoder import read_decoder
from ncdeploy.importers.diffusers_files import read_json, read_model_weights, renamed
from ncdeploy.importers.diffusers_flow import FlowTrained, flow_plan, read_flow
from ncdeploy.importers.diffusers_pipeline import NETWORKS, UNET, Pipeline, read_pipeline, read_settings
from ncdeploy.importers.diffusers_prompts import conditions_of, guidance_note
from ncdeploy.importers.diffusers_scheduler import Trained, read_scheduler
from ncdeploy.importers.diffusers_text import FOLDER, read_text_encoder
from ncdeploy.importers.learned_variance import DROPPED, drops_variance
from ncdeploy.importers.module import FLOW_RANGE
from ncdeploy.importers.tables import named_prediction, named_table
from ncdeploy.importers.weights import filled
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition

ROUNDING = 0.002  # steps by which their float32 tables differ from the float64 ones of the same name
IDS_OF = "its text encoder takes prompt_ids: the pipeline's tokenizer(text, padding='max_length', truncation=True)"
LEARNED = ("DiTTransformer2DModel", "PixArtTransformer2DModel")  # whose second half of the output is a variance
FLUX_SIDE = 128  # of a latent of its pipelines, 1024 pixels; its settings name none


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
    shift: float | None = None,
    shape: tuple[int, ...] | None = None,
    null_class: bool = False,
    tokens: int | None = None,
    null: Sequence[str] = (),
    sigma_data: float | None = None,
    clip: bool | None = None,
    raw_noise: bool = False,
    ema: bool | None = None,
    variant: str | None = None,
    learned_variance: str | None = None,
) -> Denoiser:
    """The model of a folder, and of a pipeline of latents its decoder as `parts`.

    predicts, schedule ...: how it was trained (eps, v or x0; see `named_table`), for a model without a scheduler
    shift:      of the steps of a model of flow matching; None = as the scheduler says
    shape:      (C, H, W), of latents where it makes those; None = as the model's config says
    null_class: the last class of a UNet2DModel stands for "no class"; else every sample needs a class
    tokens:     length of its prompts; None = as its tokenizer or its pipeline says
    null:       "NAME=FILE" for conditions: what the empty prompt gives, which guidance needs, as an .npy or .npz
    sigma_data: standard deviation of its training data in model units, which some samplers like to know; None = 0.5,
                of pictures in [-1, 1], and 1 of latents
    clip:       cut D to [-1, 1]; None = as the scheduler says
    raw_noise:  let the model's plans cut D instead of the model, which gives ddim the samples of DDIMPipeline
    ema:        take unet_ema (True) or unet (False) of a folder with both; None = unet_ema where there is one
    variant:    of the weights, "fp16" and the like; None = the plain ones, or the only variant
    learned_variance: "drop" leaves out the second half of the output; None = only where scheduler or network say what
                it is

    Raises FileError for a folder that is incomplete, damaged or holds another kind of model, InputError for options
    that do not fit, DependencyError without diffusers.
    """
    diffusers = require_diffusers()
    pipeline = read_pipeline(user_path(path), ema)
    folder = pipeline.folder
    kind, settings = read_settings(folder)
    family = FAMILIES.get(kind)
    shape = shape or _settled(folder, lambda: _shape(settings, family))
    if family is not None:
        _settled(folder, lambda: family.check(settings, shape))
    trained = _trained(
        path, pipeline, family, settings, shape, predicts=predicts, schedule=schedule, train_steps=train_steps,
        beta_start=beta_start, beta_end=beta_end, shift=shift,
    )  # fmt: skip
    notes = [*pipeline.notes]
    latent = family is not None or pipeline.decoder is not None
    classes, unconditional, conditions = _inputs(
        pipeline, family, settings, null_class=null_class, tokens=tokens, null=null
    )
    text = _text_encoder(pipeline, conditions)
    notes += pipeline.not_taken_over(*([] if text is None else [FOLDER]))
    channels, returned = _settled(folder, lambda: _channels(settings, family))
    said = kind in LEARNED or (isinstance(trained, Trained) and trained.learned_variance)
    dropped = drops_variance(channels, returned, learned_variance, said)
    if dropped:
        notes.append(DROPPED)
        if family is None:
            settings["out_channels"] = channels
    low, high, plan = _noise(trained)
    limit = limit_of(trained, clip)
    if raw_noise:
        plan = cutting(plan, limit)
    info = ModelInfo(
        shape=shape,
        sigma_min=low,
        sigma_max=high,
        sigma_data=(1.0 if latent else 0.5) if sigma_data is None else sigma_data,
        num_classes=classes,
        unconditional=unconditional,
        offset=0.0 if latent else 127.5,
        scale=1.0 if latent else 127.5,
        data=pipeline.root.resolve().name,
        default_plan=plan,
        versions={"diffusers": str(diffusers.__version__)},
        conditions=conditions,
    )
    weights, source, chosen = read_model_weights(folder, variant)
    weights = renamed(weights)
    if dropped and family is None:
        last = {name: weight for name, weight in weights.items() if name.startswith("conv_out.") and weight.ndim}
        weights |= {name: weight[:channels] for name, weight in last.items()}

    def make() -> DiffusersUNet | DiffusersModel:
        if family is None:
            return DiffusersUNet(info.shape, DiffusersUNetConfig(unet=settings), info.num_classes)
        config = DiffusersModelConfig(model=kind, settings=settings)
        return DiffusersModel(info.shape, config, info.num_classes, info.conditions)

    def inside(network: DiffusersUNet | DiffusersModel) -> nn.Module:
        return network.unet if isinstance(network, DiffusersUNet) else network.model

    try:
        network = filled(make, weights, source, inside)
    except InputError as e:
        raise FileError(f"{folder / 'config.json'}: {e}") from e
    denoiser: Denoiser
    if isinstance(trained, Trained):
        if limit is not None:
            notes.append((RAW_NOISE if raw_noise else CLIPPED).format(limit=limit))
        denoiser = VP(
            network, info, predicts=trained.predicts, table=trained.table, clip=None if raw_noise else limit
        )  # fmt: skip
    else:
        denoiser = Flow(network, info, towards="noise", noise=FAMILIES[kind].time)
    if pipeline.decoder is not None:
        part, of_decoder = read_decoder(pipeline.decoder, channels, diffusers, variant)
        levels = len(part.module.vae.config.block_out_channels)  # type: ignore[union-attr,arg-type]
        if getattr(inside(network), "use_additional_conditions", False) and 2 ** (levels - 1) != PIXELS:
            raise FileError(
                f"{pipeline.decoder}: makes {2 ** (levels - 1)} pixels of a latent's side, but the network is told the "
                f"size of pictures of {PIXELS}"
            )
        denoiser.parts = (part,)
        notes += of_decoder
    if text is not None:
        denoiser.parts = (text, *denoiser.parts)
        notes.append(IDS_OF)
    denoiser.notes = (*notes, *chosen, *guidance_note(pipeline.kind, info), *trained.notes)
    return denoiser


def _text_encoder(pipeline: Pipeline, conditions: tuple[Condition, ...]) -> PartModule | None:
    """What makes the embeddings of a prompt, where they are all that the network is told of it."""
    told = [condition for condition in conditions if condition.name in FROM_TEXT]
    if len(told) != 1:
        return None
    return read_text_encoder(pipeline.top, pipeline.parts.get(FOLDER), told[0].shape, told[0].name)


def _inputs(
    pipeline: Pipeline, family: Family | None, settings: dict[str, Any], *, null_class: bool, tokens: int | None,
    null: Sequence[str],
) -> tuple[int, bool, tuple[Condition, ...]]:  # fmt: skip
    """Classes, whether there is one for "no class" beside them, and conditions."""
    if family is not None:
        if null_class:
            raise InputError(f"null-class: is of a {UNET}; leave it out")
        classes = _settled(pipeline.folder, lambda: family.classes(settings))
        return classes, True, _settled(pipeline.folder, lambda: conditions_of(family, settings, pipeline, tokens, null))
    if tokens is not None or null:
        raise InputError("tokens, null: are of prompts, and this model takes none; leave them out")
    embeddings = settings.get("num_class_embeds") or 0
    if type(embeddings) is not int or embeddings < 0:
        raise FileError(f"{pipeline.folder}: num_class_embeds is {embeddings!r:.60}, expected a number of classes")
    if null_class and embeddings < 2:
        raise InputError(f"null-class: the model has {embeddings} classes, so none can stand for no class")
    return embeddings - null_class, null_class or not embeddings, ()


def _trained(
    path: str | os.PathLike[str], pipeline: Pipeline, family: Family | None, settings: dict[str, Any],
    shape: tuple[int, ...], *, predicts: str | None, schedule: str | None, train_steps: int | None,
    beta_start: float | None, beta_end: float | None, shift: float | None,
) -> Trained | FlowTrained:  # fmt: skip
    """How the model was trained: as the options say, else its scheduler."""
    of_schedule = {"train_steps": train_steps, "beta_start": beta_start, "beta_end": beta_end}
    given: dict[str, Any] = {name: value for name, value in of_schedule.items() if value is not None}
    flows = family is not None and family.flows
    if flows and (given or schedule is not None or predicts not in (None, "flow")):
        raise InputError("predicts, schedule: the model is one of flow matching; only --shift can be said of its steps")
    if shift is not None:
        if not flows:
            raise InputError("shift: is of flow matching; leave it out")
        return FlowTrained(plan=flow_plan(shift))
    if schedule is not None:
        if predicts is None:
            raise InputError("predicts: say what the network predicts, beside --schedule: --predicts eps, v or x0")
        return Trained(table=named_table(schedule, **given), predicts=named_prediction(predicts))
    if given:
        raise InputError("train-steps, beta-start, beta-end: belong to a schedule; give --schedule, too")
    file = pipeline.scheduler()
    if file is None:
        say = "--shift 3" if flows else "--predicts eps --schedule linear"
        raise InputError(
            f"{path}: has no scheduler_config.json, which says how the model was trained; say it yourself, for example "
            f"{say}"
        )
    if family is not None and flows:
        patch = _settled(pipeline.folder, lambda: family.patch(settings))
        patches = shape[1] // patch * (shape[2] // patch) if len(shape) == 3 and patch else 0
        return read_flow(file, require_diffusers(), patches=patches, evenly=isinstance(family, Flux))
    trained = read_scheduler(file, require_diffusers())
    return trained if predicts is None else replace(trained, predicts=named_prediction(predicts))


def _noise(trained: Trained | FlowTrained) -> tuple[float, float, dict[str, Any]]:
    """Least and largest noise level, and the default plan."""
    if isinstance(trained, FlowTrained):
        return *FLOW_RANGE, trained.plan
    sigmas = trained.table.sigmas()
    plan = trained.table.plan(
        spacing=trained.spacing, offset=trained.offset, ends_at_first=trained.ends_at_first, within=ROUNDING
    )
    return float(sigmas[0]), float(sigmas[-1]), plan


def _channels(settings: dict[str, Any], family: Family | None) -> tuple[int, int]:
    if family is None:
        return settings.get("in_channels", 3), settings.get("out_channels", 3)
    return family.channels(settings)


def _shape(settings: dict[str, Any], family: Family | None) -> tuple[int, ...]:
    """Of a sample, as the network's settings have it."""
    size = FLUX_SIDE if isinstance(family, Flux) else settings.get("sample_size")
    if size is None:
        raise InputError("shape: the model's config names no sample_size; give it, for example --shape 3,32,32")
    if not isinstance(size, int | list):
        raise FileError(f"config.json: sample_size is {str(size)[:20]}, expected a number of pixels or two")
    sides = [size] * (1 if family is not None and family.axes == 2 else 2) if isinstance(size, int) else size
    return (_channels(settings, family)[0], *sides)


T = TypeVar("T")


def _settled(folder: Path, work: Callable[[], T]) -> T:
    """What `work` makes of settings. Raises FileError where they are of other types than they should be."""
    try:
        return work()
    except NcdeployError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError) as e:
        reason = first_line(e)
        raise FileError(f"{folder / 'config.json'}: its settings are not those of such a model: {reason}") from e
