"""Do two backends compute the same denoiser? Level by level, row by row, and along whole sampled trajectories.

Both see the same float32 inputs x = x0 + sigma n, because only noisy data matter, and some of pure noise. Every row
of a batch has its own sigma, the rows are shuffled, and the reference is evaluated in other batches than the
candidate; all outputs of a batch size are kept before any is compared. So a candidate fails that mixes rows up, uses
one sigma for a batch, depends on the batch size, or hands out a buffer that it overwrites later.
"""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends import Backend, open_engine
from ncdeploy.backends.describe import describes_itself
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.guidance import Guided
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.recipe import make_plan

TOLERANCE, TRAJECTORY_TOLERANCE = 1e-4, 1e-3
BATCHES = (1, 2, 7, 64)
LEVELS, ROWS_PER_LEVEL = 24, 3
OUTSIDE = 1.25  # the grid of levels goes past the trained range by this factor
REFERENCE_BATCH = 31
TRAJECTORIES = 4
LARGEST_WEIGHT = 3.0  # of guidance
# What is allowed for each precision of a graph: difference of D, rms of a trajectory, and difference per sigma.
# Networks that predict noise agree to a few roundings of their output, which D = x - sigma eps multiplies by sigma:
# an absolute tolerance alone would ask more than the type holds.
LIMITS = {
    "fp32": (TOLERANCE, TRAJECTORY_TOLERANCE, 4e-6),
    "tf32": (2e-2, 1e-2, 4e-3),
    "fp16": (2e-2, 1e-2, 4e-3),
    "bf16": (1e-1, 3e-2, 3e-2),
}

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Level:
    """Largest |difference| of D at one sigma, in model units, and how much is allowed there."""

    sigma: float
    max_abs: float
    allowed: float


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One plan run on both: the largest rms difference of a finished sample, and of any state on the way.

    Each over the rms of the reference's state where that is above 1 (or above the data's std, if that is above 1).
    """

    plan: str
    final_rms: float
    worst_node_rms: float


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The outcome. The worst place is where the difference is largest relative to what is allowed there.

    worst_row is a row of a batch of worst_batch rows. NaN counts as an infinite difference.
    """

    reference: str
    candidate: str
    tolerance: float
    trajectory_tolerance: float
    max_abs: float
    worst_sigma: float
    worst_row: int
    worst_batch: int
    levels: tuple[Level, ...]
    trajectories: tuple[Trajectory, ...]

    @property
    def trajectory_rms(self) -> float:
        """The largest final rms over the plans."""
        return max(t.final_rms for t in self.trajectories)

    @property
    def ok(self) -> bool:
        """Whether every level and every trajectory is within tolerance."""
        nodes = max(t.worst_node_rms for t in self.trajectories)
        trajectory = max(self.trajectory_rms, nodes) <= self.trajectory_tolerance
        return trajectory and all(level.max_abs <= level.allowed for level in self.levels)

    @property
    def summary(self) -> str:
        """One line."""
        worst = f"max |difference| {self.max_abs:.2g}, worst at sigma {self.worst_sigma:.4g}"
        where = f"row {self.worst_row} of a batch of {self.worst_batch}"
        plans = ", ".join(f"{t.plan} {max(t.final_rms, t.worst_node_rms):.2g}" for t in self.trajectories)
        limits = f"tolerances {self.tolerance:g} and {self.trajectory_tolerance:g}"
        return f"{worst} ({where}); trajectory rms {plans}; {limits}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: all fields, ok, trajectory_rms and summary. None stands for a difference that is not finite."""
        record = {"ok": self.ok, "trajectory_rms": self.trajectory_rms, "summary": self.summary, **asdict(self)}
        return {name: _finite(value) for name, value in record.items()}


def compare(
    reference: Backend,
    candidate: Backend,
    *,
    tolerance: float | None = None,
    trajectory_tolerance: float | None = None,
    seed: int = 0,
) -> ParityReport:
    """Compare D on 24 levels over the trained range and a little beyond, in batches of 1, 2, 7 and 64, then samples
    of the model's default plan and of a 50-step DDIM.

    tolerance:            on |difference of D|, in model units for data of std up to 1, in units of its std above;
                          float32 rounding of sigma, 4e-6 sigma, is allowed on top
    trajectory_tolerance: on the rms over one sample's dimensions, see `Trajectory`
    Both default to what suits the less precise of the two models, with its rounding of sigma, see `LIMITS`.

    Models that take guidance are compared at random weights between 0 and 3; if only one takes it, the other is
    guided from outside.

    Raises InputError if the models differ in shape or classes, or for tolerances that are not positive.
    """
    check_comparable(reference, candidate)
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
    grid = np.geomspace(info.sigma_min / OUTSIDE, info.sigma_max * OUTSIDE, LEVELS)
    allowed = tolerance * unit + per_sigma * grid

    pool = Pool(info, grid, rng)
    wanted = _evaluate(reference, pool, rng.permutation(len(pool)), REFERENCE_BATCH)
    errors = np.zeros(LEVELS)
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
        trajectories = tuple(_trajectory(reference, candidate, plan, rng, unit) for plan in plans)
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
    for name in ("shape", "num_classes", "unconditional"):
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
            raise InputError(f"the model's default plan {info.default_plan} is not known here; update ncdeploy") from e
    return make_plan(sigma_min=info.sigma_min, sigma_max=info.sigma_max)


class Pool:
    """The inputs: three rows per level, two of noisy data and one of pure noise, each with its own label and weight."""

    def __init__(self, info: ModelInfo, grid: NDArray[np.float64], rng: np.random.Generator) -> None:
        self.level = np.tile(np.arange(len(grid)), ROWS_PER_LEVEL)
        sigma = grid[self.level]
        clean = rng.standard_normal((len(sigma), *info.shape)) * info.sigma_data
        clean[-len(grid) :] = 0
        noise = rng.standard_normal(clean.shape)
        self.sigma: Floats = sigma.astype(np.float32)
        self.x: Floats = (clean + sigma.reshape(-1, *[1] * len(info.shape)) * noise).astype(np.float32)
        self.condition = draw_condition(info, len(sigma), rng)

    def __len__(self) -> int:
        return len(self.sigma)

    def order(self, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Row numbers in random order that visit every level at least once and fill batches of this size."""
        levels = len(self) // ROWS_PER_LEVEL
        count = -(-levels // batch) * batch
        first = rng.permutation(levels) + levels * rng.integers(0, ROWS_PER_LEVEL, levels)
        rest = np.setdiff1d(np.arange(len(self)), first)
        return rng.permutation(np.concatenate([first, rng.permutation(rest)[: count - levels]]))


def draw_condition(info: ModelInfo, rows: int, rng: np.random.Generator) -> list[NDArray[Any]]:
    """What a model takes beside x and sigma: labels int64 [rows] and weights of guidance float32 [rows], or less."""
    condition: list[NDArray[Any]] = []
    if info.num_classes:
        condition.append(rng.integers(0, len(info.labels), rows))
    if info.guidance:
        condition.append(rng.uniform(0, LARGEST_WEIGHT, rows).astype(np.float32))
    return condition


def _guided(backend: Backend) -> Backend:
    guided: Any = Guided(backend)  # has an info, because a backend has one
    wrapped: Backend = guided
    return wrapped


def _evaluate(backend: Backend, pool: Pool, order: NDArray[np.int64], batch: int) -> Floats:
    """D for the rows of the pool that `order` names, NaN for the others; every call is kept before any is read."""
    chunks = [order[i : i + batch] for i in range(0, len(order), batch)]
    outputs = [backend(pool.x[rows], pool.sigma[rows], *(c[rows] for c in pool.condition)) for rows in chunks]
    result = np.full_like(pool.x, np.nan)
    for rows, output in zip(chunks, outputs, strict=True):
        result[rows] = output
    return result


def _ddim(info: ModelInfo) -> Plan:
    return make_plan("ddim", 50, schedule="karras", sigma_min=info.sigma_min, sigma_max=info.sigma_max)


def _trajectory(
    reference: Backend, candidate: Backend, plan: Plan, rng: np.random.Generator, unit: float
) -> Trajectory:
    """Both models through the plan side by side, on the same noise; each follows its own path."""
    info = reference.info
    condition = draw_condition(info, TRAJECTORIES, rng)
    runs = [
        (backend, deque[Any](maxlen=plan.reach), deque[Any](maxlen=plan.reach)) for backend in (reference, candidate)
    ]
    worst = final = 0.0
    for k, sigma in enumerate(plan.sigmas):
        noise = plan.noise[k] * rng.standard_normal((TRAJECTORIES, *info.shape))
        for backend, states, outputs in runs:
            x = noise + _combine(plan.state[k], states) + _combine(plan.denoised[k], outputs)
            states.appendleft(x)
            outputs.appendleft(None)
            if plan.evaluated[k]:
                level = np.full(TRAJECTORIES, sigma, np.float32)
                outputs[0] = np.array(backend(x.astype(np.float32), level, *condition), np.float64)
        mine, other = (states[0].reshape(TRAJECTORIES, -1) for _, states, _ in runs)
        size = np.maximum(unit, _rms(mine))
        final = float(np.nan_to_num(_rms(mine - other) / size, nan=np.inf, posinf=np.inf).max())
        worst = max(worst, final)
    return Trajectory(plan=plan.name, final_rms=final, worst_node_rms=worst)


def _combine(coefficients: Sequence[float] | NDArray[np.float64], arrays: deque[Any]) -> Any:
    return sum(c * a for c, a in zip(coefficients, arrays, strict=False) if c)


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, tuple):
        return [{name: _finite(inner) for name, inner in row.items()} for row in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _rms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.mean(x**2, axis=1)))
