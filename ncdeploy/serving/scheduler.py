"""The loop of one engine: a tick builds one network call from the rows of all requests in work, and hands on what
follows from its outputs.

    ask every pool for its rows  ->  one call  ->  take in who has come, out who has gone  ->  slide every window

Who waits is let in by `Job.due`, as many samples at once as rows fit into a call; all that are in take part in every
call. How many nodes of each go along is `Pace`'s.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.auto.latency import Latency
from ncdeploy.errors import BackendError, BusyError, InputError, NcdeployError, NumericalError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.callsizes import sizes_of
from ncdeploy.sampling.evaluator import Denoise, Evaluator
from ncdeploy.sampling.parallel import Ints
from ncdeploy.serving.call import Caller, Part, owners_of
from ncdeploy.serving.job import Job
from ncdeploy.serving.pace import Hardnesses, Pace, evenly
from ncdeploy.serving.pool import LIKE, Pool, make_pool


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What one call was.

    samples: in it; rows: nodes of theirs, one each and `rows - samples` of their future
    seconds: of the engine; beside: of the host, for this call
    owners:  (number of the request, rows), in the order of their numbers
    """

    samples: int
    rows: int
    seconds: float
    beside: float
    owners: tuple[tuple[int, int], ...]


class Scheduler:
    """Runs jobs; `submit` and `cancel` from any thread, `tick` from one.

    denoise:  of an engine, on NumPy arrays
    latency:  t(B) of it; limit: most rows that it takes in a call
    max_rows: most rows of a call; None: as many as make a row cheapest
    clock:    seconds; of a simulation, its own
    """

    def __init__(
        self,
        denoise: Denoise,
        info: ModelInfo,
        latency: Latency,
        *,
        limit: int,
        max_rows: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        on_tick: Callable[[Tick], None] | None = None,
    ) -> None:
        self._info, self._clock, self._on_tick = info, clock, on_tick
        self._pace, self._width, self._beside = Pace(latency, limit, sizes_of(denoise), max_rows), 1.0, 0.0
        self._call = Caller(denoise, info)
        self._evaluator = Evaluator(denoise, info.shape, None, LIKE)
        self._pools: dict[Any, Pool] = {}
        self._hardness = Hardnesses()
        self._came: deque[Job] = deque()
        self._gone: deque[Job] = deque()
        self._queue: list[tuple[float, int, Job]] = []
        self._jobs: dict[int, Job] = {}
        self._taken = 0  # rows that these have in every call
        self._numbers = count(1)
        self._abandoned: Exception | None = None

    def submit(self, job: Job) -> None:
        """Take a job in with the next tick. Raises InputError for one with more rows than a call has, and for labels
        that the model does not take, or is not given."""
        if (job.request.classes is not None) != bool(self._info.num_classes):
            needs = f"needs them, {self._info.describe_labels()}" if self._info.num_classes else "takes none"
            raise InputError(f"labels: this model {needs}")
        if job.least > self.most:
            each = job.least // job.samples
            raise InputError(
                f"seeds: {job.samples} samples take {each} rows each at once, and a call here has {self.most} at most; "
                "ask for fewer samples or a smaller window"
            )
        job.came, job.id = self._clock(), next(self._numbers)
        self._came.append(job)

    def cancel(self, job: Job) -> None:
        """Forget a job with the next tick; its `done` is not called any more then."""
        self._gone.append(job)

    def abandon(self, e: Exception) -> None:
        """Tell everybody this error with the next tick."""
        self._abandoned = e

    @property
    def most(self) -> int:
        """Rows of a call at most."""
        return self._pace.most

    @property
    def waiting(self) -> int:
        """Requests that no call has worked on yet."""
        return len(self._queue) + len(self._came)

    @property
    def in_work(self) -> int:
        """Requests that calls work on."""
        return len(self._jobs)

    @property
    def idle(self) -> bool:
        """Whether a tick would do nothing."""
        return not (self._came or self._gone or self._queue or self._jobs)

    def tick(self) -> None:
        """One call, if there is work, and what follows."""
        begin = self._clock()
        if self._abandoned is not None:
            waiting = [*self._came, *(job for _, _, job in self._queue)]
            self._came.clear()
            self._queue.clear()
            self._fail([*self._jobs.values(), *waiting], self._abandoned)
            self._abandoned = None
        if not any(pool.lanes.size for pool in self._pools.values()):
            self._turn()
            self._begin()
        pools = [pool for pool in self._pools.values() if pool.lanes.size]
        if not pools:
            return
        for pool, widths in zip(pools, self._share(pools), strict=True):
            pool.narrow(widths)
        parts = [Part(pool=pool, asked=pool.ask()) for pool in pools]
        owners, samples = owners_of(parts), sum(len(pool.lanes) for pool in pools)
        called = self._clock()
        try:
            outputs = self._call(parts)
        except Exception as e:  # whatever a runtime raises, those that took part cannot go on, and the others can
            self._fail([self._jobs[number] for number in owners if number in self._jobs], e)
            return
        took = self._clock() - called
        self._pace.saw(self._call.size, took)
        for number in owners:
            self._jobs[number].calls += 1
            self._jobs[number].engine_s += took
        for part, D in zip(parts, outputs, strict=True):
            self._check(part, D)
        self._turn()
        for pool, D in zip(pools, outputs, strict=True):
            self._take(pool, D)
        self._begin()
        now = self._clock()
        for job in [job for job in self._jobs.values() if job.end < now + (now - begin)]:
            self._end(job, job.served(now))  # another call would come too late
        self._pools = {key: pool for key, pool in self._pools.items() if pool.wanted}
        beside = now - begin - took
        self._beside += (beside - self._beside) * (0.1 if self._beside else 1.0)
        if self._on_tick is not None:
            rows = sum(map(len, outputs))
            self._on_tick(Tick(samples=samples, rows=rows, seconds=took, beside=beside, owners=tuple(owners.items())))

    def _turn(self) -> None:
        """Take in who has come, out who has gone, and set how wide the windows are from now on."""
        while self._came:
            job = self._came.popleft()
            heapq.heappush(self._queue, (job.due, job.id, job))
        while self._gone:
            self._end(self._gone.popleft(), None)
        now, room = self._clock(), self._pace.room()
        while self._queue:
            job = self._queue[0][2]
            if job.end <= now:
                self._end(job, BusyError("deadline: it passed before a call was free; allow more, or try again later"))
            if not job.over:
                if self._taken and job.least > room - self._taken:
                    break
                self._admit(job, now)
            heapq.heappop(self._queue)
        work = [
            (int((pool.owner > 0).sum()), job.per_node, pool.plan.evaluations, self._hardness[pool.kind].value)
            for pool, job in {job.pool: job for job in self._jobs.values() if job.pool is not None}.items()
        ]
        if work:
            self._width = self._pace.width(work, beside=self._beside)
        for pool in self._pools.values():
            self._widen(pool)

    def _widen(self, pool: Pool) -> None:
        """Tables wide enough for what each sample may have, in powers of two; narrower ones only where far too wide,
        for a change has its cost."""
        given = int(pool.most.max(where=~pool.auto, initial=1))
        wanted = max(given, ceil(self._width) if pool.auto.any() else 1)
        wide = min(1 << (wanted - 1).bit_length(), pool.plan.evaluations)
        if wide > pool.window or 4 * wide <= pool.window:
            pool.window = wide

    def _share(self, pools: list[Pool]) -> list[Ints]:
        """Nodes of each lane in this call: all that it may have where that is given, else an even share of the rows;
        what is over, or what others cannot use, goes to those that are due first."""
        auto, due, room = (
            np.concatenate(each)
            for each in zip(*((p.auto[p.lanes], p.due[p.lanes], p.room()) for p in pools), strict=True)
        )
        dearest = max((job.per_node for job in self._jobs.values()), default=1)
        widths = np.where(auto, 1, room)
        free = (self.most - self._taken) // dearest
        left = min(round((self._width - 1) * int(auto.sum())), free)
        who = np.flatnonzero(auto & (room > 1))
        who = who[np.argsort(due[who], kind="stable")]
        widths[who] += evenly(left, room[who] - 1)
        return np.split(widths, np.cumsum([len(pool.lanes) for pool in pools])[:-1])

    def _admit(self, job: Job, now: float) -> None:
        request, options = job.request, job.request.options
        key = (request.plan, request.tolerance, options.error_floor, options.acceptance, options.theta, job.per_node)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = make_pool(request, self._evaluator)
        weight = np.nan if options.guidance is None else options.guidance
        for i, seed in enumerate(request.seeds):
            job.places.append(
                pool.add(
                    seed, owner=job.id, most=job.most, auto=request.window == "auto", due=job.due, guidance=weight,
                    label=0 if request.classes is None else int(request.classes[i]),
                    given={name: values[i] for name, values in (request.conditions or {}).items()},
                )
            )  # fmt: skip
        job.pool, job.left, job.began = pool, job.samples, now
        self._jobs[job.id] = job
        self._taken += job.least

    def _begin(self) -> None:
        """Let samples into pools that the call did not work on."""
        for pool in self._pools.values():
            if pool.waiting and not pool.lanes.size:
                pool.begin()

    def _check(self, part: Part, D: NDArray[np.float32]) -> None:
        """End the jobs whose rows are not finite; those of others are as if these were not there."""
        with np.errstate(invalid="ignore", over="ignore"):
            if np.isfinite(D.sum()):
                return
        wrong = ~np.isfinite(D).all(axis=1)
        _, sigma, node, places = part.asked
        for row in np.flatnonzero(wrong).tolist():
            place = int(places[row])
            job = self._jobs.get(int(part.pool.owner[place]))
            if job is not None:
                self._end(
                    job,
                    NumericalError(
                        f"the network returned NaN or infinity at node {node[row]} (sigma = {sigma[row]:.6g}) of "
                        f"sample {job.places.index(place)}; check the model there (ncdeploy verify), or its precision"
                    ),
                )
        D[wrong] = 0.0

    def _take(self, pool: Pool, D: NDArray[np.float32]) -> None:
        sweep = pool.take(D)
        hardness, owners = self._hardness[pool.kind], pool.owner[sweep.lanes]
        for place in sweep.lanes[(owners > 0) & (sweep.accepted[sweep.lanes] >= sweep.nodes)].tolist():
            hardness.saw(pool.widths[place], pool.plan.evaluations)
            self._jobs[int(pool.owner[place])].left -= 1
        for number in dict.fromkeys(owners[owners > 0].tolist()):
            job = self._jobs[number]
            if job.left == 0:
                self._end(job, job.served(self._clock()))
            elif job.watch is not None:
                job.watch(pool.estimate(job.places).reshape((-1, *self._info.shape)))

    def _fail(self, jobs: list[Job], e: Exception) -> None:
        error = e if isinstance(e, NcdeployError) else BackendError(f"the engine failed: {type(e).__name__}: {e}")
        for job in jobs:
            self._end(job, error)
        self._pools = {key: pool for key, pool in self._pools.items() if pool.wanted}

    def _end(self, job: Job, outcome: Any) -> None:
        """Forget a job, and tell it its outcome, unless it was cancelled."""
        if job.over:
            return
        job.over = True
        if self._jobs.pop(job.id, None) is not None and job.pool is not None:
            self._taken -= job.least
            for place in job.places:
                job.pool.leave(place)
        if outcome is not None:
            job.done(outcome)
