"""Two models level by level and row by row, and the limits of a difference."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends import Backend, open_engine
from ncdeploy.errors import InputError
from ncdeploy.formats.describe import describes_itself
from ncdeploy.guidance import Guided
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity.inputs import Floats, Pool, draw_levels
from ncdeploy.parity.report import Level, ParityReport
from ncdeploy.parity.trajectory import run_both
from ncdeploy.ports import take_all
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.recipe import make_plan

TOLERANCE, TRAJECTORY_TOLERANCE = 1e-4, 1e-3
BATCHES = (1, 2, 7, 64)
REFERENCE_BATCH = 31
# What is allowed for each precision of a graph: difference of D, rms of a trajectory, and difference per sigma.
# Networks that predict noise agree to a few roundings of their output, which D = x - sigma eps multiplies by sigma:
# an absolute tolerance alone would ask more than the type holds.
LIMITS = {
    "fp32": (TOLERANCE, TRAJECTORY_TOLERANCE, 4e-6),
    "tf32": (2e-2, 1e-2, 4e-3),
    "fp16": (2e-2, 1e-2, 4e-3),
    "bf16": (1e-1, 3e-2, 3e-2),
}


def compare(
    reference: Backend,
    candidate: Backend,
    *,
    tolerance: float | None = None,
    trajectory_tolerance: float | None = None,
    seed: int = 0,
    conditions: Mapping[str, NDArray[Any]] | None = None,
) -> ParityReport:
    """Compare D on 24 levels over the trained range and a little beyond, and on 12 training levels where there are
    some, in batches of 1, 2, 7 and 64, then samples of the model's default plan and of a 50-step DDIM.

    tolerance:            on |difference of D|, in model units for data of std up to 1, in units of its std above;
                          float32 rounding of sigma, 4e-6 sigma, is allowed on top
    trajectory_tolerance: on the rms over one sample's dimensions, see `Trajectory`
    conditions:           of a model that takes some, [S, *shape] each; drawn where none are given
    Both default to what suits the less precise of the two models, with its rounding of sigma, see `LIMITS`.

    Models that take guidance are compared at random weights between 0 and 3; if only one takes it, the other is
    guided from outside.

    Raises:
        InputError: if the models differ in shape or classes, or for tolerances that are not positive
    """
    check_comparable(reference, candidate)
    if conditions is not None:
        n = len(next(iter(conditions.values()), ()))
        conditions = take_all(reference.info.conditions, conditions, n)
    limits = max(LIMITS[reference.info.precision], LIMITS[candidate.info.precision])
    per_sigma = limits[2] if tolerance is None else LIMITS["fp32"][2]
    tolerance = limits[0] if tolerance is None else tolerance
    trajectory_tolerance = limits[1] if trajectory_tolerance is None else trajectory_tolerance
    check_tolerances(tolerance, trajectory_tolerance)
    if reference.info.guidance != candidate.info.guidance:
        reference, candidate = (b if b.info.guidance else _guided(b) for b in (reference, candidate))
    info = reference.info
    rng = np.random.default_rng(seed)
    unit = max(1.0, info.sigma_data)
    grid = draw_levels(info, rng)
    allowed = tolerance * unit + per_sigma * grid

    pool = Pool(info, grid, rng, conditions)
    wanted = _evaluate(reference, pool, rng.permutation(len(pool)), REFERENCE_BATCH)
    errors = np.zeros(len(grid))
    worst = (-1.0, 0, 0, 0)
    for batch in BATCHES:
        order = pool.order(batch, rng)
        with np.errstate(invalid="ignore"):  # infinity minus infinity is a finding, not a warning
            difference = np.abs(_evaluate(candidate, pool, order, batch)[order] - wanted[order], dtype=np.float64)
        difference = np.nan_to_num(difference, nan=np.inf, posinf=np.inf).reshape(len(order), -1).max(axis=1)
        level = pool.level[order]
        np.maximum.at(errors, level, difference)
        at = int(np.argmax(difference / allowed[level]))
        worst = max(worst, (float(difference[at] / allowed[level[at]]), int(level[at]), at % batch, batch))
    with np.errstate(invalid="ignore", over="ignore"):
        plans = (default_plan(info), _ddim(info))
        trajectories = tuple(run_both(reference, candidate, plan, rng, unit, conditions) for plan in plans)
    return ParityReport(
        reference=reference.name,
        candidate=candidate.name,
        tolerance=tolerance,
        trajectory_tolerance=trajectory_tolerance,
        max_abs=float(errors.max()),
        worst_sigma=float(grid[worst[1]]),
        worst_row=worst[2],
        worst_batch=worst[3],
        levels=tuple(
            Level(sigma=float(s), max_abs=float(e), allowed=float(a))
            for s, e, a in zip(grid, errors, allowed, strict=True)
        ),
        trajectories=trajectories,
    )


def open_pair(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    info: ModelInfo | None = None,
    allow_module: bool = False,
) -> tuple[Backend, Backend]:
    """Open two model files to compare; the reference runs on the CPU, the candidate on `device`.

    info: of an ONNX file that does not describe itself; without it, such a file takes the other's description.
    allow_module: whether a model.pt may name Python code that makes its network, which is then imported and run

    Raises what `open_engine` raises, and InputError for an `info` that neither file needs.
    """
    silent = [not describes_itself(path) for path in (reference, candidate)]
    if info is not None and not any(silent):
        raise InputError("both files describe themselves; leave out the options that describe the model")
    if silent == [True, False] and info is None:
        second = open_engine(candidate, device=device, threads=threads, allow_module=allow_module)
        return open_engine(reference, threads=threads, info=second.info), second
    first = open_engine(reference, threads=threads, info=info if silent[0] else None, allow_module=allow_module)
    return first, open_engine(
        candidate, device=device, threads=threads, info=(info or first.info) if silent[1] else None,
        allow_module=allow_module,
    )  # fmt: skip


def check_tolerances(tolerance: float | None, trajectory_tolerance: float | None) -> None:
    """Raise InputError unless both are positive numbers, or None for the default."""
    for name, value in (("tolerance", tolerance), ("trajectory_tolerance", trajectory_tolerance)):
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"{name}: got {value}, expected a positive number")


def check_comparable(reference: Backend, candidate: Backend) -> None:
    """Raise InputError if two models do not take the same inputs."""
    for name in ("shape", "num_classes", "unconditional", "conditions"):
        a, b = getattr(reference.info, name), getattr(candidate.info, name)
        if a != b:
            raise InputError(f"the models differ in {name}: {a} and {b}; only models with equal inputs can be compared")


def default_plan(info: ModelInfo) -> Plan:
    """The plan a model recommends; without one, DPM-Solver++(2M) in 25 steps over its trained range.

    Raises InputError if it recommends what this version does not know.
    """
    if info.default_plan:
        try:
            return make_plan(**info.default_plan)
        except TypeError as e:
            raise InputError(
                f"the model's default plan {str(info.default_plan)[:60]} is not known here; update ncdeploy"
            ) from e
    return make_plan(sigma_min=info.sigma_min, sigma_max=info.sigma_max)


def _guided(backend: Backend) -> Backend:
    guided: Any = Guided(backend)  # has an info, because a backend has one
    wrapped: Backend = guided
    return wrapped


def _evaluate(backend: Backend, pool: Pool, order: NDArray[np.int64], batch: int) -> Floats:
    """D for the rows of the pool that `order` names, NaN for the others; every call is kept before any is read."""
    chunks = [order[i : i + batch] for i in range(0, len(order), batch)]
    outputs = [backend(pool.x[rows], pool.sigma[rows], **pool.condition(rows)) for rows in chunks]
    result = np.full_like(pool.x, np.nan)
    for rows, output in zip(chunks, outputs, strict=True):
        result[rows] = output
    return result


def _ddim(info: ModelInfo) -> Plan:
    return make_plan("ddim", 50, schedule="karras", sigma_min=info.sigma_min, sigma_max=info.sigma_max)
