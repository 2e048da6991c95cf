"""Solvers, steps and drivers on one engine, side by side: what a run costs and how good its samples are.

Two things are measured apart. Cost, on runs of `n` samples: every way of sampling in turn, several times over, so that
whatever else the machine does hits all of them alike. And `judged` other samples, one run each: fidelity is the rms
between the parallel and the sequential sample from the same noise; quality is

- with data: the energy distance between the samples and the data, estimated without bias, so that it is about zero
             for real data and may be below; beside a floor: below it, a quality cannot be told from real data's;
- without:   the rms, geometric mean over samples, to a fine solution of the same ODE from the same noise (Heun,
             Karras et al. 2022, algorithm 1, with `FINE_STEPS` steps). A plan that draws noise solves another
             equation and has no such error.

Each quality has its standard error, and the difference of two, from the same seeds and data, has a smaller one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.auto.latency import Latency
from ncdeploy.backends.base import Backend
from ncdeploy.errors import InputError
from ncdeploy.evaluation.distances import Estimate, estimate_energy_distance
from ncdeploy.result import Result
from ncdeploy.run import SampleOptions, Window, sample
from ncdeploy.sampling.parallel import TOLERANCE
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.schedules import karras
from ncdeploy.sampling.solvers import heun

FINE_STEPS = 128
FAR = 1e-2  # rms beyond which a sample counts as another one
JUDGED, JUDGED_BY_DATA = 32, 256  # samples that tell settings apart: data say less of each than its own ODE does
_REAL = 4096  # samples of the data that are looked at
_FLOOR_DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of sampling.

    solver, steps, window: the setting; window None is sequential
    ran:     the window it ran with: what "auto" chose in the first timed run, else `window`
    driver:  the window that was asked for, in words: it is cut to the evaluations of the plan
    plan:    its plan, for people
    depth:   network calls in a row, nfe: evaluations per sample; means over the timed runs
    wall_s:  median over the timed runs, of n samples together
    gain:    wall time of the sequential run over this one's, paired: median, least, largest
    rms:     to the sequential samples, median; beyond: share of samples further than FAR from them. None: sequential
    quality: see the top of this file; None where there is none. estimate: the same with what its error comes from
    """

    solver: str
    steps: int
    window: Window
    driver: str
    plan: str
    depth: float
    nfe: float
    wall_s: float
    gain: tuple[float, float, float]
    rms: float | None
    beyond: float | None
    quality: float | None
    ran: int | None = None
    estimate: Estimate | None = None

    @property
    def error(self) -> float | None:
        """Standard error of the quality."""
        return None if self.estimate is None else self.estimate.error


@dataclass(frozen=True, kw_only=True)
class Bench:
    """rows; what `quality` is; what it must be above to tell it from real data's (floor, two standard errors of that;
    None without data); the engine and the effort."""

    rows: tuple[Row, ...]
    measure: str
    floor: float | None
    engine: str
    n: int
    repetitions: int
    judged: int

    def figures(self) -> dict[str, Any]:
        """JSON-able; gain becomes its median and its range."""
        rows = []
        for row in self.rows:
            ratio, low, high = row.gain
            record = asdict(replace(row, estimate=None))
            del record["estimate"]
            rows.append({**record, "quality_error": row.error, "gain": ratio, "gain_range": [low, high]})
        return {**asdict(replace(self, rows=())), "rows": rows}


def bench(
    engine: Backend, plans: Sequence[tuple[str, int, Plan]], windows: Sequence[Window], *, n: int = 1,
    repetitions: int = 5, judged: int | None = None, tolerance: float = TOLERANCE, labels: Sequence[int] | None = None,
    conditions: Mapping[str, NDArray[Any]] | None = None, data: NDArray[Any] | None = None,
    latency: Latency | None = None, max_rows: int | None = None,
    on_run: Callable[[str], None] = lambda _: None,
) -> Bench:  # fmt: skip
    """Run every plan sequentially and with each window.

    plans:    (solver, steps, plan)
    windows:  nodes, cut to the evaluations of a plan, or "auto"
    n, repetitions, judged: samples of a timed run, timed runs, and samples whose fidelity and quality is measured, 2
              or more; None: `JUDGED`, or `JUDGED_BY_DATA`
    labels:   classes of a model that takes them, repeated to fill any number of samples
    conditions: of a model that takes some, [m, *shape] each, repeated likewise
    data:     [m, *shape], in model units
    latency:  of the engine, for "auto"; None measures it in every run that needs it, outside the wall time
    max_rows: most rows in one call; a window wider than that is cut to it
    on_run:   called with a name before every run

    Raises InputError for counts below 1, a negative tolerance and data of another shape.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance: got {tolerance}; expected 0 or more")
    if judged is None:
        judged = JUDGED if data is None else JUDGED_BY_DATA
    for name, count, least in (
        ("n", n, 1), ("repetitions", repetitions, 1), ("judged", judged, 2), ("plans", len(plans), 1),
    ):  # fmt: skip
        if count < least:
            raise InputError(f"{name}: got {count}, expected at least {least}")
    if data is not None and (data.shape[1:] != engine.info.shape or len(data) < 4):
        raise InputError(f"data: got {data.shape}; this model takes samples of {engine.info.shape}, 4 or more")
    if data is not None and len(data) > _REAL:
        data = data[np.sort(np.random.default_rng(0).permutation(len(data))[:_REAL])]
    widest = None if max_rows is None else max(1, max_rows // engine.info.evaluations)
    drivers = [drivers_of(plan, windows, widest) for _, _, plan in plans]
    ways = [(i, window) for i, found in enumerate(drivers) for window in found]

    def run(plan: Plan, window: Window, count: int, first: int = 0) -> Result:
        on_run(f"{plan.name} {words(window)}")
        own = {**({} if labels is None else {"labels": np.asarray(labels)}), **(conditions or {})}
        own = {name: values[np.arange(first, first + count) % len(values)] for name, values in own.items()}
        return sample(
            engine, plan, seeds=range(first, first + count), conditions=own, window=window,
            tolerance=tolerance,
            options=SampleOptions(latency=latency if window == "auto" else None, max_rows=max_rows),
        )  # fmt: skip

    timed: dict[tuple[int, Window], list[Result]] = {way: [] for way in ways}
    for repetition in range(repetitions):
        for i, window in ways if repetition % 2 == 0 else reversed(ways):
            timed[i, window].append(run(plans[i][2], window, n, repetition * n))

    # "auto" may choose otherwise for more samples at once: what is judged is what it chose for n.
    chosen = {(i, w): timed[i, w][0].window if w == "auto" else w for i, w in ways}
    seen = {(i, w): np.asarray(run(plans[i][2], chosen[i, w], judged).samples) for i, w in ways}
    fine: dict[tuple[float, float], NDArray[Any]] = {}
    for _, _, plan in plans:
        if data is None and not plan.stochastic and _start(plan) not in fine:
            fine[_start(plan)] = np.asarray(run(_fine(plan, engine.info.sigma_min), None, judged).samples)

    rows = []
    for i, window in ways:
        solver, steps, plan = plans[i]
        samples, runs = seen[i, window], timed[i, window]
        gains = [exact.wall_s / this.wall_s for exact, this in zip(timed[i, None], runs, strict=True)]
        off = None if window is None else rms(samples, seen[i, None])
        estimate = None
        if data is not None:
            estimate = estimate_energy_distance(samples, data)
        elif not plan.stochastic:
            estimate = _geometric_mean(rms(samples, fine[_start(plan)]))
        rows.append(
            Row(
                solver=solver, steps=steps, window=window, driver=drivers[i][window], plan=plan.name,
                depth=float(np.mean([r.depth for r in runs])), nfe=float(np.mean([r.nfe for r in runs])),
                wall_s=float(np.median([r.wall_s for r in runs])),
                gain=(float(np.median(gains)), min(gains), max(gains)),
                rms=None if off is None else float(np.median(off)),
                beyond=None if off is None else float(np.mean(off > FAR)),
                quality=None if estimate is None else estimate.value, ran=chosen[i, window], estimate=estimate,
            )
        )  # fmt: skip
    return Bench(
        rows=tuple(rows), floor=None if data is None else _floor(data, judged), engine=engine.name, n=n,
        repetitions=repetitions, judged=judged,
        measure="rms to a fine solution of the same ODE" if data is None else "energy distance to the data",
    )  # fmt: skip


def runs_of(plans: Sequence[tuple[str, int, Plan]], windows: Sequence[Window], repetitions: int, *, data: bool) -> int:
    """How often `bench` will call `on_run`, at most: for a bar that shows progress."""
    starts = {_start(plan) for _, _, plan in plans if not plan.stochastic}
    return (repetitions + 1) * len(plans) * (len(windows) + 1) + (0 if data else len(starts))


def words(window: Window) -> str:
    return "sequential" if window is None else f"window {window}"


def drivers_of(plan: Plan, windows: Sequence[Window], widest: int | None) -> dict[Window, str]:
    """Sequential, and every window once, as it will be run: what was asked for, in words."""
    most = min(plan.evaluations, widest or plan.evaluations)
    found: dict[Window, str] = {None: words(None)}
    for window in windows:
        found.setdefault(min(window, most) if isinstance(window, int) else window, words(window))
    return found


def _start(plan: Plan) -> tuple[float, float]:
    """Where a trajectory starts: plans that agree in this start from the same states."""
    return float(plan.sigmas[0]), float(plan.noise[0])


def _fine(plan: Plan, sigma_min: float) -> Plan:
    sigma, scale = _start(plan)
    return heun(karras(FINE_STEPS, sigma_min=min(sigma_min, sigma / 2), sigma_max=sigma), scale=scale)


def rms(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    difference = (a.astype(np.float64) - b).reshape(len(a), -1)
    return np.asarray(np.sqrt(np.mean(difference**2, axis=1)))


def _geometric_mean(values: NDArray[np.float64]) -> Estimate:
    """Of values over samples; a few that are far off do not make it, as they would make a mean."""
    logarithms = np.log(np.maximum(values, np.finfo(np.float32).tiny))
    value = float(np.exp(logarithms.mean()))
    return Estimate(value=value, shares=(value * (logarithms - logarithms.mean()),))


def _floor(data: NDArray[Any], judged: int) -> float:
    """Two standard errors of the distance between so many real samples and others, from splits of the data."""
    rng = np.random.default_rng(0)
    take = min(judged, len(data) // 2)
    orders = [rng.permutation(len(data)) for _ in range(_FLOOR_DRAWS)]
    found = [estimate_energy_distance(data[order[:take]], data[order[take:]]).value for order in orders]
    return 2 * float(np.sqrt(np.mean(np.square(found))))
