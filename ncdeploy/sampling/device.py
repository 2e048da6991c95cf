"""The parallel driver for tensors on a GPU: sweeps that do not wait for the host.

A sweep is one launch beside the network's (see `device_sweep`), which also puts the rows of the next call in place.
The host starts the next call before it knows the outcome of the last, and reads one report a sweep, one sweep late. So
a run makes at most one call more than `ParallelRun`, none where the end is certain; samples and sweeps are the same.

    network call k  ->  hear of sweep k - 1  ->  launch sweep k  ->  network call k + 1 ...
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.arrays import device_of, namespace, read_back
from ncdeploy.sampling.callsizes import least_size
from ncdeploy.sampling.capture import Replay
from ncdeploy.sampling.device_state import Samples
from ncdeploy.sampling.device_sweep import BESIDE, DeviceSweep
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.evaluator import Evaluator, not_finite
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.result import Sweep
from ncdeploy.sampling.window import window_tables

EAGER = 8  # sweeps of a window before it pays to capture them
KEPT = 2  # runs whose buffers and graphs later runs of the same kind take up

Capture = Callable[..., tuple[Replay, Any, Any]]


def on_a_device(like: Any) -> bool:
    """Whether an array lives where waiting for the host costs."""
    return not isinstance(like, np.ndarray | np.generic) and like.device.type not in ("cpu", "mps")


class _Windows:
    """Sweeps of one width with their state, as they are or captured."""

    def __init__(self, sweep: DeviceSweep, take: Capture | None) -> None:
        self.sweep, self._capture = sweep, take
        self._replay: Replay | None = None
        self._count = 0
        self.state = sweep.begin().cloned()
        self.out = sweep.samples.zeros(sweep.most)

    def begin(self) -> tuple[Any, ...]:
        """Let the first samples in; what `DeviceSweep.slide` asks."""
        state = self.sweep.begin()
        asked = self.sweep.slide(state, None, self.sweep)
        self._hold(state)
        return asked

    def go(self) -> tuple[tuple[Any, ...], Any]:
        """Sweep with D as it is in `out`: what is asked next, and the report."""
        self._count += 1
        if self._replay is None and self._capture is not None and self._count > EAGER:
            try:
                self._replay, self._made, _ = self._capture(self._work, commit=self._commit)
            except RuntimeError as e:  # a device without graphs, or too old: launches one by one do as well
                if "out of memory" in str(e):
                    raise
                self._capture = None
        if self._replay is not None:
            self._replay()
            _, asked, report = self._made
        else:
            made = self._work()
            self._commit(made)
            _, asked, report = made
        return asked, report

    def change(self, into: "_Windows") -> tuple[tuple[Any, ...], Any]:
        """As `go`, and the windows go on as others."""
        state = replace(self.state)
        swept = self.sweep.sweep(state, self.out)
        asked = self.sweep.slide(state, swept, into.sweep)
        into._hold(state)
        return asked, swept.report

    def _work(self) -> tuple[Any, ...]:
        state = replace(self.state)
        swept = self.sweep.sweep(state, self.out)
        return state, self.sweep.slide(state, swept, self.sweep), swept.report

    def _commit(self, made: tuple[Any, ...]) -> None:
        for mine, new in zip(self.state.tensors(), made[0].tensors(), strict=True):
            mine.copy_(new)

    def _hold(self, state: Any) -> None:
        """Go on from a state; the places of one of the same shapes stay, for a graph knows them."""
        if [a.shape for a in state.tensors()] == [a.shape for a in self.state.tensors()]:
            self._commit((state,))
        else:
            self.state = state.cloned()


class _Kept:
    """What runs of one kind, one at a time, have in common: places of n samples, and sweeps by their window."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.windows: dict[int, _Windows] = {}


_kept: OrderedDict[Any, _Kept] = OrderedDict()


class DeviceRun:
    """As `ParallelRun`, on torch tensors; takes what that takes.

    capture: makes a graph of a sweep, see `ncdeploy.sampling.capture`; None: sweeps are launched operator by operator
    """

    def __init__(
        self, evaluator: Evaluator, plan: Plan, *, seeds: list[int], dim: int, window: int, tolerance: float,
        floor: float, curve: ErrorCurve | None, mean: Floats | None, lanes: int, like: Any, start: Any = None,
        keep: bool = False, capture: Capture | None = None,
    ) -> None:  # fmt: skip
        self.evaluator, self.plan, self.seeds, self.dim, self.like = evaluator, plan, seeds, dim, like
        self.window, self.capacity, self._capture = window, lanes, capture
        self._tolerance, self._curve, self._floor = tolerance, curve, floor
        n = len(seeds)
        self.sweeps, self.accepted, self.residual = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
        self.calls, self._keep = 0, not keep
        if start is None:
            mean = np.zeros(dim) if mean is None else mean
            start = namespace(like).asarray(mean, dtype=like.dtype, device=device_of(like))[None, None]
        labels, conditions = evaluator.on_device()
        self._key = (
            plan, n, dim, lanes, tolerance, floor, curve, keep, start.shape[1], like.dtype, like.device, capture,
            evaluator.sizes is None, getattr(evaluator.sizes, "most", None), labels is None,
            *((name, value.dtype, value.shape) for name, value in conditions.items()),
        )  # fmt: skip
        kept = _kept.pop(self._key, None)
        self._run = kept or _Kept(Samples(plan, n, dim, like, guessed=start.shape[1], keep=keep))
        places = self._run.samples
        places.begin(seeds, start, labels, conditions)
        self.samples = places.finished[:-1]
        self.outputs = None if places.outputs is None else places.outputs[:-1].reshape((n, -1, dim))
        # Of the lanes, as far as the host has heard of them; n where one is idle
        self._owner, self._base, self._next = np.full(lanes, n), np.full(lanes, len(plan) - 1), 0

    def run(self) -> Iterator[Sweep]:
        """Yield what is heard of each sweep, until every sample is accepted to its last node."""
        try:
            yield from self._sweeps()
            self.samples = self.samples.clone()
            self.outputs = None if self.outputs is None else self.outputs.clone()
            self._keep = True
        finally:
            if self._keep:  # else somebody may still look at what is in there
                _kept[self._key] = self._run
                while len(_kept) > KEPT:
                    _kept.popitem(last=False)

    def _sweeps(self) -> Iterator[Sweep]:
        now, report = self._windows(), None
        size = self._size(now.sweep)
        asked = now.begin()
        self._let_in(np.full(self.capacity, True))
        while True:
            if report is not None and self._last_one(now.sweep):
                yield self._hear(report(), now)
                break
            out = self._call(size, *asked)
            if report is not None:
                yield self._hear(report(), now)
                if (self._owner == len(self.seeds)).all():
                    break  # this call was one too many
            now.out[:size].copy_(out.reshape((size, self.dim)))
            then = self._windows()
            size = self._size(then.sweep)
            asked, told = now.go() if then is now else now.change(then)
            now, report = then, read_back(told)

    def _call(self, size: int, x: Any, sigma: Any, labels: Any, conditions: dict[str, Any], lane: Any) -> Any:
        inputs = [x[:size].reshape((size, *self.evaluator.shape)), sigma[:size]]
        inputs += [] if labels is None else [labels[:size]]
        given = {"conditions": conditions, "sample": lane[:size]} if conditions else {}
        self.calls += 1
        return self.evaluator.call(*inputs, **given)

    def _hear(self, report: Floats, now: _Windows) -> Sweep:
        """Take in what a sweep reports; the state is still that after it."""
        n, final = len(self.seeds), now.sweep.tables.final
        live = self._owner < n
        owner, base, accepted, bad = report[live][:, [0, 1, 2, 6]].astype(np.int64).T
        residual = report[live, BESIDE:]
        if (bad <= final).any():
            lane = int(np.argmax(bad <= final))
            raise not_finite(bad[lane], self.plan.sigmas[bad[lane]], owner[lane])
        rows = int(report[:, 3].sum())
        self.evaluator.saw(rows, report[live, 4], self.plan.sigmas[report[live, 5].astype(np.int64)])
        node = base[:, None] + 1 + np.arange(residual.shape[1])
        worst = residual.max(axis=1, where=node < accepted[:, None], initial=0.0)
        self.residual[owner] = np.maximum(self.residual[owner], worst)
        self.sweeps[owner] += 1
        done = accepted == final
        self.accepted[owner] = accepted + done
        self._base[live] = accepted
        gone = np.zeros(len(live), bool)
        gone[live] = done
        self._let_in(gone)
        return Sweep(
            calls=self.calls, rows=rows, accepted=self.accepted.copy(), nodes=len(self.plan), lanes=owner, base=base,
            residual=residual, _estimate=partial(self._estimate, now),
        )  # fmt: skip

    def _let_in(self, free: NDArray[np.bool_]) -> None:
        """Samples that wait take free lanes, in their order."""
        coming = self._next + np.cumsum(free) - 1
        new = free & (coming < len(self.seeds))
        self._owner = np.where(new, coming, np.where(free, len(self.seeds), self._owner))
        self._base = np.where(new, 0, self._base)
        self._next = min(self._next + int(free.sum()), len(self.seeds))

    def _size(self, sweep: DeviceSweep) -> int:
        """As `DeviceSweep.size`."""
        t, n = sweep.tables, len(self.seeds)
        left = len(t.ranked) - 1 - t.rank[np.minimum(self._base + 1, t.final)]
        rows = np.where(self._owner < n, np.minimum(left, t.window), 0)
        return int(sweep.fit[np.where(self._next < n, t.window, rows).sum()])

    def _last_one(self, sweep: DeviceSweep) -> bool:
        """Whether everything ends with the sweep that was not heard of yet: at least one node is accepted in each."""
        t, n = sweep.tables, len(self.seeds)
        last = t.next[np.minimum(self._base + 1, t.final)] == t.final
        return self._next == n and bool((last | (self._owner == n)).all())

    def _windows(self) -> _Windows:
        held = self._run.windows
        if self.window not in held:
            t = window_tables(
                self.plan, self.window, self._curve, self.dim, self._floor, namespace(self.like), self.like.dtype,
                device_of(self.like),
            )  # fmt: skip
            sizes, rows = self.evaluator.sizes, np.arange(self.capacity * self.window + 1)
            if sizes is not None:
                least = least_size(sizes.fit(int(rows[-1])))
                near = [sizes.near(r, least) for r in rows.tolist()]
                rows = np.array([
                    size if size >= 2 * self.capacity else sizes.fit(r, least) for r, size in enumerate(near)
                ])  # fmt: skip
            sweep = DeviceSweep(
                t, self._run.samples, stochastic=self.plan.stochastic, lanes=self.capacity, tolerance=self._tolerance,
                online=self._curve is None, fit=np.maximum(rows, 1), fill=sizes is not None,
            )  # fmt: skip
            held[self.window] = _Windows(sweep, self._capture)
        return held[self.window]

    def _estimate(self, now: _Windows) -> Any:
        estimate, state = self.samples.clone(), now.state
        live = np.flatnonzero(self._owner < len(self.seeds))
        lane = namespace(self.like).asarray(live, device=device_of(self.like))
        last = now.sweep.last_known(state)[lane]
        estimate[state.owner[lane]] = state.D[lane, last]
        return estimate.reshape((-1, *self.evaluator.shape))
