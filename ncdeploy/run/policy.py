"""Policy: which window a run takes and how many samples at once, and with "auto" how it goes on."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ncdeploy.auto.latency import check_latency, measure_latency
from ncdeploy.auto.tuner import CHANGE, Job, Tuner, choose
from ncdeploy.guidance import Guided
from ncdeploy.run.request import Request
from ncdeploy.sampling.arrays import namespace
from ncdeploy.sampling.callsizes import sizes_of
from ncdeploy.sampling.device import DeviceRun
from ncdeploy.sampling.parallel import ParallelRun
from ncdeploy.sampling.result import Choice, Sweep

AUTO_VALUES = 1 << 18  # most values in a network call of window="auto" where max_rows is not given
SCALE = 0.5  # standard deviation of data that nothing is known of
_CHECKING = 0.025  # of a run, that measuring t(B) again may take where this decides between sequential and parallel
_CHECKS = (0.1, 0.25, 0.5, 0.75)  # parts of a run after which "auto" looks at its window again


@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """window: None for sequential; lanes: samples worked on at once; choice, tuner: of "auto", else None"""

    window: int | None
    lanes: int
    choice: Choice | None = None
    tuner: Tuner | None = None


def decide(request: Request) -> Policy:
    """What the caller says, or what is predicted to be fastest."""
    if request.window == "auto":
        return _choose(request)
    n, most = len(request.seeds), request.options.max_rows
    return Policy(window=request.window, lanes=n if most is None else min(n, most // request.needed))


def _choose(request: Request) -> Policy:
    denoise, options, like, per_row = request.denoise, request.options, request.like, request.per_row
    values = AUTO_VALUES // request.dim if options.max_rows is None else options.max_rows
    rows = max(per_row, values) // per_row
    label = None if request.classes is None else int(request.classes[0])
    timed_rows, latency = 1, options.latency
    if latency is None:
        latency = measure_latency(
            denoise, shape=request.shape, max_rows=rows, label=label, conditions=request.conditions, like=like
        )
    elif isinstance(denoise, Guided):
        timed_rows = denoise.calls_rows
    on_host, sizes = namespace(like) is np, sizes_of(denoise)
    job = Job(
        plan=request.plan, latency=latency, n=len(request.seeds), tolerance=request.tolerance,
        floor=options.error_floor, scale=SCALE if request.info is None else request.info.sigma_data, max_rows=rows,
        per_row=timed_rows, values=request.dim if on_host else 0, online=request.error_curve is None,
        law=(options.theta, request.dim) if options.acceptance == "law" else None,
        eps=float(namespace(like).finfo(like.dtype).eps), ready=frozenset(() if sizes is None else sizes.ready),
    )  # fmt: skip
    choice, tuner = choose(job)
    if options.latency is not None and tuner.doubts:
        now = check_latency(
            latency, denoise, tuner.doubts, shape=request.shape, per_row=timed_rows, label=label,
            conditions=request.conditions, like=like, budget=_CHECKING * choice.seconds,
        )  # fmt: skip
        if now != latency:
            tuner = Tuner(replace(job, latency=now))
            choice = tuner.choose()
    return Policy(window=choice.window, lanes=choice.lanes, choice=choice, tuner=tuner)


def steered(run: ParallelRun | DeviceRun, tuner: Tuner) -> Iterator[Sweep]:
    """The run, its window corrected on the way by how the samples get on and what the calls take."""
    checks, steps = iter(_CHECKS), run.run()
    check = next(checks)
    calls, rows, seconds, elapsed = 0, 0, 0.0, 0.0
    while True:
        begin = time.perf_counter()
        sweep = next(steps, None)
        if sweep is None:
            return
        took = time.perf_counter() - begin
        calls, rows, seconds, elapsed = calls + 1, rows + sweep.rows, seconds + took, elapsed + took
        yield sweep
        parts = np.minimum(sweep.accepted / sweep.nodes, 1.0)
        part = float(parts.mean())
        if part < check:
            continue
        check = next((c for c in checks if c > part), 2.0)
        if elapsed * (1 - part) > CHANGE * part:  # else too little is left to save a change's cost
            run.window = tuner.correct(
                run.window, run.capacity, int(run.sweeps.sum()), parts, rows / calls, seconds / calls
            )
            calls, rows, seconds = 0, 0, 0.0
