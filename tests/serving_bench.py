"""Engines for the scheduler's tests: the oracle, and a clock that only its calls move."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ncdeploy import ModelInfo, SampleOptions
from ncdeploy.auto.latency import Latency
from ncdeploy.run.request import check
from ncdeploy.serving.job import Job
from ncdeploy.serving.scheduler import Scheduler
from oracle import digits, error_curve

INFO = ModelInfo(shape=(64,), sigma_min=0.002, sigma_max=160.0, sigma_data=0.75, error_curve=error_curve())
# A row costs a tenth of what a call of one row does, as on small networks; from 64 rows on it is what counts.
LATENCY = Latency(rows=(1, 8, 64, 1024), seconds=(1e-3, 1.5e-3, 4e-3, 60e-3), asked=1024)


class Simulated:
    """The exact denoiser of digits; a call moves the clock by t(B)."""

    info = INFO

    def __init__(self, latency: Latency = LATENCY) -> None:
        self.latency, self.now, self.rows = latency, 0.0, list[int]()
        self.wrong: Callable[[np.ndarray], np.ndarray] | None = None

    def clock(self) -> float:
        return self.now

    def __call__(self, x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        self.now += self.latency(len(x))
        self.rows.append(len(x))
        D = digits()(x, sigma).astype(np.float32)
        if self.wrong is not None:
            D[self.wrong(x)] = np.nan
        return D


class Bench:
    """A scheduler on a simulated engine, and what came of the jobs."""

    def __init__(self, **settings: Any) -> None:
        self.engine = Simulated()
        self.ticks: list[Any] = []
        self.scheduler = Scheduler(
            self.engine, INFO, settings.pop("latency", LATENCY), limit=settings.pop("limit", 256),
            clock=self.engine.clock, on_tick=self.ticks.append, **settings,
        )  # fmt: skip
        self.outcomes: dict[Job, Any] = {}
        self.ended: dict[Job, float] = {}

    def job(self, plan: Any, seeds: Any = (0,), *, window: Any = "auto", **more: Any) -> Job:
        own = {name: more.pop(name) for name in ("priority", "watch") if name in more}
        tolerance = more.pop("tolerance", 1e-3)
        latency = LATENCY if window == "auto" else None
        request = check(
            self.engine, plan, list(seeds), None, window, tolerance, SampleOptions(latency=latency, **more)
        )  # fmt: skip
        job = Job(request=request, done=lambda outcome: self._done(job, outcome), **own)
        return job

    def submit(self, plan: Any, seeds: Any = (0,), **more: Any) -> Job:
        job = self.job(plan, seeds, **more)
        self.scheduler.submit(job)
        return job

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        while not self.scheduler.idle and not until():
            self.scheduler.tick()

    def arrive(self, arrivals: list[tuple[float, Job]]) -> None:
        """Run until all jobs have come, at their times, and gone."""
        for at, job in arrivals:
            self.run(lambda at=at: self.engine.now >= at)
            self.engine.now = max(self.engine.now, at)
            self.scheduler.submit(job)
        self.run()

    def _done(self, job: Job, outcome: Any) -> None:
        assert job not in self.outcomes
        self.outcomes[job], self.ended[job] = outcome, self.engine.now
