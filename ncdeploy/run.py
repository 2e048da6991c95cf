"""Run a plan on a denoiser: `sample` returns when it is done, `iterate` after every network call."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ncdeploy.auto.latency import Latency, check_latency, measure_latency
from ncdeploy.auto.tuner import CHANGE, Job, Tuner, choose
from ncdeploy.errors import InputError
from ncdeploy.guidance import Guided
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.arrays import namespace
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.evaluator import Denoise, Evaluator, evaluations_per_row
from ncdeploy.sampling.noise import check_seeds
from ncdeploy.sampling.parallel import ERROR_FLOOR, TOLERANCE, ParallelRun
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.result import Result, Sweep
from ncdeploy.sampling.sequential import SequentialRun

AUTO_VALUES = 1 << 18  # most values in a network call of window="auto" where max_rows is not given
SCALE = 0.5  # standard deviation of data that nothing is known of
_CHECKING = 0.025  # of a run, that measuring t(B) again may take where this decides between sequential and parallel
_CHECKS = (0.1, 0.25, 0.5, 0.75)  # parts of a run after which "auto" looks at its window again

Window = int | Literal["auto"] | None


def sample(
    denoise: Denoise,
    plan: Plan,
    *,
    shape: tuple[int, ...] | None = None,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    guidance: float | None = None,
    window: Window = None,
    latency: Latency | None = None,
    tolerance: float = TOLERANCE,
    error_curve: ErrorCurve | None = None,
    mean: ArrayLike | None = None,
    error_floor: float = ERROR_FLOOR,
    max_rows: int | None = None,
    like: Any = None,
    on_sweep: Callable[[Sweep], None] | None = None,
) -> Result:
    """Draw one sample per seed.

    denoise:     callable D(x, sigma) or, with labels, D(x, sigma, labels); x [B, *shape], sigma [B]. One with
                 a ModelInfo in `.info` (every backend) supplies shape, error_curve and mean where not given
    plan:        what `ncdeploy.make_plan` or a solver returns
    shape:       of one sample, without the batch axis
    seeds:       one integer per sample; a sample depends on its seed alone, not on batch or window
    labels:      one class index per sample
    guidance:    weight of classifier-free guidance, for a model with classes and an unconditional one: 1 is the
                 conditional model, 0 the unconditional one. Each D then takes two rows of the same call
    window:      None runs sequentially; an integer is the evaluated nodes per sample and sweep; "auto" takes what is
                 predicted to be fastest (see `tuner`), sequential included, and corrects it while running
    latency:     of the engine, for "auto", which checks it for long runs where it decides between sequential and
                 parallel; None measures it now, which takes about a second
    tolerance:   a node is accepted when the rms of its change is at most tolerance * hypot(sigma, error_floor);
                 0 iterates to the sequential result
    error_curve: the model's denoising error (ModelInfo.error_curve); without it the parallel driver
                 estimates the scalar Jacobian from its iterates
    mean:        [*shape], the mean of the data (ModelInfo.mean), first guess of the parallel driver
    error_floor: in model units; below this noise level the tolerance is absolute
    max_rows:    most rows the network sees in one call; more samples than fit are worked on in turn
    like:        an array whose kind, dtype and device the run uses; NumPy float32 if None
    on_sweep:    called after every network call

    Raises InputError for values that do not fit, NumericalError when the network returns NaN or infinity.
    """
    steps = iterate(
        denoise, plan, shape=shape, seeds=seeds, labels=labels, guidance=guidance, window=window, latency=latency,
        tolerance=tolerance, error_curve=error_curve, mean=mean, error_floor=error_floor, max_rows=max_rows,
        like=like,
    )  # fmt: skip
    while True:
        try:
            sweep = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        if on_sweep is not None:
            on_sweep(sweep)


def iterate(
    denoise: Denoise,
    plan: Plan,
    *,
    shape: tuple[int, ...] | None = None,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    guidance: float | None = None,
    window: Window = None,
    latency: Latency | None = None,
    tolerance: float = TOLERANCE,
    error_curve: ErrorCurve | None = None,
    mean: ArrayLike | None = None,
    error_floor: float = ERROR_FLOOR,
    max_rows: int | None = None,
    like: Any = None,
) -> Generator[Sweep, None, Result]:
    """The generator form of `sample`: yields a Sweep after every network call and returns the Result."""
    like = np.zeros((), np.float32) if like is None else like
    if guidance is not None:
        if labels is None:
            raise InputError("guidance: needs labels, one class per sample")
        denoise = Guided(denoise, guidance)
    info = getattr(denoise, "info", None)
    if isinstance(info, ModelInfo):
        shape = info.shape if shape is None else shape
        error_curve = info.error_curve if error_curve is None else error_curve
        mean = info.mean if mean is None else mean
    if shape is None:
        raise InputError("shape: not given, and the denoiser has no info that tells it; give shape=(...)")
    if min(shape, default=1) < 1:
        raise InputError(f"shape: got {tuple(shape)}; expected positive integers")
    names = check_seeds(seeds)
    n, dim = len(names), int(np.prod(shape))
    if labels is not None and len(labels) != n:
        raise InputError(f"labels: got {len(labels)} for {n} seeds; give one per sample")
    if labels is not None and isinstance(info, ModelInfo) and info.num_classes:
        unknown = sorted(set(map(int, labels)) - set(info.labels))
        if unknown:
            raise InputError(f"labels: got {unknown}; this model takes {info.describe_labels()}")
    if not tolerance >= 0:
        raise InputError(f"tolerance: got {tolerance}; expected 0 or more")
    if not error_floor > 0:
        raise InputError(f"error_floor: got {error_floor}; expected a positive number")
    if latency is not None and window != "auto":
        raise InputError('latency: only window="auto" uses it; leave it out')
    window = int(window) if isinstance(window, np.integer) else window
    if not (window is None or window == "auto" or isinstance(window, int)):
        raise InputError(f'window: got {window!r}; expected a number, "auto" or None')
    width = window if isinstance(window, int) else 1
    if not 1 <= width <= plan.evaluations:
        raise InputError(f"window: got {window}; plan {plan.name} has {plan.evaluations} evaluations, so 1 to that")
    per_row = evaluations_per_row(denoise)
    needed = width * per_row
    if max_rows is not None and max_rows < needed:
        guided = ", with guidance" if needed > width else ""
        raise InputError(f"max_rows: got {max_rows}; a window of {width} needs at least {needed}{guided}")
    lanes = n if max_rows is None else min(n, max_rows // needed)
    classes = None if labels is None else np.asarray(labels, np.int64)
    tuner = choice = None
    if window == "auto":
        rows = max(needed, AUTO_VALUES // dim if max_rows is None else max_rows) // per_row
        timed_rows = denoise.calls_rows if isinstance(denoise, Guided) else 1
        label, known = None if classes is None else int(classes[0]), latency is not None
        if latency is None:
            timed_rows = 1
            latency = measure_latency(denoise, shape=tuple(shape), max_rows=rows, label=label, like=like)
        scale = info.sigma_data if isinstance(info, ModelInfo) else SCALE
        job = Job(
            plan=plan, latency=latency, n=n, tolerance=tolerance, floor=error_floor, scale=scale,
            max_rows=rows, per_row=timed_rows, values=dim if namespace(like) is np else 0,
            online=error_curve is None, eps=float(namespace(like).finfo(like.dtype).eps),
        )  # fmt: skip
        choice, tuner = choose(job)
        if known and tuner.doubts:
            now = check_latency(
                latency, denoise, tuner.doubts, shape=tuple(shape), per_row=timed_rows, label=label, like=like,
                budget=_CHECKING * choice.seconds,
            )  # fmt: skip
            if now != latency:
                tuner = Tuner(replace(job, latency=now))
                choice = tuner.choose()
        window, lanes = choice.window, choice.lanes

    start = time.perf_counter()
    evaluator = Evaluator(denoise, tuple(shape), classes, like)
    run: SequentialRun | ParallelRun
    if window is None:
        run = SequentialRun(evaluator, plan, seeds=names, dim=dim, lanes=lanes, like=like)
    else:
        center = None if mean is None else np.asarray(mean, np.float64).reshape(-1)
        if center is not None and center.size != dim:
            raise InputError(f"mean: got {center.size} values for samples of {dim}")
        run = ParallelRun(
            evaluator, plan, seeds=names, dim=dim, window=window, tolerance=tolerance, floor=error_floor,
            curve=error_curve, mean=center, lanes=lanes, like=like,
        )  # fmt: skip
    yield from run.run() if tuner is None or not isinstance(run, ParallelRun) else _steered(run, tuner)
    evaluator.check()
    return Result(
        samples=namespace(like).reshape(run.samples, (n, *shape)),
        depth=evaluator.calls,
        nfe=evaluator.rows / n,
        sweeps=run.sweeps,
        residual=run.residual,
        wall_s=time.perf_counter() - start,
        engine_s=evaluator.seconds,
        window=window,
        choice=choice,
    )


def _steered(run: ParallelRun, tuner: Tuner) -> Iterator[Sweep]:
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
