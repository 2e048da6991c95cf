"""What a scheduler_config.json says of a model of flow matching: the steps of its pipeline.

FlowMatchEulerDiscreteScheduler steps t evenly, then shifts it. The shift stands in the file, or follows from the
number of patches of a picture. What else changes diffusers' samples is named in the notes, as for other schedulers.
"""

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncdeploy.errors import FileError
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.diffusers_files import read_json

KIND = "FlowMatchEulerDiscreteScheduler"
STEPS = 28  # of the pipelines of Stable Diffusion 3 and Flux
TRAINED = 1000
TAKEN_OVER = (
    "num_train_timesteps", "shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len",
    "max_image_seq_len", "time_shift_type",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FlowTrained:
    """The default plan of a model, and what is to be said of settings that are not taken over."""

    plan: dict[str, Any]
    notes: tuple[str, ...] = ()


def flow_plan(shift: float, t_last: float | None = None) -> dict[str, Any]:
    """Arguments of `ncdeploy.make_plan`."""
    plan = {"solver": "ddim", "steps": STEPS, "schedule": "flow", "shift": shift}
    return plan if t_last is None else {**plan, "t_last": t_last}


def read_flow(file: Path, diffusers: Any, *, patches: int, evenly: bool) -> FlowTrained:
    """Of a scheduler's file.

    patches: of a sample, which a shift may depend on
    evenly:  the pipeline ends its steps at t = 1 / steps, as Flux's; otherwise at the least t of the scheduler

    Raises FileError for one that is damaged or belongs to another noise process.
    """
    config = read_json(file)
    kind = config.get("_class_name")
    if kind != KIND:
        raise FileError(
            f"{file}: describes a {str(kind)[:60]}, expected {KIND}; to import the model with even steps, give "
            "--shift, 3 for Stable Diffusion 3"
        )
    defaults = {name: p.default for name, p in inspect.signature(getattr(diffusers, kind)).parameters.items()}
    settings = {name: config.get(name, default) for name, default in defaults.items()}
    known = Arguments(settings)
    try:
        if known.whole("num_train_timesteps") != TRAINED or known.flag("invert_sigmas"):
            raise FileError(f"expected num_train_timesteps {TRAINED} and invert_sigmas false; others are not supported")
        shift = known.real("shift")
        least = shift / TRAINED / (1 + (shift - 1) / TRAINED)
        if known.flag("use_dynamic_shifting"):
            kind_of_shift = known.choice("time_shift_type", None, ("exponential", "linear"))
            shift, least = _dynamic(known, patches), 1 / TRAINED
            shift = math.exp(shift) if kind_of_shift == "exponential" else shift
    except (FileError, ArithmeticError) as e:
        raise FileError(f"{file}: {e}") from e
    if not 0 < shift < 1e4:
        raise FileError(f"{file}: its shift comes to {shift:.4g}, expected a positive number")
    left = ", ".join(
        f"{name} {value!r:.40}"
        for name, value in settings.items()
        if value != defaults[name] and name not in TAKEN_OVER
    )
    notes = (f"not taken over from {KIND}, whose samples differ by it: {left}",) if left else ()
    return FlowTrained(plan=flow_plan(shift, None if evenly else least), notes=notes)


def _dynamic(known: Arguments, patches: int) -> float:
    """The shift's logarithm (or itself), linear in the number of patches."""
    few, many = known.whole("base_image_seq_len"), known.whole("max_image_seq_len")
    low, high = known.real("base_shift"), known.real("max_shift")
    return low + (high - low) / (many - few) * (patches - few)
