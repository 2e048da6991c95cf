"""The figures of one trained model: how far its samples are from the data, and its answers from the exact ones."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contrastive.sets import Study
from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.sampling.posterior import Posterior

Floats = NDArray[np.float64]

BANDWIDTH = 0.03  # theirs: the kernel is exp(-|x - y|^2 / 2 b) / sqrt(2 pi b)
CHURNS = (0, 10, 40)
SIGMAS, FACTORS = (0.05, 0.2, 0.5, 1.0, 3.0, 10.0), (0.0, 0.5, 1.0, 2.0, 4.0)
WINDOW, TOLERANCE, PARALLEL = 256, 1e-3, 500


class Judge:
    """What every model is asked: the same seeds, the same held-out points, the same noise."""

    def __init__(self, study: Study, *, samples: int) -> None:
        self.study, self.seeds = study, range(samples)
        self.held_out = study.data.held_out.astype(np.float64)
        self.own = _within(self.held_out)
        rng = np.random.default_rng(0)
        points = self.held_out[:1000]
        noise = rng.standard_normal(points.shape)
        exact = Posterior(study.means, std=study.jitter)
        self.asked = {}
        for sigma in SIGMAS:
            for k in FACTORS:
                y, level = points + k * sigma * noise, np.full(len(points), sigma)
                self.asked[f"{k:g} {sigma:g}"] = y.astype(np.float32), level.astype(np.float32), exact(y, level)

    def mmd(self, x: NDArray[Any]) -> float:
        """To the held-out points: unbiased, so that it may come out negative, with the kernel of the release."""
        x = x.astype(np.float64)
        return self.own + _within(x) - 2 * _kernel_sum(x, self.held_out) / (len(x) * len(self.held_out))

    def floor(self, repeats: int = 20) -> list[float]:
        """The same of fresh data."""
        rng = np.random.default_rng(1)
        rows = (rng.integers(len(self.study.data.x), size=len(self.seeds)) for _ in range(repeats))
        return [self.mmd(self.study.data.x[own]) for own in rows]

    def of(self, engine: Callable[..., Any], *, all_figures: bool) -> dict[str, Any]:
        """JSON-able. all_figures: not its samples' distance alone."""
        plan = make_plan("ddpm", 1000)
        alone = np.asarray(sample(engine, plan, seeds=self.seeds).samples)
        found: dict[str, Any] = {"mmd": self.mmd(alone)}
        if not all_figures:
            return found
        run = sample(
            engine, plan, seeds=self.seeds[:PARALLEL], window=WINDOW, tolerance=TOLERANCE,
            options=SampleOptions(max_rows=25_600),
        )  # fmt: skip
        apart = np.asarray(run.samples, np.float64) - alone[:PARALLEL]
        found["parallel"] = {
            "mmd": self.mmd(np.asarray(run.samples)),
            "sequential": self.mmd(alone[:PARALLEL]),
            "rms": math.sqrt(float((apart**2).mean())),
            "median": float(np.median(np.sqrt((apart**2).mean(axis=1)))),
            "sweeps": float(run.sweeps.mean()),
        }
        found["churn"] = {}
        for churn in CHURNS:
            options = {"churn": float(churn)} if churn else {}
            heun = make_plan("heun", 36, **options)
            found["churn"][str(churn)] = self.mmd(np.asarray(sample(engine, heun, seeds=self.seeds).samples))
        found["mismatch"] = {
            name: math.sqrt(float(((np.asarray(engine(y, sigma), np.float64) - exact) ** 2).mean()))
            for name, (y, sigma, exact) in self.asked.items()
        }
        return found


def _within(x: Floats) -> float:
    """Mean of the kernel over pairs of different points."""
    itself = len(x) / math.sqrt(2 * math.pi * BANDWIDTH)
    return (_kernel_sum(x, x) - itself) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Floats, y: Floats) -> float:
    total = 0.0
    for i in range(0, len(x), 500):
        square = ((x[i : i + 500, None] - y) ** 2).sum(axis=2)
        total += float(np.exp(-square / (2 * BANDWIDTH)).sum())
    return total / math.sqrt(2 * math.pi * BANDWIDTH)
