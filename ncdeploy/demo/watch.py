"""The same samples drawn sequentially and in parallel, with what there is to see on the way. No PyTorch."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Backend
from ncdeploy.result import Result
from ncdeploy.run import SampleOptions, iterate
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.result import Sweep

BOUNDARY = 1e-2  # a sample that differs by more has gone to another mode


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """A finished run and its history.

    estimates: float32 [calls, n, *shape], every sample as known after each network call
    residuals: float64 [calls, nodes], geometric mean over samples of each node's change; NaN outside the window
    """

    result: Result
    estimates: NDArray[np.float32]
    residuals: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One plan run both ways from the same noise; `watched` of the sequential run has no residuals."""

    plan: Plan
    window: int
    sequential: Watched
    parallel: Watched

    @property
    def rms(self) -> NDArray[np.float64]:
        """float64 [n]: root mean square over a sample's values of parallel minus sequential, in model units."""
        a, b = (np.asarray(run.result.samples, np.float64) for run in (self.parallel, self.sequential))
        return np.asarray(np.sqrt(((a - b) ** 2).reshape(len(a), -1).mean(axis=1)))

    def figures(self) -> dict[str, Any]:
        """What there is to report, JSON-able."""
        return {
            "plan": self.plan.name,
            "n": len(self.rms),
            "window": self.window,
            "sequential": _figures(self.sequential.result),
            "parallel": _figures(self.parallel.result),
            "rms_median": float(np.median(self.rms)),
            "rms_beyond": float(np.mean(self.rms > BOUNDARY)),
        }


def run_pair(
    backend: Backend, plan: Plan, *, seeds: range, labels: NDArray[np.int64] | None, window: int
) -> Generator[float, None, Pair]:
    """Draw one sample per seed in sequence, then with `window` nodes per sample and call.

    Yields the share that is done, 0 .. 1, after every network call, and returns the pair.
    """
    runs = []
    for i, width in enumerate((None, window)):
        sweeps = watch(backend, plan, seeds=seeds, labels=labels, window=width)
        while True:
            try:
                sweep = next(sweeps)
            except StopIteration as end:
                runs.append(end.value)
                break
            yield (i + float(sweep.accepted.mean()) / sweep.nodes) / 2
    return Pair(plan=plan, window=window, sequential=runs[0], parallel=runs[1])


def watch(
    backend: Backend, plan: Plan, *, seeds: range, labels: NDArray[np.int64] | None, window: int | None
) -> Generator[Sweep, None, Watched]:
    """Run a plan and keep, after every call, the estimates of the first samples and the residuals of all."""
    estimates: list[NDArray[np.float32]] = []
    residuals: list[NDArray[np.float64]] = []
    info = backend.info
    keep = 30 if len(info.shape) == 3 else 2000  # pictures are few, points many
    run = iterate(
        backend, plan, seeds=seeds, conditions={"labels": labels}, window=window,
        options=SampleOptions(shape=info.shape, error_curve=info.error_curve),
    )  # fmt: skip
    for sweep in run:
        estimates.append(np.array(sweep.estimate()[:keep], np.float32).reshape(-1, *info.shape))
        if window is not None:
            residuals.append(node_residuals(sweep))
        yield sweep
    return Watched(result=run.result, estimates=np.array(estimates), residuals=np.array(residuals))


def node_residuals(sweep: Sweep) -> NDArray[np.float64]:
    """float64 [nodes]: geometric mean over the samples at work of each node's residual; NaN where nobody is."""
    node = sweep.base[:, None] + 1 + np.arange(sweep.residual.shape[1])
    inside = (node < sweep.nodes) & (sweep.residual > 0)
    total, count = np.zeros(sweep.nodes), np.zeros(sweep.nodes)
    np.add.at(total, node[inside], np.log(sweep.residual[inside]))
    np.add.at(count, node[inside], 1.0)
    return np.where(count > 0, np.exp(total / np.maximum(count, 1)), np.nan)


def _figures(result: Result) -> dict[str, float]:
    return {
        "depth": result.depth,
        "nfe": float(result.nfe),
        "sweeps": float(result.sweeps.mean()),
        "wall_s": result.wall_s,
        "engine_s": result.engine_s,
        "residual": float(result.residual.max()),
    }
