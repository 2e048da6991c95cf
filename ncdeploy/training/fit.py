"""What a model that is trained on some data says of itself, and whether a denoiser fits the data."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import described
from ncdeploy.training.config import TrainConfig
from ncdeploy.training.data import Dataset

DEFAULT_PLAN = {"solver": "dpmpp_2m", "steps": 25, "schedule": "karras", "sigma_min": 0.02, "sigma_max": 80.0}


def describe(data: Dataset, config: TrainConfig) -> ModelInfo:
    """What a model trained so will say of itself, before it is measured."""
    return ModelInfo(
        shape=data.shape,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        sigma_data=data.sigma_data,
        num_classes=data.num_classes if config.conditional else 0,
        offset=data.offset,
        scale=data.scale,
        data=data.name,
        mean=tuple(data.mean.round(6).flatten().tolist()),
        default_plan=dict(DEFAULT_PLAN),
        conditions=tuple(
            replace(c, null=_outside(data.conditions[c.name])) if c.dtype == "float32" and config.label_dropout else c
            for c in described(data.conditions)
        ),
    )


def _outside(values: NDArray[Any]) -> float:
    """A number below all of these and their negatives: what means "none" must mean nothing else."""
    return -1.0 - math.ceil(float(np.abs(values).max()))


def check_fit(denoiser: Denoiser, data: Dataset, config: TrainConfig) -> None:
    """Raise InputError unless the denoiser can be trained on the data as the config asks."""
    wanted = describe(data, config)
    if config.conditional and not data.num_classes:
        raise InputError(f"conditional: the data {data.name!r} have no labels; train without --conditional")
    for name in ("shape", "num_classes"):
        have, want = getattr(denoiser.info, name), getattr(wanted, name)
        if have != want:
            raise InputError(f"{name}: the model has {have}, the data {data.name!r} ask for {want}")
    if not any(p.requires_grad for p in denoiser.parameters()):
        raise InputError("the model has no weights to train")
