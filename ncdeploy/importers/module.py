"""Any PyTorch module as a denoiser: from Python in three lines, or by the name of a function that makes it.

denoiser = wrap_module(network, shape=(3, 32, 32), predicts="eps", schedule="linear")
export_onnx(denoiser, "model.onnx")
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.flow import TIMES, Flow, Towards
from ncdeploy.denoisers.foreign.module import ForeignModule, is_factory, run_factory
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import EDM, VP, Prediction
from ncdeploy.denoisers.told import CONTINUOUS, NOISES
from ncdeploy.errors import InputError
from ncdeploy.formats.conditions import parse_condition
from ncdeploy.importers.learned_variance import DROPPED
from ncdeploy.importers.tables import named_prediction, named_table
from ncdeploy.importers.weights import find_weights, put_weights
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition
from ncdeploy.sampling.schedules import FLOW_START

_EDM_RANGE = (0.002, 80.0)
FLOW_RANGE = (1e-3, FLOW_START)
FLOWS: dict[str, Towards] = {"flow": "noise", "flow-to-data": "data"}


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
    noise: str | None = None,
    shift: float | None = None,
    train_steps: int | None = None,
    beta_start: float | None = None,
    beta_end: float | None = None,
    num_classes: int = 0,
    null_class: bool = False,
    conditions: Sequence[str] = (),
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
    conditions: what it takes beside those, as `ncdeploy.formats.conditions.parse_condition` reads it
    The other options are those of `wrap_module`; the betas belong to the schedules linear and scaled-linear.

    Runs foreign code. Raises InputError and DependencyError as `run_factory` and `wrap_module` do, FileError for
    weights that do not fit.
    """
    name = os.fspath(path)
    if predicts is None or shape is None:
        missing = "predicts" if predicts is None else "shape"
        raise InputError(
            f"{missing}: not given; a module does not say it itself, for example: "
            f"ncdeploy import {name} --predicts eps --noise step --schedule linear --shape 3,32,32 -o model.pt"
        )
    if noise is None:
        told = TIMES if predicts in FLOWS else CONTINUOUS if predicts == "F" else NOISES
        raise InputError(
            f"noise: not given; a module does not say what it is told of the noise level, and asked with another it "
            f"answers wrongly: give --noise, one of {', '.join(told)}"
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
        module, shape=shape, predicts=predicts, schedule=table, noise=noise, shift=shift,
        num_classes=num_classes, unconditional=null_class,
        conditions=[parse_condition(text) for text in conditions],
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
    noise: str | None = None,
    shift: float | None = None,
    num_classes: int = 0,
    unconditional: bool = False,
    conditions: Sequence[Condition] = (),
    sigma_data: float = 0.5,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    learned_variance: str | None = None,
    factory: str | None = None,
) -> Denoiser:
    """A module N(x, noise[, labels], **conditions) as a denoiser; the module itself is used, not a copy.

    shape:         of one sample, without the batch axis
    predicts:      eps, v or x0: x is variance-preserving (see `VP`); F: x is scaled by c_in (see `EDM`); flow for
                   v = n - x0 of flow matching, flow-to-data for x0 - n (see `Flow`)
    noise:         what it is told of the noise level, see `ncdeploy.denoisers.told` and, for flow matching, which has
                   no default, `Flow`. None = a real-valued training step 0 .. T - 1, and ln(sigma) / 4 for F
    schedule:      for eps, v and x0: linear, scaled-linear, cosine, or a NoiseTable; none for a network that is told
                   the noise level itself (log-snr, c-noise or sigma)
    shift:         of flow matching: that of its default plan, see `ncdeploy.schedules.flow`
    conditions:    what it takes beside those, as keywords, see `ForeignModule`
    num_classes:   classes 0 .. num_classes - 1 that it takes as labels; with `unconditional` also num_classes
    sigma_data:    standard deviation of its training data; it is part of F's scaling
    sigma_min/max: noise levels it was trained on, where no schedule fixes them; None = 0.002 and 80 for F, and t from
                   0.001 to 1 of flow matching
    learned_variance: "drop" for a module that returns twice the channels, a variance behind the mean, which no D needs
    factory:       "package.module:function" that makes the module again; without one the model can be exported and
                   sampled, but not saved

    Raises:
        InputError: for options that do not fit, and for a module that cannot be called so
    """
    also = ("F", *FLOWS)
    prediction: Prediction = "x0" if predicts in also else named_prediction(predicts, also=also)
    if num_classes < 0:
        raise InputError(f"num-classes: got {num_classes}, expected 0 or more")
    if unconditional and not num_classes:
        raise InputError("null-class: there are no classes; give --num-classes, too")
    if shift is not None and predicts not in FLOWS:
        raise InputError("shift: is of flow matching; leave it out, or choose --predicts flow")
    if learned_variance not in (None, "drop"):
        raise InputError(f"learned-variance: got {learned_variance!r}, expected drop")
    drop = learned_variance == "drop"
    network = ForeignModule(
        module, tuple(shape), num_classes=num_classes, conditions=tuple(conditions), factory=factory,
        drop_variance=drop,
    )  # fmt: skip
    named: dict[str, Any] = {
        "shape": tuple(shape),
        "num_classes": num_classes,
        "unconditional": unconditional or not num_classes,
        "conditions": tuple(conditions),
        "sigma_data": sigma_data,
        "data": factory or type(module).__name__,
    }
    if len(shape) == 3:
        named |= {"offset": 127.5, "scale": 127.5}
    table = named_table(schedule) if isinstance(schedule, str) else schedule
    if table is not None and (predicts == "F" or predicts in FLOWS):
        raise InputError(f"schedule: {predicts} is not trained on discrete steps; leave it out, or choose eps, v or x0")
    if table is not None:
        if sigma_min is not None or sigma_max is not None:
            raise InputError("sigma-min, sigma-max: the schedule fixes them; leave them out")
        sigmas = table.sigmas()
        low, high, plan = float(sigmas[0]), float(sigmas[-1]), table.plan()
    elif predicts in FLOWS:
        low, high = _range(sigma_min, sigma_max, FLOW_RANGE)
        plan = {"solver": "ddim", "steps": 28, "schedule": "flow", **({} if shift is None else {"shift": shift})}
    else:
        if predicts != "F" and noise not in CONTINUOUS:
            raise InputError(f"schedule: a model that predicts {predicts} needs one: linear, scaled-linear or cosine")
        if predicts != "F" and (sigma_min is None or sigma_max is None):
            raise InputError("sigma-min, sigma-max: without a schedule, give the noise levels it was trained on")
        low, high = _range(sigma_min, sigma_max, _EDM_RANGE)
        plan = {"solver": "dpmpp_2m", "steps": 25, "schedule": "karras", "sigma_min": low, "sigma_max": high}
    info = ModelInfo(**named, sigma_min=low, sigma_max=high, default_plan=plan)
    denoiser: Denoiser
    if predicts == "F":
        denoiser = EDM(network, info, noise=noise or "c-noise")
    elif predicts not in FLOWS:
        denoiser = VP(network, info, predicts=prediction, table=table, noise=noise or "step")
    elif noise is None:
        raise InputError(f"noise: not given; say what the network is told, one of {', '.join(TIMES)}")
    else:
        denoiser = Flow(network, info, towards=FLOWS[predicts], noise=noise)
    denoiser.notes = (DROPPED,) * drop
    return denoiser


def _range(low: float | None, high: float | None, usual: tuple[float, float]) -> tuple[float, float]:
    return usual[0] if low is None else low, usual[1] if high is None else high
