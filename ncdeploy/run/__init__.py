"""Run a plan on a denoiser: `sample` returns when it is done, `iterate` after every network call.

A call is checked (`request`), a window and the samples at once are decided on (`policy`), and a driver runs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.guidance import Guided
from ncdeploy.result import Result
from ncdeploy.run.options import SampleOptions, Window
from ncdeploy.run.policy import AUTO_VALUES, decide, steered
from ncdeploy.run.request import Conditions, Request, check
from ncdeploy.sampling.arrays import device_of, namespace, to_host
from ncdeploy.sampling.capture import capture
from ncdeploy.sampling.device import DeviceRun, on_a_device
from ncdeploy.sampling.energy import EnergyMeter
from ncdeploy.sampling.evaluator import Denoise, Evaluator
from ncdeploy.sampling.law import LawRun
from ncdeploy.sampling.parallel import TOLERANCE, ParallelRun
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.result import Sweep, Trajectory
from ncdeploy.sampling.sequential import SequentialRun

__all__ = ["AUTO_VALUES", "Conditions", "SampleOptions", "Sampling", "Window", "iterate", "sample"]


class Sampling(Iterator[Sweep]):
    """A run as an iterator: a Sweep after every network call, and in the end `result`."""

    def __init__(self, request: Request) -> None:
        self._result: Result | None = None
        self._steps = self._run(request)

    def __next__(self) -> Sweep:
        return next(self._steps)

    @property
    def result(self) -> Result:
        """The finished run. Raises InputError before its last sweep."""
        if self._result is None:
            raise InputError("result: the run has not come to its end; take its sweeps first, `for sweep in run: ...`")
        return self._result

    def _run(self, request: Request) -> Iterator[Sweep]:
        policy = decide(request)
        start, on_sweep = time.perf_counter(), request.options.on_sweep
        meter, curve = None, request.error_curve
        if curve is not None and not isinstance(request.denoise, Guided):  # which is another D
            meter = EnergyMeter(request.plan, all_calls=policy.window is not None)
        evaluator = Evaluator(request.denoise, request.shape, request.classes, request.like, request.conditions, meter)
        run: SequentialRun | ParallelRun | DeviceRun
        if policy.window is None:
            run = SequentialRun(
                evaluator, request.plan, seeds=request.seeds, dim=request.dim, lanes=policy.lanes,
                like=request.like, keep=request.options.keep,
            )  # fmt: skip
            steps = run.run()
        else:
            run = _driver(request)(
                evaluator, request.plan, seeds=request.seeds, dim=request.dim, window=policy.window,
                tolerance=request.tolerance, floor=request.options.error_floor, curve=request.error_curve,
                mean=request.mean, lanes=policy.lanes, like=request.like, start=request.start,
                keep=request.options.keep,
            )  # fmt: skip
            steps = run.run() if policy.tuner is None else steered(run, policy.tuner)
        complete, now = np.ones(len(request.seeds), bool), time.perf_counter()
        end = inf if request.options.deadline is None else now + request.options.deadline
        for sweep in steps:
            before, now = now, time.perf_counter()
            if on_sweep is not None:
                on_sweep(sweep)
            yield sweep
            if 2 * now - before > end and request.plan.evaluated[sweep.accepted.min() :].any():
                complete = sweep.accepted >= sweep.nodes
                break
        evaluator.check()
        n = len(request.seeds)
        samples, residual = run.samples, run.residual
        if not complete.all():
            samples, residual = _as_known(sweep, request, run)
        samples = namespace(request.like).reshape(samples, (n, *request.shape))
        decoded = None
        if request.decoder is not None:
            (decoded,) = request.decoder({"x": to_host(samples)}).values()
        self._result = Result(
            samples=samples,
            decoded=decoded,
            depth=evaluator.calls,
            nfe=evaluator.rows / n,
            sweeps=run.sweeps,
            residual=residual,
            _energy=None if meter is None or curve is None else partial(meter.energy, curve, request.dim, n),
            complete=None if request.options.deadline is None else complete,
            trajectory=_trajectory(run, request),
            wall_s=time.perf_counter() - start,
            engine_s=evaluator.seconds,
            window=policy.window,
            choice=policy.choice,
            rejections=run.rejected if isinstance(run, LawRun) else None,
            rejection_odds=run.odds if isinstance(run, LawRun) else None,
            info=request.info,
            labels=request.classes,
        )


def _driver(request: Request) -> Callable[..., ParallelRun | DeviceRun]:
    if request.options.acceptance == "law":
        return partial(LawRun, theta=request.options.theta)
    if on_a_device(request.like):
        return partial(DeviceRun, capture=capture if request.like.is_cuda else None)
    return ParallelRun


def _as_known(
    sweep: Sweep, request: Request, run: SequentialRun | ParallelRun | DeviceRun
) -> tuple[Any, NDArray[np.float64]]:
    """Samples and residuals of a run that ended early: what is not begun is the mean. Nobody knows how far off that is,
    nor a sequential run, nor one in law. A trajectory that is kept goes on with the estimate."""
    residual, like = run.residual.copy(), request.like
    samples = sweep.estimate().reshape((len(residual), request.dim))
    not_begun = sweep.accepted == 0
    if not_begun.any():
        mean = np.zeros(request.dim) if request.mean is None else request.mean
        samples[not_begun] = namespace(like).asarray(mean, dtype=like.dtype, device=device_of(like))
    if run.outputs is not None:
        for i in np.flatnonzero(sweep.accepted < sweep.nodes):
            run.outputs[i, sweep.accepted[i] :] = samples[i]
    left = sweep.accepted[sweep.lanes] < sweep.nodes
    residual[sweep.accepted < sweep.nodes] = np.inf
    if not isinstance(run, SequentialRun) and request.options.acceptance == "pathwise":
        residual[sweep.lanes[left]] = np.maximum(
            run.residual[sweep.lanes[left]], sweep.residual[left].max(axis=1, initial=0.0)
        )
    return samples, residual


def _trajectory(run: SequentialRun | ParallelRun | DeviceRun, request: Request) -> Trajectory | None:
    if run.outputs is None:
        return None
    return Trajectory(plan=request.plan, seeds=tuple(request.seeds), outputs=run.outputs)


def sample(
    denoise: Denoise,
    plan: Plan,
    *,
    seeds: Sequence[int],
    conditions: Conditions | None = None,
    window: Window = None,
    tolerance: float = TOLERANCE,
    options: SampleOptions | None = None,
) -> Result:
    """Draw one sample per seed.

    Args:
        denoise: callable D(x, sigma) or, with labels, D(x, sigma, labels); x [B, *shape], sigma [B]. One with a
            ModelInfo in `.info` (every backend) says of what shape its samples are
        plan: what `ncdeploy.make_plan` or a solver returns
        seeds: one integer per sample; a sample depends on its seed alone, not on batch or window
        conditions: {"labels": one class index per sample}, for a model with classes; and {name: [n, *shape]} for each
            of the conditions that its info lists, or in their place what the encoder of its bundle takes. A denoiser
            without info takes any, as D(..., conditions=, sample=)
        window: None runs sequentially; an integer is the evaluated nodes per sample and sweep, at most the plan's
            length; "auto" takes what is predicted to be fastest (see `tuner`), sequential included, and corrects it
            while running
        tolerance: a node is accepted when the rms of its change is at most tolerance * hypot(sigma, error_floor); 0
            iterates to the sequential result
        options: the rest, see `SampleOptions`: guidance, the array kind and device, the largest batch ...

    Raises:
        InputError: for values that do not fit
        NumericalError: when the network returns NaN or infinity
    """
    run = iterate(
        denoise, plan, seeds=seeds, conditions=conditions, window=window, tolerance=tolerance, options=options
    )
    for _ in run:
        pass
    return run.result


def iterate(
    denoise: Denoise,
    plan: Plan,
    *,
    seeds: Sequence[int],
    conditions: Conditions | None = None,
    window: Window = None,
    tolerance: float = TOLERANCE,
    options: SampleOptions | None = None,
) -> Sampling:
    """As `sample`, but a Sweep after every network call: `for sweep in run: ...`, then `run.result`."""
    return Sampling(check(denoise, plan, seeds, conditions, window, tolerance, options))
