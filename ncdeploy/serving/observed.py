"""t(B) while a server runs: the curve that was measured, corrected by what calls take.

A curve that was measured at a bad moment has a wrong shape, and shape is what decides how wide windows are and how
many samples share a call. Each call tells t at one size: a part of what it is off by belongs to that size, a part to
all of them, for a machine that is busy is so at every size. Between sizes that were seen the correction is
interpolated, beyond them it is that of the last; so what is near a size that calls have is nearly right, and `Pace`
tries sizes near it from time to time.
"""

import numpy as np

from ncdeploy.auto.latency import Latency
from ncdeploy.sampling.plan import Floats

_LEARN = 0.1  # weight of a call, of its size and of all; the first calls of a size weigh as in a mean
_MOST = 1.4  # logarithm of the largest error that one call is believed
_LEAST = 1e-9  # seconds


class Observed:
    """t at some sizes, increasing rows of a call."""

    def __init__(self, latency: Latency, sizes: Floats) -> None:
        self._latency, self._sizes, self._logs = latency, sizes, np.log(sizes)
        self._given = np.array([latency(size) for size in sizes])
        self._off, self._seen, self._all = np.zeros(len(sizes)), np.zeros(len(sizes), np.int64), 0.0

    def saw(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long."""
        at = int(np.argmin(np.abs(self._logs - np.log(rows))))
        if not self._seen[at]:
            self._off[at] = self._correction(self._logs[at])
        off = np.log(max(seconds, _LEAST) / self._latency(rows)) - self._all - self._off[at]
        error = float(np.clip(off, -_MOST, _MOST))
        self._seen[at] += 1
        own = error * max(_LEARN, 1 / self._seen[at])
        self._off[at] += own
        self._all += _LEARN * (error - own)

    def seconds(self, rows: int, most: float = np.inf) -> tuple[Floats, Floats]:
        """(sizes, t): of a call of so many rows, and of the sizes above, up to `most`; not falling."""
        more = (self._sizes > rows) & (self._sizes <= most)
        sizes = np.append(float(rows), self._sizes[more])
        given = np.append(self._latency(rows), self._given[more])
        return sizes, np.maximum.accumulate(given * np.exp(self._all + self._correction(np.log(sizes))))

    def _correction(self, logs: Floats) -> Floats:
        seen = self._seen > 0
        return np.interp(logs, self._logs[seen], self._off[seen]) if seen.any() else np.zeros_like(logs)
