"""What a scheduler_config.json says of a model: its noise, what it predicts, and how diffusers samples from it.

A setting that the file does not name has the default of the scheduler's own class. The noise table is the one that
this class computes, float32 rounding included; a table that ends without any signal gets a finite end
(`NoiseTable.with_finite_end`). Settings of the table, of the prediction, spacing, offset, end and clipping are taken
over. What else changes diffusers' samples is named in the notes, with its value, unless it has that class's default.
"""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncdeploy.denoisers.foreign.diffusers_unet import first_line
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import Prediction
from ncdeploy.errors import FileError
from ncdeploy.importers.diffusers_files import read_json

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# Their tables all follow from betas; other schedulers belong to other noise processes. What samples as they do.
SCHEDULERS: dict[str, str | None] = {
    "DDPMScheduler": "ddpm", "DDPMParallelScheduler": "ddpm", "DDIMScheduler": "ddim", "DDIMParallelScheduler": "ddim",
    "PNDMScheduler": None, "DPMSolverMultistepScheduler": None, "DPMSolverSinglestepScheduler": None,
    "UniPCMultistepScheduler": None, "DEISMultistepScheduler": None, "LMSDiscreteScheduler": None,
    "EulerDiscreteScheduler": None,  # ddim with leading steps
    "EulerAncestralDiscreteScheduler": None, "HeunDiscreteScheduler": None,
}  # fmt: skip
OTHER_NOISE = {"timestep_type": "discrete", "use_flow_sigmas": False}  # the only values of these noise processes
TAKEN_OVER = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type", "clip_sample", "timestep_spacing",
)  # fmt: skip
PARTS_OF = {
    "clip_sample_range": "clip_sample", "dynamic_thresholding_ratio": "thresholding", "sample_max_value": "thresholding"
}  # fmt: skip
MOST_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a model was trained: table and prediction, the samplers' spacing and offset of steps, whether they end at
    the first step's noise, their clipping of D, whether half of its output is a learned variance, and what is to be
    said of settings that are not taken over."""

    table: NoiseTable
    predicts: Prediction
    spacing: str | None = None
    offset: int = 0
    ends_at_first: bool = False
    clip: float | None = None
    learned_variance: bool = False
    notes: tuple[str, ...] = ()


def read_scheduler(file: Path, diffusers: Any) -> Trained:
    """Of a scheduler's file. Raises FileError for one that is damaged or belongs to another noise process."""
    config = read_json(file)
    kind = config.get("_class_name")
    if not isinstance(kind, str) or kind not in SCHEDULERS:
        raise FileError(
            f"{file}: describes a {str(kind)[:60]}, expected a scheduler of discrete variance-preserving steps such as "
            "DDPMScheduler; to import the model as one of those, give --predicts and --schedule"
        )
    make = getattr(diffusers, kind)
    defaults = {name: p.default for name, p in inspect.signature(make).parameters.items()}
    settings = {name: config.get(name, default) for name, default in defaults.items()}
    steps = settings["num_train_timesteps"]
    if type(steps) is not int or not 2 <= steps <= MOST_STEPS:
        raise FileError(f"{file}: num_train_timesteps is {steps!r:.40}, expected a whole number, 2 to {MOST_STEPS}")
    for name, known in OTHER_NOISE.items():
        if settings.get(name, known) != known:
            raise FileError(
                f"{file}: {name} is {settings[name]!r:.40}, so the network's noise input is no training step; expected "
                f"{known!r}: only discrete variance-preserving steps can be imported"
            )
    if "prediction_type" not in config and not config.get("predict_epsilon", True):  # as it was called before 0.8
        settings["prediction_type"] = "sample"
    prediction = settings["prediction_type"]
    if not isinstance(prediction, str) or prediction not in PREDICTIONS:
        raise FileError(f"{file}: prediction_type is {prediction!r:.40}, expected one of {', '.join(PREDICTIONS)}")
    try:
        with warnings.catch_warnings(action="ignore"):
            alphas = make(**settings).alphas_cumprod
        table = NoiseTable.with_finite_end(alphas.double().numpy())
        clip = _clip(settings)
    except Exception as e:  # settings of any type meet code that checks none of them
        raise FileError(f"{file}: its settings give no noise table: {first_line(e)}") from e
    spacing = settings.get("timestep_spacing", "leading")
    offset = _offset(settings, steps) if spacing == "leading" else 0
    return Trained(
        table=table,
        predicts=PREDICTIONS[prediction],
        spacing=spacing if spacing in ("trailing", "linspace") else None,
        offset=offset,
        ends_at_first=offset > 0 and settings.get("set_alpha_to_one") is False,
        clip=clip,
        learned_variance=str(settings.get("variance_type")).startswith("learned"),
        notes=tuple(_notes(kind, settings, defaults)),
    )


def _offset(settings: Mapping[str, Any], steps: int) -> int:
    """What is added to every step of leading spacing; beyond the first few it is no such thing."""
    offset = settings.get("steps_offset", 0)
    return offset if type(offset) is int and 0 < offset < steps // 50 else 0


def _clip(settings: Mapping[str, Any]) -> float | None:
    """Where D is cut. Thresholding goes before clipping; up to 1 its limit is the same for every sample."""
    if settings.get("thresholding"):
        return 1.0 if float(settings["sample_max_value"]) == 1 else None
    return float(settings["clip_sample_range"]) if settings.get("clip_sample") else None


def _notes(kind: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    solver, notes = SCHEDULERS[kind], []
    if kind == "EulerDiscreteScheduler" and settings["timestep_spacing"] == "leading":
        solver = "ddim"  # of which it is another form, with the same steps and the same start
    if solver is None:
        notes.append(f"{kind} itself is not taken over; the plan is ddim on the steps that it was trained with")
    elif solver != "ddim":
        notes.append(f"the plan is ddim; what {kind} does is --solver {solver}")
    if settings.get("thresholding"):
        if float(settings["sample_max_value"]) == 1:
            notes.append("thresholding with sample_max_value 1 is taken over as what it comes to, D cut to -1 .. 1")
        else:
            notes.append(
                f"thresholding is not taken over (dynamic_thresholding_ratio {settings['dynamic_thresholding_ratio']}, "
                f"sample_max_value {settings['sample_max_value']}): D is not cut"
            )
    left = {name: value for name, value in settings.items() if value != defaults[name] and name not in TAKEN_OVER}
    left = {name: value for name, value in left.items() if name not in (*PARTS_OF, "thresholding")}
    if settings.get("timestep_spacing", "leading") != "leading":
        left.pop("steps_offset", None)  # has no effect
    elif _offset(settings, settings["num_train_timesteps"]):
        left.pop("steps_offset", None)
        left.pop("set_alpha_to_one", None)
    variance = left.pop("variance_type", None)
    if solver == "ddpm" and variance == "fixed_large":
        notes.append("variance_type fixed_large is --variance beta of --solver ddpm, which has posterior otherwise")
    elif variance is not None and (solver != "ddpm" or variance != "fixed_small_log"):  # which is fixed_small again
        notes.append(f"variance_type {variance} is not taken over; the solvers here have variances of their own")
    if solver and _uneven(settings):
        notes.append(
            f"timestep_spacing {settings['timestep_spacing']}: the plan goes from each of its levels to the next; "
            f"{kind} goes down by num_train_timesteps // steps whatever the spacing"
        )
    if left:
        named = ", ".join(f"{name} {value!r:.40}" for name, value in left.items())
        notes.append(f"not taken over from {kind}, whose samples differ by it: {named}")
    return notes


def _uneven(settings: Mapping[str, Any], steps: int = 50) -> bool:
    """Whether its steps are not num_train_timesteps // steps apart, which diffusers supposes."""
    trained, spacing = settings["num_train_timesteps"], settings["timestep_spacing"]
    return bool(spacing == "linspace" or (spacing == "trailing" and trained % min(steps, trained)))
