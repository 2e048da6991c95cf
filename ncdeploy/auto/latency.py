"""The latency curve t(B) of an engine: seconds that a network call on B rows takes."""

import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from statistics import median_low
from typing import Any

import numpy as np

from ncdeploy.errors import FileError, InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.records.strictjson import parse
from ncdeploy.sampling.arrays import device_of, evaluate, namespace, to_host
from ncdeploy.sampling.callsizes import CallSizes, sizes_of
from ncdeploy.sampling.plan import Floats

BUDGET = 0.75  # seconds that measuring may take
_SLOW = 20  # calls on one row, where those take longer: a run takes many more
_LEAST = 0.006  # seconds: a shorter call is repeated, as a sampler repeats it; the first half, of which some find the
# caches as another size left them, does not count
_ROUNDS, _FULL = 25, 5  # at most; those that hold every size
_SHARE = 1 / 30  # of the budget for one call: rounds then are many, and each is over before the machine's mood changes
_MOST = 1000  # repetitions of a call
_BURST = 2.5  # of what a size usually takes: no mood of the machine, and left out
_LAGS = 1, 2  # neighbours in time, and the next but one, should there have been a disturbance in between
_REWEIGHTINGS, _SAME = 30, 0.01  # of least squares, until they are least absolute deviations; those below count alike
_FEW, _FEW_SHARE = 16, 1 / 3  # rows that are measured on a slow network too
_LONGEST = 1e6  # seconds: no call takes so long
_SET_UP = 20  # budgets that may have been used when another call size is still set up
_COARSE = 3  # of an engine with call sizes every third is measured before those in between
_TURNS = 3, 20  # at least and at most, of measuring a few sizes again


@dataclass(frozen=True, kw_only=True)
class Latency:
    """t(B), linear between measured batch sizes and in proportion beyond the largest.

    Attributes:
        rows: increasing batch sizes, from 1
        seconds: of one call each, not falling
        asked: the largest batch that was wanted; larger than the last of `rows` where that took too long
        set_up: seconds that the first call of a size takes beyond a later one, of an engine that has call sizes
            (`sampling.callsizes`): its calls of fewer rows take what the next size takes. None for any other
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    asked: int
    set_up: float | None = None

    def __post_init__(self) -> None:
        rows, seconds = np.asarray(self.rows), np.asarray(self.seconds, float)
        sound = rows.ndim == 1 and rows.shape == seconds.shape and rows.size > 0 and np.all(seconds < _LONGEST)
        rising = sound and np.all(np.diff(rows) > 0) and np.all(np.diff(seconds) >= 0)
        if not (rising and rows[0] == 1 and seconds[0] > 0):
            raise InputError("latency: expected increasing rows from 1 and as many positive seconds that do not fall")
        if not (self.set_up is None or 0 <= self.set_up < math.inf):
            raise InputError(f"latency: got set_up {self.set_up}, expected seconds or None")

    def __call__(self, rows: float) -> float:
        """Seconds of a call on so many rows; a mean over calls may be broken."""
        last = self.rows[-1]
        if self.set_up is not None:
            rows = max(min(CallSizes().fit(math.ceil(rows)), last), rows)
        if rows >= last:
            return self.seconds[-1] * rows / last
        i = bisect_left(self.rows, rows)
        if i == 0:
            return self.seconds[0]
        part = (rows - self.rows[i - 1]) / (self.rows[i] - self.rows[i - 1])
        return self.seconds[i - 1] + part * (self.seconds[i] - self.seconds[i - 1])

    def corrected(self, rows: float, seconds: float) -> "Latency":
        """The curve after a run's calls on about so many rows took so long: there as seen, at eight times more or
        fewer rows as measured, in between blended. One look changes it by a factor of four at most."""
        factor = min(max(seconds / self(rows), 0.25), 4.0)
        rows = rows if self.set_up is None else CallSizes().fit(math.ceil(rows))
        sizes = sorted({*self.rows, max(1, round(rows))})  # with the one that was seen
        weights = np.maximum(0.0, 1 - np.abs(np.log2(np.asarray(sizes) / rows)) / 3)
        new = np.maximum.accumulate(np.array([self(size) for size in sizes]) * factor**weights)
        return replace(self, rows=tuple(sizes), seconds=tuple(map(float, new)))

    def bent(self, rows: Sequence[int], seconds: Sequence[float]) -> "Latency":
        """The curve through what calls on these increasing rows take now: in between it is off by something in between,
        beyond by as much as at the last."""
        sizes = sorted({*self.rows, *rows})
        off = np.log(np.asarray(seconds) / [self(size) for size in rows])
        factors = np.exp(np.interp(np.log(sizes), np.log(rows), off))
        new = np.maximum.accumulate(np.array([self(size) for size in sizes]) * factors)
        return replace(self, rows=tuple(sizes), seconds=tuple(map(float, new)))

    def to_json(self) -> str:
        """The curve as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Latency":
        """The inverse of `to_json`. Raises InputError for anything else."""
        try:
            fields = parse(text.encode(), "latency")
            rows, seconds = tuple(map(int, fields["rows"])), tuple(map(float, fields["seconds"]))
            set_up = fields.get("set_up")
            return cls(rows=rows, seconds=seconds, asked=int(fields["asked"]), set_up=set_up and float(set_up))
        except (FileError, ValueError, TypeError, KeyError) as e:
            raise InputError(f"latency: not a curve that was written by ncdeploy ({type(e).__name__})") from e


def measure_latency(
    denoise: Callable[..., Any],
    *,
    shape: tuple[int, ...],
    max_rows: int,
    label: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    like: Any = None,
    budget: float | None = None,
    on_call: Callable[[float], None] | None = None,
) -> Latency:
    """Every size beside others, in random order and many rounds, so that how busy the machine was cancels out (see
    `_fit`); made not to fall.

    Args:
        denoise: callable D(x, sigma[, labels]), x [B, *shape]
        max_rows: largest batch that a sampler may ask for; sizes in steps of about 1.5 up to it, or the engine's own.
            Those are set up first, every third before the others, and what that takes does not count
        label: a class for every row, for a model that needs one
        conditions: of a denoiser that takes some, [n, *shape]: all rows belong to the first sample, as in a window.
            Where none are given, those of its info get values that mean nothing
        like: an array of the run's kind, dtype and device; NumPy float32 if None
        budget: seconds after which no further call begins; `BUDGET` if None, or 20 calls on one row where that is more.
            A size that would take a 30th of it is left out; up to 16 rows, or where one row takes as long, one that
            would take a third
        on_call: is given the part of the budget used, after every measurement
    """
    start = time.perf_counter()
    call = _timed(denoise, shape, label, conditions, like)
    call(1, 1)  # what a first call sets up is not what later ones take
    shortest, seen = {1: call(1, 1)}, list[tuple[int, float]]()
    own, set_up = sizes_of(denoise), None
    if budget is None:
        budget = max(BUDGET, _SLOW * shortest[1])
    few = _FEW if shortest[1] <= _SHARE * budget else max_rows
    if own is None and few == max_rows:
        sizes = doublings(max_rows)
    elif own is None:
        sizes = sorted({size for e in range(31) for size in (2**e, 3 * 2**e // 2) if size <= max_rows})
    else:
        shortest, set_up = _set_up(call, own.up_to(max_rows), shortest[1], budget)
        sizes, start = sorted(shortest), time.perf_counter()
    order = Random(0)
    for turn in range(_ROUNDS):
        for rows in order.sample(sizes, len(sizes)) if turn else sizes:  # what recurs shall not find the same size
            expected = min(seconds * rows / size for size, seconds in shortest.items() if size <= rows)
            repeats = _repeats(expected)
            if turn >= _FULL and order.random() ** 2 > _LEAST / expected:
                continue  # the longer a call, the less often: more is known of all together
            in_time = time.perf_counter() - start + repeats * expected <= budget
            if in_time and expected <= budget * (_FEW_SHARE if rows <= few else _SHARE):
                seen.append((rows, call(rows, repeats)))
                shortest[rows] = min(seen[-1][1], shortest.get(rows, math.inf))
                if on_call is not None:
                    on_call(min(1.0, (time.perf_counter() - start) / budget))
    if 1 not in dict(seen):
        seen.append((1, shortest[1]))
    measured, fitted = _fit(seen)
    rising = tuple(map(float, np.maximum.accumulate(fitted)))
    return Latency(rows=measured, seconds=rising, asked=max_rows, set_up=set_up)


def doublings(most: int) -> list[int]:
    """1, 2, 4 ... and `most`."""
    return [*(2**e for e in range(most.bit_length()) if 2**e < most), most]


def _set_up(
    call: Callable[[int, int], float], sizes: list[int], one: float, budget: float
) -> tuple[dict[int, float], float]:
    """Seconds of a call of those sizes that could be set up, by size, and the median of what that took for one.

    From coarse to fine, so that the largest is among them where it takes no longer than a round of calls may.
    """
    start, seconds, extra = time.perf_counter(), {1: one}, list[float]()
    coarse = sizes[::-_COARSE][::-1]
    for size in [*coarse, *(s for s in sizes if s not in coarse)]:
        known = max(s for s in seconds if s <= size)
        if size in seconds or seconds[known] * size / known > budget:
            continue
        if time.perf_counter() - start > _SET_UP * budget:
            break
        first = call(size, 1)
        seconds[size] = call(size, 1)
        extra.append(max(first - seconds[size], 0.0))
    return seconds, median_low(extra) if extra else 0.0


def check_latency(
    known: Latency,
    denoise: Callable[..., Any],
    rows: Sequence[int],
    *,
    shape: tuple[int, ...],
    per_row: int,
    label: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    like: Any = None,
    budget: float,
) -> Latency:
    """The curve as it is now, from a few calls on each of these increasing rows of x, in turns; as it is known where
    the budget, in seconds, is too small to tell. The engine is given `per_row` rows for one of x; else as for
    `measure_latency`."""
    repeats = {r: _repeats(known(r * per_row)) for r in rows}
    turns = int(budget / sum(repeats[r] * known(r * per_row) for r in rows))
    if turns < _TURNS[0]:
        return known
    call = _timed(denoise, shape, label, conditions, like)
    # The very first call may have something to set up. It is one neighbour's, where later ones are two's.
    measured, seconds = _fit([(r, call(r, repeats[r])) for _ in range(min(turns, _TURNS[1])) for r in reversed(rows)])
    return known.bent([r * per_row for r in measured], np.maximum.accumulate(seconds).tolist())


def _timed(
    denoise: Callable[..., Any],
    shape: tuple[int, ...],
    label: int | None,
    conditions: Mapping[str, Any] | None,
    like: Any,
) -> Callable[[int, int], float]:
    """Seconds of a call on so many rows, repeated so many times: the median of those that find the caches as their like
    left them."""
    like = np.zeros((), np.float32) if like is None else like
    xp, device = namespace(like), device_of(like)

    def call(rows: int, repeats: int) -> float:
        inputs = [xp.ones((rows, *shape), dtype=like.dtype, device=device)]
        inputs.append(xp.ones((rows,), dtype=like.dtype, device=device))
        if label is not None:
            inputs.append(xp.full((rows,), label, dtype=xp.int64, device=device))
        given = one_sample(getattr(denoise, "info", None), conditions, rows, like)
        ends = [time.perf_counter()]
        for _ in range(repeats):
            out = evaluate(denoise, *inputs, **given)
            to_host(xp.reshape(out, (-1,))[:1])  # a GPU returns before it is done
            ends.append(time.perf_counter())
        return float(median_low(np.diff(ends)[repeats // 2 :]))

    return call


def one_sample(info: Any, conditions: Mapping[str, Any] | None, rows: int, like: Any) -> dict[str, Any]:
    """Conditions of a single sample that all rows belong to, where the model takes some."""
    if conditions is None and isinstance(info, ModelInfo):
        conditions = {c.name: c.none()[None] for c in info.conditions}
    if not conditions:
        return {}
    xp, device = namespace(like), device_of(like)
    first = {name: np.array(value[:1]) for name, value in conditions.items()}
    dtypes = {"f": like.dtype, "i": xp.int64}
    return {
        "conditions": {n: xp.asarray(v, dtype=dtypes[v.dtype.kind], device=device) for n, v in first.items()},
        "sample": xp.zeros((rows,), dtype=xp.int64, device=device),
    }


def _repeats(expected: float) -> int:
    """How often to make a call that is expected to take so many seconds."""
    return math.ceil(_LEAST / max(expected, _LEAST / _MOST))


def _fit(seen: list[tuple[int, float]]) -> tuple[tuple[int, ...], Floats]:
    """Sizes, and seconds of a call of each, from what was seen of (size, seconds) one after the other.

    Least absolute deviations of the logarithms' differences between neighbours in time: a machine that is twice as slow
    for a second is so for both of them, and a disturbance of one is two differences among many. Then the median level.
    """
    times: dict[int, list[float]] = {}
    for size, seconds in seen:
        times.setdefault(size, []).append(seconds)
    seen = [(size, seconds) for size, seconds in seen if seconds <= _BURST * median_low(times[size])]
    rows, column = np.unique([size for size, _ in seen], return_inverse=True)
    logs = np.log([seconds for _, seconds in seen])
    first, second = np.array([(i, i + lag) for lag in _LAGS for i in range(len(logs) - lag)], int).reshape(-1, 2).T
    steps = logs[second] - logs[first]
    signs = np.eye(len(rows))[column[second]] - np.eye(len(rows))[column[first]]
    weights = np.ones(len(steps))
    for _ in range(_REWEIGHTINGS):
        weighted = signs.T * weights
        found = np.linalg.lstsq(weighted @ signs, weighted @ steps, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(steps - signs @ found), _SAME)
    return tuple(map(int, rows)), np.exp(found + np.median(logs - found[column]))
