"""The conditions of models that take a prompt: how long it is, and what the empty one gives, for guidance."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ncdeploy.denoisers.foreign.diffusers_families import FROM_TEXT, PROMPT, Family, Flux, PixArt, TextUNet
from ncdeploy.errors import FileError, InputError
from ncdeploy.formats.conditions import read_array
from ncdeploy.importers.diffusers_files import read_json
from ncdeploy.importers.diffusers_pipeline import GUIDES, Pipeline
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition

MOST_TOKENS = 100_000
CLIP_AND_T5, FLUX, ALPHA, SIGMA = 77 + 256, 512, 120, 300  # lengths that the pipelines make, unless told otherwise


def conditions_of(
    family: Family, settings: Mapping[str, Any], pipeline: Pipeline, tokens: int | None, null: Sequence[str]
) -> tuple[Condition, ...]:
    """What a network takes beside x, noise and labels.

    Raises InputError for a length that nobody says, and for null values that do not fit.
    """
    aesthetic = pipeline.index.get("requires_aesthetics_score") is True  # of SDXL's refiner
    sizes = {"tokens": 1, "time_ids": 5 if aesthetic else 6}
    if any(condition.name == PROMPT for condition in family.conditions(settings, sizes)):
        sizes["tokens"] = _tokens(family, pipeline) if tokens is None else tokens
        if not 0 < sizes["tokens"] <= MOST_TOKENS:
            raise InputError(f"tokens: got {sizes['tokens']}, expected 1 to {MOST_TOKENS}")
    elif tokens is not None:
        raise InputError("tokens: is of prompts, and this model takes none; leave it out")
    conditions = family.conditions(settings, sizes)
    nulls = _nulls(null, conditions)
    if not nulls and pipeline.index.get("force_zeros_for_empty_prompt") is True:
        nulls = {condition.name: 0.0 for condition in conditions if condition.name in FROM_TEXT}
    missing = [c.name for c in conditions if c.name in FROM_TEXT and c.name not in nulls]
    if nulls and missing:
        raise InputError(
            f"null: {missing[0]} is missing; the empty prompt changes it as well: --null {missing[0]}=FILE"
        )
    return tuple(replace(c, null=nulls.get(c.name)) for c in conditions)


def guidance_note(pipeline: str, info: ModelInfo) -> tuple[str, ...]:
    """What is to be said of guidance: its usual weight, or that it needs the embeddings of the empty prompt."""
    if any(c.name == PROMPT for c in info.conditions) and not info.guidable:
        names = [c.name for c in info.conditions if c.name in FROM_TEXT]
        options = " ".join(f"--null {name}=FILE" for name in names)
        return (f"guidance needs what the empty prompt gives: import with {options} (.npy)",)
    if pipeline in GUIDES and info.guidable:
        return (f"{pipeline} guides by {GUIDES[pipeline]:g} unless told otherwise: --guidance {GUIDES[pipeline]:g}",)
    return ()


def _tokens(family: Family, pipeline: Pipeline) -> int:
    if isinstance(family, TextUNet):
        places = (
            ("tokenizer/tokenizer_config.json", "model_max_length"),
            ("text_encoder/config.json", "max_position_embeddings"),
        )
        for file, name in places:
            length = _setting(pipeline.top / file, name)
            if type(length) is int and 0 < length <= MOST_TOKENS:
                return length
        raise InputError(
            "tokens: nothing beside the network says how long its prompts are; give --tokens, 77 for Stable Diffusion"
        )
    if isinstance(family, PixArt):
        return SIGMA if pipeline.kind == "PixArtSigmaPipeline" else ALPHA
    return FLUX if isinstance(family, Flux) else CLIP_AND_T5


def _setting(file: Path, name: str) -> Any:
    try:
        return read_json(file).get(name)
    except FileError:
        return None


def _nulls(null: Sequence[str], conditions: Sequence[Condition]) -> dict[str, float | tuple[float, ...]]:
    known = {condition.name: condition for condition in conditions if condition.name in FROM_TEXT}
    found: dict[str, float | tuple[float, ...]] = {}
    for text in null:
        name, equals, file = text.partition("=")
        if not equals or not file or name not in known:
            raise InputError(f"--null {text}: expected NAME=FILE, with NAME one of {', '.join(known) or 'none'}")
        if name in found:
            raise InputError(f"--null {text}: {name} is given twice")
        values = np.asarray(read_array(file))
        values = values if values.shape == known[name].shape else values[None]
        shape = (1, *known[name].shape)
        one = known[name].take(values.reshape(shape) if values.size == np.prod(shape) else values, 1).ravel()
        found[name] = one[0].item() if np.all(one == one[0]) else tuple(one.tolist())
    return found
