"""How many sweeps a plan will take, from running it on a denoiser that costs microseconds.

What the sweeps of a parallel run depend on is mostly the plan: how far its noise levels lie apart, whether it is
stochastic, how much of it a window covers. So the same driver tells them on the D of a mixture of Gaussians in 16
dimensions. A network's D is rougher than that, which costs it sweeps where windows are wide or steps long; hence the
ripples. In law a draft is accepted as a whole, the less often the more values it has.
"""

import math
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.law import LawRun
from ncdeploy.sampling.parallel import ParallelRun
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.posterior import Posterior

PARTS = np.linspace(0, 1, 21)
SAMPLES = 3
_COMPONENTS, _DIM = 16, 16
_CHUNK = 512  # rows at once: so few that BLAS starts no threads, as in lower_matmul
_RIPPLES, _WAVES = 0.35, 2.0  # height at most over the data's standard deviation; radians over the noised data's width


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Means over samples.

    sweeps: network calls of a sample; nfe: rows that they hold
    driver: seconds outside the network per call, without the tables of the window, which later runs find
    spread: eighths of the calls, by their rows beside the mean
    course: calls until each of the parts `PARTS` of the nodes are accepted
    """

    sweeps: float
    nfe: float
    driver: float
    spread: tuple[float, ...]
    course: tuple[float, ...]


@lru_cache(maxsize=64)
def rehearse(
    plan: Plan,
    window: int,
    tolerance: float,
    floor: float,
    scale: float,
    online: bool = False,
    law: tuple[float, int] | None = None,
) -> Rehearsal:
    """Run `plan` with `window` on data of standard deviation `scale` and mean 0; `online`: without an error curve;
    `law`: theta and the values of a sample, of acceptance in law."""
    denoise, curve = _denoiser(scale)
    like = np.zeros((), np.float64)
    evaluator = Evaluator(denoise, (_DIM,), None, like)
    run = (ParallelRun if law is None else partial(_WiderLawRun, theta=law[0], dim_of_samples=law[1]))(
        evaluator, plan, seeds=list(range(SAMPLES)), dim=_DIM, window=window, tolerance=tolerance, floor=floor,
        curve=None if online else curve, mean=None, lanes=SAMPLES, like=like,
    )  # fmt: skip
    start = time.perf_counter()
    sweeps = list(run.run())
    driver = (time.perf_counter() - start - evaluator.seconds) / evaluator.calls
    accepted = np.array([np.zeros(SAMPLES), *(sweep.accepted / len(plan) for sweep in sweeps)])
    rows = np.quantile([sweep.rows / len(sweep.lanes) for sweep in sweeps], np.arange(1, 16, 2) / 16)
    courses = [np.interp(PARTS, accepted[: s + 1, i], np.arange(s + 1)) for i, s in enumerate(run.sweeps)]
    return Rehearsal(
        sweeps=float(run.sweeps.mean()),
        nfe=evaluator.rows / SAMPLES,
        driver=driver,
        spread=tuple(rows / rows.mean()),
        course=tuple(np.mean(courses, axis=0)),
    )


class _WiderLawRun(LawRun):
    """Accepts as often as with samples of more values, whose drafts are off by as much in each."""

    def __init__(self, *given: Any, dim_of_samples: int, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._wider = math.sqrt(dim_of_samples / _DIM)

    def _off(self, drafted: Floats, mean: Floats) -> Floats:
        return self._wider * (drafted - mean)


class _Rippled:
    """D of a mixture around random points, and ripples on it, which vanish as a network's error does where there is
    little noise, and where there is little else: they are highest where the noise is as large as the data."""

    def __init__(self, scale: float) -> None:
        rng = np.random.default_rng(0)
        self.scale, self.std = scale, scale / 5
        self.means = scale * rng.standard_normal((_COMPONENTS, _DIM))
        self.means -= self.means.mean(0)
        self._exact = Posterior(self.means, std=self.std)
        self._turn = np.linalg.qr(rng.standard_normal((_DIM, _DIM)))[0]
        self._phase = rng.uniform(0, 2 * np.pi, _DIM)

    def __call__(self, x: Floats, sigma: Floats) -> Floats:
        parts = range(0, len(x), _CHUNK)
        return np.concatenate([self._rows(x[i : i + _CHUNK], sigma[i : i + _CHUNK]) for i in parts])

    def _rows(self, x: Floats, sigma: Floats) -> Floats:
        noise = sigma[:, None]
        width = np.hypot(noise, self.scale)
        height = 2 * _RIPPLES * noise * (self.scale / width) ** 2
        waves: Floats = np.sin(_WAVES * (x @ self._turn) / width + self._phase)
        return np.asarray(self._exact(x, sigma) + height * waves)


@lru_cache(maxsize=4)
def _denoiser(scale: float) -> tuple[_Rippled, ErrorCurve]:
    """The rehearsal's D, and its denoising error."""
    denoise, rng = _Rippled(scale), np.random.default_rng(1)
    clean = denoise.means[rng.integers(_COMPONENTS, size=256)] + denoise.std * rng.standard_normal((256, _DIM))
    sigmas = scale * np.geomspace(1e-3, 1e3, 49)
    noise = rng.standard_normal(clean.shape)
    mse = [float(np.mean((denoise(clean + s * noise, np.full(256, s)) - clean) ** 2)) for s in sigmas]
    return denoise, ErrorCurve(sigmas=tuple(sigmas), mse=tuple(mse))
