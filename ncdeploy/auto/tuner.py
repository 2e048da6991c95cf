"""window="auto": which window, if any, and how many samples at once, make a run shortest.

    sequential:  K (t(m) + o_1)                         for m samples at once, K evaluations of the plan
    parallel:    S (t(m r) + o),   r = NFE / S          S sweeps of r rows for each sample

and so for every m of the n samples, and for those that are left in the end. t(B) is the engine's latency, averaged
over the spread of r, and o what the driver takes for a call. S and NFE come from rehearsals of the plan; where these
evaluate each node e times, a network takes 1 + hardness (e - 1).
"""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ncdeploy.auto.forecast import Forecast
from ncdeploy.auto.latency import Latency, doublings
from ncdeploy.auto.rehearsal import PARTS
from ncdeploy.sampling.callsizes import CallSizes, least_size
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.result import Choice

HARDNESS = 1.1
_WORTH = 0.97  # of the time without it: a change that is predicted to gain less is not made
_FREE = 1.001  # times as long takes a call that costs nothing more
_CLEARLY = 0.85  # of the time of all samples at once: a larger batch that seems slower by less is a disturbance
CHANGE = 0.2  # seconds that another window has to save: it needs tables of its own
_MOOD = 3.0  # a busy machine's calls vary by such a factor from one second to the next, whatever their rows
_ROUNDING = 4.0  # units of it: iterates that may differ by less settle about as slowly as sequential sampling goes
_COOLING = 1e-3  # seconds of a network call after which a driver finds half of its code and data out of the caches
_VALUE = 2e-8  # seconds that the parallel driver takes for a value of a row, the noise aside: either driver draws that
_LOOKS = 3  # at the window that seems best, itself rehearsed: what lies between rehearsals is rather too good
_DRIFT = 1.5  # what batching gains may differ by such a factor from when t(B) was measured: other programs, heat, power
_SEQUENTIAL_DRIVER = 0.2  # what the sequential driver takes for a call, relative to the parallel one at its least


@dataclass(frozen=True, kw_only=True)
class Job:
    """n: samples; max_rows: most rows of x in a call

    latency: seconds of a call, by the rows that the engine is given; per_row: of those for one row of x
    scale:   standard deviation of the data; tolerance, floor: as for `sample`
    values:  of a row, that NumPy handles between calls; 0 where a device does
    online:  whether the run estimates the scalar Jacobian, for want of an error curve
    law:     theta and the values of a sample, of acceptance in law; None of pathwise acceptance
    eps:     relative rounding of the run's numbers
    ready:   call sizes of the engine, in rows of x, that are set up already; of one that has them
    """

    plan: Plan
    latency: Latency
    n: int
    tolerance: float
    floor: float
    scale: float
    max_rows: int
    per_row: int = 1
    values: int = 0
    online: bool = False
    law: tuple[float, int] | None = None
    eps: float = float(np.finfo(np.float32).eps)
    ready: frozenset[int] = frozenset()


class Tuner:
    """Chooses a window for a job, and corrects itself from what the run shows.

    doubts: rows of the calls of the best ways without and with a window where t(B) may have drifted so far that the
            other one is better
    """

    def __init__(self, job: Job) -> None:
        self.job, self.hardness = job, HARDNESS
        self._latency = job.latency
        self._parts, self._expected = np.zeros(job.n), 0.0
        self.doubts: tuple[int, ...] = ()

    def choose(self) -> Choice:
        """The fastest way by the formulas above."""
        job, k, t = self.job, self.job.plan.evaluations, self._seconds
        lanes = doublings(min(job.n, job.max_rows))
        alone = self._alone(lanes, 0.0)
        if job.law is None and job.tolerance < _ROUNDING * job.eps:
            return alone
        # A window that converged at once would cost this; where even that is not worth it, nothing is rehearsed.
        least = job.n * k * min(t(b) / b for b in doublings(min(job.max_rows, job.n * k)))
        if least > _WORTH * alone.seconds:
            return alone
        best = self._best(lanes)
        # No wider window evaluates a node less often, so that there is a width from which on none can pay.
        while self._forecast.evaluations() * least < best.seconds and self._forecast.widen():
            best = self._best(lanes)
        for _ in range(_LOOKS):
            self._forecast.rehearse(best.window or 1)
            best = self._best(lanes)
        alone = self._alone(lanes, self._forecast.least_driver())
        rows = (best.window or 1) * best.lanes
        if 1 / _DRIFT < best.seconds / alone.seconds < _DRIFT and rows > alone.lanes:
            self.doubts = alone.lanes, rows
        if best.seconds > _WORTH * alone.seconds:
            return alone
        return Choice(
            window=best.window, lanes=best.lanes, sweeps=best.sweeps, seconds=best.seconds, sequential=alone.seconds
        )

    def correct(self, window: int, lanes: int, sweeps: int, parts: Floats, rows: float, seconds: float) -> int:
        """The window to go on with, after going on at `window` with `lanes` samples at once.

        sweeps: that samples took part in since the run began, summed over them
        parts:  [n], the part of its nodes that each sample has accepted. What they took beside the rehearsals of the
                windows they went through makes the hardness, and counts the more the further the run has come.
        rows, seconds: of a call, lately, the driver's time included; they correct a latency that is far off
        """
        seen = max(seconds - self._driver(window, lanes, seconds), 0.0)
        if not 1 / _MOOD < seen / self._seconds(rows) < _MOOD:
            self._latency = self._latency.corrected(rows * self.job.per_row, seen)
        e, part = self._forecast.at(window)[0], float(parts.mean())
        course = self._forecast.course(window)
        self._expected += float(np.sum(np.interp(parts, PARTS, course) - np.interp(self._parts, PARTS, course)))
        self._parts = parts
        slower = sweeps / max(self._expected, 1.0)
        seen_hardness = min(max((slower * e - 1) / max(e - 1, 0.02), 0.25), 6.0)
        self.hardness = HARDNESS + part * (seen_hardness - HARDNESS)
        best, now = self._best([lanes]), self._parallel(window, lanes).seconds
        worth = best.seconds < _WORTH * now and (1 - part) * (now - best.seconds) > CHANGE
        return best.window if worth and best.window is not None else window

    def _best(self, lanes: list[int]) -> Choice:
        job, windows = self.job, self._forecast.windows.tolist()
        if job.latency.set_up is None:
            ways = {(w, m) for w in windows for m in lanes}
        else:  # windows that fill a call
            ways = {(min(size // m, windows[-1]), m) for size in CallSizes().up_to(job.max_rows) for m in lanes}
        fitting = sorted((w, m) for w, m in ways if w and w * m <= job.max_rows)
        best = min((self._parallel(w, m) for w, m in fitting), key=_seconds)
        # Where further rows cost nothing, as up to the next step of a staircase, the window takes them.
        wide, m = best.window or 1, best.lanes
        most, widest = _FREE * self._seconds(wide * m), min(windows[-1], job.max_rows // m)
        while wide < widest and self._seconds((wide + 1) * m) <= most:
            wide += 1
        return self._parallel(wide, m)

    def _alone(self, lanes: list[int], driver: float) -> Choice:
        """Sequential, with all samples at once unless fewer are clearly faster."""
        whole = self._sequential(lanes[-1], driver)
        best = min((self._sequential(m, driver) for m in lanes), key=_seconds)
        return best if best.seconds < _CLEARLY * whole.seconds else whole

    def _sequential(self, lanes: int, driver: float) -> Choice:
        k = self.job.plan.evaluations

        def call(m: int) -> float:
            network = self._seconds(m)
            return network + _beside(network, _SEQUENTIAL_DRIVER * driver)

        seconds = k * self._in_turn(lanes, call) + self._set_up(lanes, self.job.n % lanes or lanes)
        return Choice(window=None, lanes=lanes, sweeps=float(k), seconds=seconds, sequential=seconds)

    def _parallel(self, window: int, lanes: int) -> Choice:
        e, s, spread = self._forecast.at(window)
        sweeps = s * (1 + self.hardness * (e - 1)) / e
        rows = e * self.job.plan.evaluations / s

        def call(m: int) -> float:
            network = sum(self._seconds(self._asked(max(part * m * rows, 1.0))) for part in spread) / len(spread)
            return network + self._driver(window, m, network)

        seconds = sweeps * self._in_turn(lanes, call) + self._set_up(window * lanes, 1)
        return Choice(window=window, lanes=lanes, sweeps=sweeps, seconds=seconds, sequential=math.inf)

    def _driver(self, window: int, lanes: int, network: float) -> float:
        """Seconds of the parallel driver between network calls that take so long. Those slow down only what it does
        once a call: what it does for every sample in turn stays in the caches."""
        fixed, each = self._forecast.driver(window)
        return _beside(network, fixed) + (each + _VALUE * self.job.values * window) * lanes

    def _set_up(self, rows: int, least: int) -> float:
        """Seconds for the call sizes, from those of `least` rows to those of `rows`, that the engine has to set up."""
        each = self.job.latency.set_up
        if not each:
            return 0.0
        size = CallSizes().fit(rows)
        wanted = {s for s in CallSizes().up_to(size) if s >= max(least, least_size(size))}
        return each * len(wanted - self.job.ready)

    def _in_turn(self, lanes: int, call: Callable[[int], float]) -> float:
        """Seconds of a call for each of the groups of samples that the job makes."""
        groups, left = divmod(self.job.n, lanes)
        return groups * call(lanes) + (call(left) if left else 0.0)

    def _asked(self, rows: float) -> float:
        """Rows of a call of the parallel driver that would take so many."""
        return rows if self.job.latency.set_up is None else float(CallSizes().near(math.ceil(rows)))

    def _seconds(self, rows: float) -> float:
        return self._latency(rows * self.job.per_row)

    @cached_property
    def _forecast(self) -> Forecast:
        job = self.job
        return Forecast(
            job.plan, most=min(job.plan.evaluations, job.max_rows), tolerance=job.tolerance, floor=job.floor,
            scale=job.scale, online=job.online, law=job.law,
        )  # fmt: skip


def choose(job: Job) -> tuple[Choice, Tuner]:
    """What a `Tuner` chooses, and the tuner for the run. Choices are kept: on a small network one would be felt."""
    choice, tuner = _chosen(job)
    return choice, copy(tuner)


@lru_cache(maxsize=32)
def _chosen(job: Job) -> tuple[Choice, Tuner]:
    tuner = Tuner(job)
    return tuner.choose(), tuner


def _beside(network: float, driver: float) -> float:
    """Seconds of what a driver does once a call, between network calls that take so long: up to twice what it takes
    in a rehearsal."""
    return driver * (1 + network / (network + _COOLING))


def _seconds(choice: Choice) -> float:
    return choice.seconds
