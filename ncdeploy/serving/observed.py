"""t(B) while a server runs: the curve that was measured, corrected by what calls take.

A curve that was measured at a bad moment has a wrong shape, and shape is what decides how wide windows are and how
many samples share a call. Each call tells t at one size: a part of what it is off by belongs to that size, a part to
all of them, for a machine that is busy is so at every size. Between sizes that were seen the correction is
interpolated, beyond them it is that of the last; so what is near a size that calls have is nearly right, and `Pace`
tries sizes near it from time to time.
"""

from bisect import bisect
from math import log

import numpy as np

from ncdeploy.auto.latency import Latency
from ncdeploy.sampling.plan import Floats

_LEARN = 0.1  # weight of a call, of its size and of all; the first calls of a size weigh as in a mean
_MOST = 1.4  # logarithm of the largest error that one call is believed
_LEAST = 1e-9  # seconds
_FRESH = 8  # calls after which the curve is worked out again; after each of the first ones of a size


class Observed:
    """t at some sizes, increasing rows of a call."""

    def __init__(self, latency: Latency, sizes: Floats) -> None:
        self._latency, self._sizes, self._logs = latency, sizes, np.log(sizes)
        self._given = np.array([latency(size) for size in sizes])
        self._between = ((self._logs[1:] + self._logs[:-1]) / 2).tolist()
        self._off, self._seen, self._all, self._calls = [0.0] * len(sizes), [0] * len(sizes), 0.0, 0
        self._rows, self._factor, self._curve = sizes.tolist(), np.ones(len(sizes)), self._given

    def saw(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long."""
        at = bisect(self._between, log(rows))
        if not self._seen[at]:
            self._off[at] = log(self._factor[at]) - self._all
        off = log(max(seconds, _LEAST) / self._latency(rows)) - self._all - self._off[at]
        error = min(max(off, -_MOST), _MOST)
        self._seen[at] += 1
        own = error * max(_LEARN, 1 / self._seen[at])
        self._off[at] += own
        self._all += _LEARN * (error - own)
        self._calls += 1
        if self._seen[at] <= _FRESH or self._calls % _FRESH == 0:
            seen = np.flatnonzero(self._seen)
            self._factor = np.exp(self._all + np.interp(self._logs, self._logs[seen], np.take(self._off, seen)))
            self._curve = self._given * self._factor

    def seconds(self, rows: int, most: float = np.inf) -> tuple[Floats, Floats]:
        """(sizes, t): of a call of so many rows, and of the sizes above, up to `most`; not falling."""
        first, last = bisect(self._rows, rows), bisect(self._rows, most)
        sizes, t = np.empty(last - first + 1), np.empty(last - first + 1)
        sizes[0], sizes[1:] = rows, self._sizes[first:last]
        t[0] = self._latency(rows) * np.interp(log(rows), self._logs, self._factor)
        t[1:] = self._curve[first:last]
        return sizes, np.maximum.accumulate(t)
