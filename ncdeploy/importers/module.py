"""Any PyTorch module as a denoiser: from Python in three lines, or by the name of a function that makes it.

denoiser = wrap_module(network, shape=(3, 32, 32), predicts="eps", schedule="linear")
export_onnx(denoiser, "model.onnx")
"""

import os
from pathlib import Path
from typing import Any

from torch import nn

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.foreign.module import ForeignModule, is_factory, run_factory
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import EDM, VP, Prediction
from ncdeploy.errors import InputError
from ncdeploy.importers.learned_variance import DROPPED
from ncdeploy.importers.tables import named_prediction, named_table
from ncdeploy.importers.weights import find_weights, put_weights
from ncdeploy.modelinfo import ModelInfo

_EDM_RANGE = (0.002, 80.0)


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether this is a name like package.module:function, and no file."""
    text = os.fspath(path)
    return is_factory(text) and not Path(text).exists()


def load(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    predicts: str | None = None,
    shape: tuple[int, ...] | None = None,
    schedule: str | None = None,
    train_steps: int | None = None,
    beta_start: float | None = None,
    beta_end: float | None = None,
    num_classes: int = 0,
    null_class: bool = False,
    sigma_data: float = 0.5,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    learned_variance: str | None = None,
    key: str | None = None,
    strip: str | None = None,
) -> Denoiser:
    """Import and run "package.module:function", which returns the module, and wrap it.

    weights: its state dict, .safetensors or a PyTorch file; None keeps the weights that the function gives it
    key, strip: where in that file they stand, and the prefix of their names; see `find_weights`
    num_classes, null_class: labels that the module takes; whether one more, num_classes, means "no class" to it
    The other options are those of `wrap_module`; the betas belong to the schedules linear and scaled-linear.

    Runs foreign code. Raises InputError and DependencyError as `run_factory` and `wrap_module` do, FileError for
    weights that do not fit.
    """
    name = os.fspath(path)
    if predicts is None or shape is None:
        missing = "predicts" if predicts is None else "shape"
        raise InputError(
            f"{missing}: not given; a module does not say it itself, for example: "
            f"ncdeploy import {name} --predicts eps --schedule linear --shape 3,32,32 -o model.pt"
        )
    table: NoiseTable | None = None
    if schedule is not None:
        table = named_table(schedule, train_steps=train_steps or 1000, beta_start=beta_start, beta_end=beta_end)
    elif train_steps is not None or beta_start is not None or beta_end is not None:
        raise InputError("train-steps, beta-start, beta-end: belong to a schedule; give --schedule, too")
    if weights is None and (key is not None or strip is not None):
        raise InputError("key, strip: say where weights stand in a file; give --weights, too")
    module = run_factory(name)
    notes: tuple[str, ...] = ()
    if weights is not None:
        found, notes = find_weights(weights, module.state_dict(), key=key, strip=strip)
        put_weights(module, found, weights)
    denoiser = wrap_module(
        module, shape=shape, predicts=predicts, schedule=table, num_classes=num_classes, unconditional=null_class,
        sigma_data=sigma_data, sigma_min=sigma_min, sigma_max=sigma_max, factory=name,
        learned_variance=learned_variance,
    )  # fmt: skip
    denoiser.notes = (*notes, *denoiser.notes)
    return denoiser


def wrap_module(
    module: nn.Module,
    *,
    shape: tuple[int, ...],
    predicts: str,
    schedule: str | NoiseTable | None = None,
    num_classes: int = 0,
    unconditional: bool = False,
    sigma_data: float = 0.5,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    learned_variance: str | None = None,
    factory: str | None = None,
) -> Denoiser:
    """A module N(x, noise[, labels]) as a denoiser D(x, sigma[, labels]); the module itself is used, not a copy.

    shape:         of one sample, without the batch axis
    predicts:      eps, v or x0: noise is a real-valued training step 0 .. T - 1 and x variance-preserving (see `VP`);
                   F: noise is ln(sigma) / 4 and x is scaled by c_in (see `EDM`)
    schedule:      for eps, v and x0: linear, scaled-linear, cosine, or a NoiseTable
    num_classes:   classes 0 .. num_classes - 1 that it takes as labels; with `unconditional` also num_classes
    sigma_data:    standard deviation of its training data; it is part of F's scaling
    sigma_min/max: noise levels it was trained on, for F alone (the schedule fixes the others); None = 0.002 and 80
    learned_variance: "drop" for a module that returns twice the channels, a variance behind the mean, which no D needs
    factory:       "package.module:function" that makes the module again; without one the model can be exported and
                   sampled, but not saved

    Raises InputError for options that do not fit, and for a module that cannot be called so.
    """
    edm = predicts == "F"
    prediction: Prediction = "x0" if edm else named_prediction(predicts, also=("F",))
    if num_classes < 0:
        raise InputError(f"num-classes: got {num_classes}, expected 0 or more")
    if unconditional and not num_classes:
        raise InputError("null-class: there are no classes; give --num-classes, too")
    if learned_variance not in (None, "drop"):
        raise InputError(f"learned-variance: got {learned_variance!r}, expected drop")
    drop = learned_variance == "drop"
    network = ForeignModule(module, tuple(shape), num_classes=num_classes, factory=factory, drop_variance=drop)
    named: dict[str, Any] = {
        "shape": tuple(shape),
        "num_classes": num_classes,
        "unconditional": unconditional or not num_classes,
        "sigma_data": sigma_data,
        "data": factory or type(module).__name__,
    }
    if len(shape) == 3:
        named |= {"offset": 127.5, "scale": 127.5}
    if edm:
        if schedule is not None:
            raise InputError("schedule: F is not trained on discrete steps; leave it out, or choose eps, v or x0")
        low = _EDM_RANGE[0] if sigma_min is None else sigma_min
        high = _EDM_RANGE[1] if sigma_max is None else sigma_max
        plan = {"solver": "dpmpp_2m", "steps": 25, "schedule": "karras", "sigma_min": low, "sigma_max": high}
        return _said(drop, EDM(network, ModelInfo(**named, sigma_min=low, sigma_max=high, default_plan=plan)))
    if schedule is None:
        raise InputError(f"schedule: a model that predicts {predicts} needs one: linear, scaled-linear or cosine")
    if sigma_min is not None or sigma_max is not None:
        raise InputError("sigma-min, sigma-max: the schedule fixes them; leave them out")
    table = named_table(schedule) if isinstance(schedule, str) else schedule
    sigmas = table.sigmas()
    info = ModelInfo(
        **named, sigma_min=float(sigmas[0]), sigma_max=float(sigmas[-1]), default_plan=table.plan()
    )  # fmt: skip
    return _said(drop, VP(network, info, predicts=prediction, table=table))


def _said(dropped: bool, denoiser: Denoiser) -> Denoiser:
    denoiser.notes = (DROPPED,) * dropped
    return denoiser
