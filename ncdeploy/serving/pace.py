"""How many nodes of a sample a call should hold.

A wide window takes fewer calls and more rows: where sequential sampling evaluates each of K nodes once, one of w nodes
evaluates each e(w) times,

    e(w) = 1 + h (sqrt(w) - 1) / sqrt(K),

so that a sweep accepts a(w) = w / e(w) of them. h was 3 to 6 for all solvers and networks that were measured, and is
corrected by every sample that ends. With m samples of a plan in work, and calls of B rows that take t(B) seconds, the
rows are shared out evenly, w = B / m, and the B with the most progress in a second is taken:

    sum over plans of  m a(B / sum m) / K  /  (t(B) + o),        o: what the host takes for a call

So an idle engine works on the future of the one sample that is there, a busy one on one node of each. t(B) is what was
measured, corrected by what calls take (`observed`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.auto.latency import Latency
from ncdeploy.sampling.callsizes import CallSizes
from ncdeploy.serving.observed import Observed

HARDNESS = 4.5
_LEAST, _MOST = 0.3, 30.0
_LEARN = 0.1  # weight of the sample that ended last
_REMEMBERED = 64  # plans whose hardness is
_MOMENT = 0.1  # seconds
_STEP = 1.25  # between the rows that are compared
_EFFICIENT = 1.05  # of the least time of a row: a larger call would gain nothing
_LOOK, _ASIDE = 16, 2  # calls after which another number of rows is tried, so many steps above and below in turn
_LARGER = 64  # turns after which more are let in than should be
_STAY = 1.03  # of the progress with the rows as they are: less is not worth another window


class Hardness:
    """h of one plan on one engine, as seen."""

    def __init__(self) -> None:
        self.value = HARDNESS

    def saw(self, widths: Sequence[int], evaluations: int) -> None:
        """A sample ended after sweeps with so many nodes each."""
        rows, calls = sum(widths), len(widths)
        mean = rows / calls
        if mean < 2:
            return  # nearly sequential: says nothing
        found = (rows / evaluations - 1) * evaluations**0.5 / (mean**0.5 - 1)
        self.value += _LEARN * (min(max(found, _LEAST), _MOST) - self.value)


class Hardnesses:
    """Those of the plans that were in work lately, by a key of the plan."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Hardness] = OrderedDict()

    def __getitem__(self, key: Any) -> Hardness:
        found = self._kept[key] = self._kept.pop(key) if key in self._kept else Hardness()
        if len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)
        return found


def accepted(width: NDArray[np.float64] | float, evaluations: int, hardness: float) -> NDArray[np.float64]:
    """a(w), nodes that a sweep accepts."""
    w = np.minimum(np.asarray(width, np.float64), evaluations)
    return np.asarray(w / (1 + hardness * (np.sqrt(w) - 1) / evaluations**0.5))


class Pace:
    """How wide windows should be, and how many rows requests are let in for.

    limit: rows that a call may have; most: rows that it should have, or None: as many as make a row cheapest

    Attributes:
        most: rows that a call has at most; it grows where larger calls turn out to be cheaper
    """

    def __init__(self, latency: Latency, limit: int, sizes: CallSizes | None, most: int | None = None) -> None:
        limit = limit if most is None else min(limit, most)
        if sizes is not None:
            rows = np.asarray(sizes.up_to(limit), np.float64)
        else:
            rows = np.unique(np.geomspace(1, limit, 2 + int(np.log(limit) / np.log(_STEP))).round())
        self._observed, self._limit, self._fixed = Observed(latency, rows), limit, most is not None
        self._room = limit if self._fixed else efficient(*self._observed.seconds(1))
        self.most, self._now, self._calls, self._turns = self._room, 1.0, 0, 0

    def room(self) -> int:
        """Rows that requests may have in the next call, one node of each sample; now and then half as many again, to
        see what such a call takes."""
        self._turns += 1
        if self._fixed or self._turns % _LARGER:
            return self._room
        self._room = efficient(*self._observed.seconds(1))
        larger = min(self._limit, self._room + max(1, self._room // 2))
        self.most = max(self.most, larger)
        return larger

    def saw(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long."""
        self._observed.saw(rows, seconds)

    def width(self, work: Sequence[tuple[int, int, int, float]], *, beside: float) -> float:
        """The best mean number of nodes of a sample, at least one; from time to time one near it, to see what that
        takes.

        work:   (samples, rows of the engine for each node of one, K, h) of each plan in work
        beside: seconds that the host takes for a call
        """
        m = sum(samples * each for samples, each, _, _ in work)
        rows, seconds = self._observed.seconds(m, self.most)
        widths = rows / m
        progress = sum(n * accepted(widths, k, h) / k for n, _, k, h in work) / (seconds + beside)
        best, same = int(np.argmax(progress)), int(np.argmin(np.abs(widths - self._now)))
        if progress[best] < _STAY * progress[same]:
            best = same
        self._now = float(widths[best])
        self._calls += 1
        look, odd = divmod(self._calls, _LOOK)
        if odd:
            return self._now
        return float(widths[min(max(best + (_ASIDE if look % 2 else -_ASIDE), 0), len(widths) - 1)])


def efficient(sizes: NDArray[np.float64], seconds: NDArray[np.float64]) -> int:
    """Rows that a call should have at most, of some sizes: the least with which a row costs hardly more than in any
    other call, or as many as take a moment if those are more, for who is let in early waits less."""
    each = seconds / sizes
    cheapest = sizes[np.flatnonzero(each <= _EFFICIENT * each.min())[0]]
    return int(max(cheapest, sizes[seconds <= _MOMENT].max(initial=1)))


def evenly(left: int, room: NDArray[np.int64]) -> NDArray[np.int64]:
    """`left` shared out over places that have room for so many each; what does not divide goes to the first."""
    given = np.zeros_like(room)
    while left > 0 and (open_ := np.flatnonzero(given < room)).size:
        each, rest = divmod(left, open_.size)
        share = np.minimum(each + (np.arange(open_.size) < rest), (room - given)[open_])
        given[open_] += share
        left -= int(share.sum())
    return given
