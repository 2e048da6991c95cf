"""Plans by name: what the command line, model metadata and most users ask for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from math import sqrt
from typing import Any

import numpy as np

from ncdeploy.errors import InputError
from ncdeploy.sampling import schedules, solvers
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.solvers.base import Solver

SOLVERS: dict[str, Solver[...]] = {name: getattr(solvers, name) for name in solvers.FILES}

SOLVER_OPTIONS = {name: known.options for name, known in SOLVERS.items()}
SOLVER_OPTIONS["ddim"] += ("raw_noise",)  # what becomes of the plan that it makes, where D is cut

SCHEDULES: dict[str, Callable[..., schedules.Floats]] = {
    "karras": schedules.karras,
    "exponential": schedules.exponential,
    "ddpm": schedules.ddpm,
    "cosine": schedules.cosine,
    "table": schedules.table,
    "flow": schedules.flow,
}
SCHEDULE_OPTIONS: dict[str, tuple[str, ...]] = {
    "karras": ("sigma_min", "sigma_max"),
    "exponential": ("sigma_min", "sigma_max"),
    "ddpm": ("spacing",),
    "cosine": ("spacing",),
    "table": ("spacing", "levels", "offset", "ends_at"),
    "flow": ("shift", "t_last"),
}
# Variance-preserving processes start from white noise of variance 1, which is 1 + s0^2 in these coordinates.
VARIANCE_PRESERVING = ("ddpm", "cosine", "table")

DEFAULT_SIGMA_MIN, DEFAULT_SIGMA_MAX = 0.02, 80.0
DEFAULT_STEPS = 25


def make_plan(
    solver: str = "dpmpp_2m",
    steps: int = DEFAULT_STEPS,
    *,
    schedule: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    spacing: str | None = None,
    levels: Sequence[float] | None = None,
    offset: int | None = None,
    ends_at: float | None = None,
    shift: float | None = None,
    t_last: float | None = None,
    eta: float | None = None,
    variance: str | None = None,
    order: int | None = None,
    churn: float | None = None,
    churn_noise: float | None = None,
    churn_min: float | None = None,
    churn_max: float | None = None,
    clip: float | None = None,
    raw_noise: bool | None = None,
) -> Plan:
    """The plan of a solver on a schedule, both by name.

    Args:
        solver: a name of `ncdeploy.solvers`: ddpm, ddim, euler, heun, dpmpp_2m ...
        steps: steps of the solver, at least 1; each is one evaluation of the denoiser, for heun two but for the last
        schedule: karras, exponential, ddpm (linear beta), cosine, table or flow; None = the solver's usual: ddpm for
            ddpm and ddim, karras for the others
        sigma_min: of karras and exponential, in units of the data; None = 0.02
        sigma_max: of karras and exponential, in units of the data; None = 80
        spacing: of ddpm, cosine and table: leading (None), trailing or linspace
        levels: of table, which needs them: sigma of every training step, increasing
        offset: of table with leading spacing: added to every training step; None = 0
        ends_at: of table: sigma of the sample, which keeps that noise and is in the scale of its process; None = 0
        shift: of flow: 1 (None) for equal steps, above 1 for more of them at noise
        t_last: of flow: t of the last evaluation, before the shift; None = 1 / steps
        eta: of ddim: 0 (None) to 1
        variance: of ddpm: posterior (None) or beta
        order: of unipc, 1 to 3 (None = 2), and of ipndm, 1 to 4 (None = 4)
        churn: of heun, S_churn of EDM's stochastic sampler
        churn_noise: of heun with churn, S_noise
        churn_min: of heun with churn, S_min
        churn_max: of heun with churn, S_max
        clip: D is cut to -clip .. clip, in model units, for a model that does not do that itself; None = it is not
        raw_noise: of ddim with a clip: the noise that it follows is that of D uncut, as in diffusers' DDIMPipeline;
            False (None): it is that of the cut D, as in OpenAI's code

    Raises:
        InputError: for an unknown name, a value out of range, or an option that would do nothing
    """
    solver = _known("solver", solver, SOLVERS)
    schedule = _known("schedule", SOLVERS[solver].schedule if schedule is None else schedule, SCHEDULES)

    solver_options = _given(
        eta=eta, variance=variance, order=order, churn=churn, churn_noise=churn_noise, churn_min=churn_min,
        churn_max=churn_max,
    )  # fmt: skip
    _check_options("solver", solver, solver_options | _given(raw_noise=raw_noise), SOLVER_OPTIONS)
    if raw_noise is not None and clip is None:
        raise InputError("raw_noise: says what becomes of the noise where D is cut; give clip, too, or leave it out")
    schedule_options = _given(
        sigma_min=sigma_min, sigma_max=sigma_max, spacing=spacing, levels=levels, offset=offset, ends_at=ends_at,
        shift=shift, t_last=t_last,
    )  # fmt: skip
    _check_options("schedule", schedule, schedule_options, SCHEDULE_OPTIONS)

    if schedule == "table" and levels is None:
        raise InputError(
            "schedule 'table': needs levels, the noise level of every training step; imported models have it"
        )
    if "sigma_min" in SCHEDULE_OPTIONS[schedule]:
        schedule_options = {"sigma_min": DEFAULT_SIGMA_MIN, "sigma_max": DEFAULT_SIGMA_MAX, **schedule_options}
    sigmas = SCHEDULES[schedule](steps, **schedule_options)
    # Flow matching starts from white noise of variance 1 as well, in a scale of its own.
    scale = sqrt(1 + sigmas[0] ** 2) if schedule in VARIANCE_PRESERVING else None
    scale = 1 + sigmas[0] if schedule == "flow" else scale
    plan = SOLVERS[solver](sigmas, scale=scale, **solver_options)
    plan = plan if sigmas[-1] == 0 else _in_scale(plan, 1 / sqrt(1 + sigmas[-1] ** 2))
    return plan if clip is None else _cut(plan, clip, bool(raw_noise))


def _in_scale(plan: Plan, factor: float) -> Plan:
    """The plan with its sample times the factor."""
    rows = np.ones(len(plan))
    rows[-1] = factor
    return replace(
        plan, state=plan.state * rows[:, None], denoised=plan.denoised * rows[:, None], noise=plan.noise * rows
    )


def _cut(plan: Plan, clip: float, raw_noise: bool) -> Plan:
    """The plan with D cut to -clip .. clip, in ddim's term (x - D) too unless `raw_noise`.

    x' = a x + b D, with a + b = 1 in the scale of the row, is D + a (x - D): with D cut in the first place alone it
    changes by clip(D) - D, and b times that by the share 1 / b.
    """
    if not raw_noise:
        return replace(plan, clip=clip)
    a, b = plan.state.sum(axis=1), plan.denoised.sum(axis=1)
    return replace(plan, clip=clip, cut=np.divide(a + b, b, out=np.zeros(len(plan)), where=b != 0))


def adapted_plan(own: Mapping[str, Any], trained: tuple[float, float], **asked: Any) -> Plan:
    """The plan that a model comes with, changed by the arguments of `make_plan` that are not None.

    own:     arguments of `make_plan`, those of the model
    trained: least and largest noise level of its training, for a schedule with a range where its own has none

    Another solver keeps of the model's plan the noise range, where it takes one, or the training levels of a
    variance-preserving model, which suit every solver, and the clip.
    """
    asked = _given(**asked)
    kept = dict(own)
    if asked.get("solver", own.get("solver")) != own.get("solver"):
        names = ["sigma_min", "sigma_max", "clip"]
        if own.get("schedule") in (*VARIANCE_PRESERVING, "flow"):
            names += ["schedule", "spacing", "levels", "offset", "shift", "t_last"]
        kept = {name: own[name] for name in names if name in own}
    if "schedule" in asked and asked["schedule"] != kept.get("schedule"):
        kept.pop("schedule", None)
    chosen = kept | asked
    if own.get("schedule") in (*VARIANCE_PRESERVING, "flow"):
        chosen = {"sigma_min": trained[0], "sigma_max": trained[1]} | chosen
    solver = SOLVERS.get(chosen.get("solver", "dpmpp_2m"))  # of a name that there is not, make_plan says so
    schedule = chosen.get("schedule") or ("" if solver is None else solver.schedule)
    takes = SCHEDULE_OPTIONS.get(schedule, ())
    options = {name for names in SCHEDULE_OPTIONS.values() for name in names}
    dropped = options - set(takes) - set(asked)
    if "offset" in own and not _has_room(chosen):
        dropped |= {"offset", "ends_at"}
    return make_plan(**{name: value for name, value in chosen.items() if name not in dropped})


def _has_room(chosen: Mapping[str, Any]) -> bool:
    """Whether an offset has a meaning: training steps are left above the first of the plan's."""
    trained, steps = len(chosen.get("levels", ())), chosen.get("steps", DEFAULT_STEPS)
    leading = chosen.get("spacing") in (None, "leading") and 1 < steps <= trained
    return bool(leading and trained // steps * (steps - 1) + chosen.get("offset", 0) < trained)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _known(kind: str, name: str, table: Iterable[str]) -> str:
    known = list(table)
    if name in known:
        return name
    near = get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise InputError(f"unknown {kind} {name!r}{hint} known: {', '.join(known)}")


def _check_options(kind: str, name: str, options: dict[str, Any], table: dict[str, tuple[str, ...]]) -> None:
    for option in options:
        if option not in table[name]:
            takers = " or ".join(other for other, accepted in table.items() if option in accepted)
            raise InputError(f"{option}: {kind} {name!r} takes no such option; leave it out or choose {takers}")
