"""Sweeps and evaluations of a plan at any window, from rehearsals at a few of them."""

import math
from typing import Any

import numpy as np

from ncdeploy.auto.rehearsal import SAMPLES, Rehearsal, rehearse
from ncdeploy.sampling.plan import Floats, Plan

_ANCHORS = (16, 64, 256, 1024)  # windows that are rehearsed one after the other, as far as they fit
_FIXED = 0.9  # of what the driver takes for the samples of a rehearsal at the narrowest window, however many they are
_STEP = 1.19  # between the windows that are worth comparing


class Forecast:
    """Of windows up to the widest that was rehearsed. A window of 1 needs no rehearsal; in between, evaluations are
    linear in its root and sweeps in its inverse.

    windows: int64, increasing, those to compare
    """

    def __init__(
        self, plan: Plan, *, most: int, tolerance: float, floor: float, scale: float, online: bool,
        law: tuple[float, int] | None = None,
    ) -> None:  # fmt: skip
        """A first rehearsal, at a narrow window; `most`: the widest window that there is; `law`: as for `rehearse`."""
        self._plan, self._settings = plan, (tolerance, floor, scale, online, law)
        self._runs: dict[int, Rehearsal] = {}
        last = min(most, _ANCHORS[-1])
        self._ahead = [*(w for w in _ANCHORS if w < last), last]
        self.widen()

    def widen(self) -> bool:
        """Have a rehearsal at the next wider window; whether there is one."""
        if not self._ahead:
            return False
        widest = self._ahead.pop(0)
        self.rehearse(widest)
        count = max(2, round(math.log(widest) / math.log(_STEP)))
        self.windows = np.unique(np.geomspace(1, widest, count).round().astype(np.int64))
        return True

    def rehearse(self, window: int) -> None:
        """Have a rehearsal at a window, which from now on supports the others."""
        self._runs[window] = rehearse(self._plan, window, *self._settings)

    def evaluations(self) -> float:
        """Evaluations of a node at the widest window that was rehearsed."""
        return self.at(max(self._runs))[0]

    def course(self, window: int) -> Floats:
        """Calls until each of the parts `PARTS` of the nodes are accepted."""
        nearest = self._nearest(window)
        return np.asarray(nearest.course) * (self.at(window)[1] / nearest.sweeps)

    def at(self, window: int) -> tuple[float, float, tuple[float, ...]]:
        """Evaluations of a node, sweeps, and how the rows of the calls lie about their mean."""
        k = self._plan.evaluations
        known = sorted(self._runs)
        runs = [self._runs[w] for w in known]
        evaluations = _between(window, [1, *known], [1.0, *(run.nfe / k for run in runs)], 0.5)
        sweeps = _between(window, [1, *known], [float(k), *(run.sweeps for run in runs)], -1.0)
        return evaluations, sweeps, self._nearest(window).spread

    def driver(self, window: int) -> tuple[float, float]:
        """Seconds that the parallel driver takes for a call with all it needs in the caches: a part that neither window
        nor samples change, and one for each sample, which grows with the window. Never more than at a wider window, for
        what a rehearsal shows beyond that was a disturbance."""
        known = sorted(self._runs)
        seconds = np.minimum.accumulate([self._runs[w].driver for w in reversed(known)])[::-1]
        fixed = _FIXED * float(seconds[0])
        return fixed, (_between(window, known, seconds, 1.0) - fixed) / SAMPLES

    def least_driver(self) -> float:
        """Seconds that it takes for a call of a rehearsal at the narrowest window where an error curve is known."""
        fixed, each = self.driver(1)
        tolerance, floor, scale, *_ = self._settings
        return min(fixed + SAMPLES * each, rehearse(self._plan, min(self._runs), tolerance, floor, scale, False).driver)

    def _nearest(self, window: int) -> Rehearsal:
        return self._runs[min(self._runs, key=lambda w: abs(math.log(w / window)))]


def _between(at: float, known: Any, values: Any, power: float) -> float:
    """Linear in that power of the window."""
    x = np.asarray(known, float) ** power
    order = np.argsort(x)
    return float(np.interp(at**power, x[order], np.asarray(values)[order]))
