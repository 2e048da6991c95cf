"""How many sweeps a plan will take, from running it on a small exact denoiser.

What the sweeps of a parallel run depend on is mostly the plan: how far its noise levels lie apart, whether it is
stochastic, how much of it a window covers. So the same driver, on a mixture of Gaussians in eight dimensions whose D
costs microseconds, tells what a network will need to within a factor that varies little: networks have rougher D, and
evaluate each node HARDNESS times as often beyond the first time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ncdeploy.modelinfo import ErrorCurve
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.parallel import ParallelRun
from ncdeploy.sampling.plan import Floats, Plan

PARTS = np.linspace(0, 1, 21)
_COMPONENTS, _DIM, _SAMPLES = 32, 8, 3


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Means over samples.

    sweeps: network calls of a sample; nfe: rows that they hold; driver: seconds outside the network per call
    spread: eighths of the calls, by their rows beside the mean
    course: calls until each of the parts `PARTS` of the nodes are accepted
    """

    sweeps: float
    nfe: float
    driver: float
    spread: tuple[float, ...]
    course: tuple[float, ...]


@lru_cache(maxsize=64)
def rehearse(plan: Plan, window: int, tolerance: float, floor: float, scale: float) -> Rehearsal:
    """Run `plan` with `window` on data of standard deviation `scale` and mean 0."""
    denoise, curve = _denoiser(scale)
    like = np.zeros((), np.float64)
    evaluator = Evaluator(denoise, (_DIM,), None, like)
    start = time.perf_counter()
    run = ParallelRun(
        evaluator, plan, seeds=list(range(_SAMPLES)), dim=_DIM, window=window, tolerance=tolerance, floor=floor,
        curve=curve, mean=None, lanes=_SAMPLES, like=like,
    )  # fmt: skip
    sweeps = list(run.run())
    accepted = np.array([np.zeros(_SAMPLES), *(sweep.accepted / len(plan) for sweep in sweeps)])
    rows = np.quantile([sweep.rows / len(sweep.lanes) for sweep in sweeps], np.arange(1, 16, 2) / 16)
    course = np.mean([np.interp(PARTS, accepted[:, i], np.arange(len(accepted))) for i in range(_SAMPLES)], axis=0)
    driver = (time.perf_counter() - start - evaluator.seconds) / evaluator.calls
    return Rehearsal(
        sweeps=float(run.sweeps.mean()),
        nfe=evaluator.rows / _SAMPLES,
        driver=driver,
        spread=tuple(rows / rows.mean()),
        course=tuple(course),
    )


@lru_cache(maxsize=4)
def _denoiser(scale: float) -> tuple[Callable[..., Any], ErrorCurve]:
    """D of a mixture around random points, and its denoising error."""
    rng = np.random.default_rng(0)
    means = scale * rng.standard_normal((_COMPONENTS, _DIM))
    means -= means.mean(0)
    std, half = scale / 5, 0.5 * np.sum(means**2, axis=1)

    def denoise(x: Floats, sigma: Floats) -> Floats:
        variance = (sigma**2 + std**2)[:, None]
        logits = (x @ means.T - half) / variance
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        mu = weights @ means / weights.sum(axis=1, keepdims=True)
        return np.asarray((std**2 * x + (variance - std**2) * mu) / variance)

    clean = means[rng.integers(_COMPONENTS, size=256)] + std * rng.standard_normal((256, _DIM))
    sigmas = scale * np.geomspace(1e-3, 1e3, 49)
    noise = rng.standard_normal(clean.shape)
    mse = [float(np.mean((denoise(clean + s * noise, np.full(256, s)) - clean) ** 2)) for s in sigmas]
    return denoise, ErrorCurve(sigmas=tuple(sigmas), mse=tuple(mse))
