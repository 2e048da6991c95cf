"""window="auto": which window, if any, and how many samples at once, make a run shortest.

    sequential:  ceil(n / m) K (t(m) + o_1)                        m samples at once, K evaluations of the plan
    parallel:    (n / m) S (t(m r) + o),   r = NFE / S             S sweeps of r rows for each sample

t(B) is the engine's latency, averaged over the spread of r, and o what the driver takes for a call. S and NFE come from
rehearsals of the plan; where these evaluate each node e times, a network takes 1 + hardness (e - 1).
"""

import math
from functools import cached_property, lru_cache

import numpy as np

from ncdeploy.sampling.forecast import Forecast
from ncdeploy.sampling.latency import Latency
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.rehearsal import PARTS
from ncdeploy.sampling.result import Choice

HARDNESS = 1.5
_WORTH = 0.95  # of the time without it: a change that is predicted to gain less is not made
_SEQUENTIAL_DRIVER = 0.15  # what the sequential driver takes for a call, relative to the parallel one


class Tuner:
    """Chooses a window, and corrects itself from what a run shows.

    latency:  seconds of a call, by the rows that the engine is given; per_row: of those for one row of x
    n:        samples; max_rows: most rows of x in a call
    scale:    standard deviation of the data; tolerance, floor: as for `sample`
    """

    def __init__(
        self, plan: Plan, latency: Latency, *, n: int, tolerance: float, floor: float, scale: float, max_rows: int,
        per_row: int = 1,
    ) -> None:  # fmt: skip
        self.plan, self.n, self.max_rows = plan, n, max_rows
        self.hardness = HARDNESS
        self._latency, self._per_row = latency, per_row
        self._settings = {"tolerance": tolerance, "floor": floor, "scale": scale}

    def choose(self) -> Choice:
        """The fastest way by the formulas above."""
        k, t = self.plan.evaluations, self._seconds
        lanes = _doublings(min(self.n, self.max_rows))
        alone = min((self._sequential(m, 0.0) for m in lanes), key=_seconds)
        # A window that converged at once would cost this; where even that is not worth it, nothing is rehearsed.
        if self.n * k * min(t(b) / b for b in _doublings(min(self.max_rows, self.n * k))) > _WORTH * alone.seconds:
            return alone
        best = self._best(lanes)
        self._forecast.rehearse(best.window or 1)  # a second look, now at the window itself
        best = self._best(lanes)
        alone = min((self._sequential(m, self._forecast.driver) for m in lanes), key=_seconds)
        if best.seconds > _WORTH * alone.seconds:
            return alone
        return Choice(
            window=best.window, lanes=best.lanes, sweeps=best.sweeps, seconds=best.seconds, sequential=alone.seconds
        )

    def correct(self, window: int, lanes: int, calls: int, parts: Floats) -> int:
        """The window to go on with, after so many calls on `lanes` samples at once at `window`.

        parts: [n], the part of its nodes that each sample has accepted. What they took beside the rehearsal makes the
        hardness, and counts the more the further the run has come.
        """
        run = self._forecast.rehearse(window)
        e = run.nfe / self.plan.evaluations
        slower = calls * lanes / max(float(np.interp(parts, PARTS, run.course).sum()), 1.0)
        seen = min(max((slower * e - 1) / max(e - 1, 0.02), 0.25), 6.0)
        self.hardness = HARDNESS + float(parts.mean()) * (seen - HARDNESS)
        best = self._best([lanes])
        worth = best.seconds < _WORTH * self._parallel(window, lanes).seconds
        return best.window if worth and best.window is not None else window

    def _best(self, lanes: list[int]) -> Choice:
        fitting = [(int(w), m) for w in self._forecast.windows for m in lanes if w * m <= self.max_rows]
        return min((self._parallel(w, m) for w, m in fitting), key=_seconds)

    def _sequential(self, lanes: int, driver: float) -> Choice:
        k = self.plan.evaluations
        seconds = math.ceil(self.n / lanes) * k * (self._seconds(lanes) + _SEQUENTIAL_DRIVER * driver)
        return Choice(window=None, lanes=lanes, sweeps=float(k), seconds=seconds, sequential=seconds)

    def _parallel(self, window: int, lanes: int) -> Choice:
        e, s, spread = self._forecast.at(window)
        sweeps = s * (1 + self.hardness * (e - 1)) / e
        rows = lanes * e * self.plan.evaluations / s
        call = sum(self._seconds(max(part * rows, 1.0)) for part in spread) / len(spread) + self._forecast.driver
        return Choice(
            window=window, lanes=lanes, sweeps=sweeps, seconds=self.n / lanes * sweeps * call, sequential=math.inf
        )

    def _seconds(self, rows: float) -> float:
        return self._latency(rows * self._per_row)

    @cached_property
    def _forecast(self) -> Forecast:
        return Forecast(self.plan, most=min(self.plan.evaluations, self.max_rows), **self._settings)


@lru_cache(maxsize=32)
def choose(
    plan: Plan, latency: Latency, n: int, tolerance: float, floor: float, scale: float, max_rows: int, per_row: int
) -> Choice:
    """What a `Tuner` chooses, kept for the next runs: on a small network the choice itself would be felt."""
    return Tuner(
        plan, latency, n=n, tolerance=tolerance, floor=floor, scale=scale, max_rows=max_rows, per_row=per_row
    ).choose()


def _seconds(choice: Choice) -> float:
    return choice.seconds


def _doublings(most: int) -> list[int]:
    """1, 2, 4 ... and `most`."""
    return [*(2**e for e in range(most.bit_length()) if 2**e < most), most]
