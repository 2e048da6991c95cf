"""Serving in process, for asyncio: `async with Server.open("bundle/") as server: await server.sample(seeds=[0])`.

The loop of the engine has a thread of its own; another one checks requests and runs encoder and decoder, so that
neither the event loop nor the engine waits for them.
"""

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from math import ceil
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ncdeploy.auto.kept import tune
from ncdeploy.auto.latency import Latency
from ncdeploy.backends import open_engine
from ncdeploy.backends.base import Backend
from ncdeploy.errors import BusyError, InputError
from ncdeploy.formats.bundle import BundledPlan, open_bundle
from ncdeploy.formats.filetype import is_bundle
from ncdeploy.run import AUTO_VALUES, SampleOptions, Window
from ncdeploy.run.request import Conditions, check
from ncdeploy.sampling.parallel import TOLERANCE
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.solvers import FILES
from ncdeploy.serving.job import Job, Served
from ncdeploy.serving.scheduler import Scheduler, Tick

QUEUE = 512
_KEPT = 240  # calls that are remembered for whoever looks
_MOST_STEPS = 4096  # of a plan that a request describes


class Server:
    """Draws samples for many callers at once with one engine, whose calls hold rows of all of them.

    Attributes:
        engine: as `ncdeploy.open_engine` returns it; closed with the server
        latency: of it, see `ncdeploy.measure_latency`
        plans: by name, those of its bundle; the first is the one to use if none is asked for
        max_rows: most rows of x in a network call; None: as many as make a row cheapest
        queue: most requests that wait; another one is refused with BusyError
        on_tick, on_done: called after every call and every request, in the engine's and the event loop's thread
    """

    def __init__(
        self,
        engine: Backend,
        latency: Latency,
        *,
        plans: Mapping[str, BundledPlan] | None = None,
        max_rows: int | None = None,
        queue: int = QUEUE,
        on_tick: Callable[[Tick], None] | None = None,
    ) -> None:
        if queue < 1:
            raise InputError(f"queue: got {queue}; expected at least 1 request")
        if max_rows is not None and max_rows < 1:
            raise InputError(f"max_rows: got {max_rows}; expected at least 1 row")
        self.engine, self.info, self.latency, self.plans = engine, engine.info, latency, dict(plans or {})
        self.queue, self.on_tick = queue, on_tick
        self.ticks: deque[Tick] = deque(maxlen=_KEPT)
        self._seconds = 0.0  # of a request, lately
        self._scheduler = Scheduler(
            engine, engine.info, latency, limit=row_limit(engine), max_rows=max_rows, on_tick=self._ticked
        )
        self._made = lru_cache(maxsize=64)(lambda solver, steps: engine.info.plan(solver, steps))
        self._wake, self._closing = threading.Event(), False
        self._beside = ThreadPoolExecutor(1, "ncdeploy-checks")
        self._thread = threading.Thread(target=self._work, name="ncdeploy-engine", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
        mode: str | None = None,
        max_rows: int | None = None,
        queue: int = QUEUE,
    ) -> Self:
        """The server of a bundle, or of another file that `ncdeploy.open_engine` takes. Its latency is measured unless
        it is known from an earlier time.

        Raises as `ncdeploy.open_engine` does.
        """
        bundle = open_bundle(path) if is_bundle(path) else None
        engine = open_engine(bundle or path, device=device, threads=threads, mode=mode)
        latency = tune(path, engine, max_rows=row_limit(engine), threads=threads)
        return cls(engine, latency, plans=bundle.plans if bundle else None, max_rows=max_rows, queue=queue)

    async def sample(
        self,
        plan: Plan | str | None = None,
        *,
        seeds: Sequence[int],
        conditions: Conditions | None = None,
        window: Window = "auto",
        tolerance: float | None = None,
        guidance: float | None = None,
        acceptance: str = "pathwise",
        deadline: float | None = None,
        priority: int = 0,
        watch: Callable[[NDArray[Any]], None] | None = None,
    ) -> Served:
        """One sample per seed, as `ncdeploy.sample` draws them; whoever stops waiting stops the work.

        plan:      one of the bundle's by name, "ddim-50" for a solver and its steps, or a Plan; None: the bundle's
                   first, or the model's own
        window:    None, a number, or "auto": as the load of the engine allows
        tolerance: None: that of the bundle's plan, or the usual
        guidance, acceptance, deadline: as in `SampleOptions`; the deadline counts from now on
        priority:  -10 to 10; each is worth as much as having come 10 seconds earlier
        watch:     called from the event loop after every network call with the samples as known, [n, *shape]

        Raises InputError for what does not fit, BusyError when too much is waiting or the deadline passed before a
        call was free, NumericalError when the network returned NaN or infinity, BackendError when it failed.
        """
        if self._closing:
            raise BusyError("the server is closing; ask another one")
        loop = asyncio.get_running_loop()
        chosen, known = self._plan(plan)
        options = SampleOptions(
            guidance=guidance, acceptance=acceptance, deadline=deadline, like=np.zeros((), np.float32),  # type: ignore[arg-type]
            latency=self.latency if window == "auto" else None,
        )  # fmt: skip
        tolerance = known if tolerance is None else tolerance
        request = await loop.run_in_executor(
            self._beside, lambda: check(self.engine, chosen, seeds, conditions, window, tolerance, options)
        )
        if self._scheduler.waiting >= self.queue:
            raise BusyError(f"{self.queue} requests are waiting; try again in {self.retry_after()} s")
        answer: asyncio.Future[Served] = loop.create_future()

        def settle(outcome: Any) -> None:
            if not answer.done():
                answer.set_exception(outcome) if isinstance(outcome, Exception) else answer.set_result(outcome)

        def tell(function: Callable[[Any], None]) -> Callable[[Any], None]:
            def later(value: Any) -> None:
                with contextlib.suppress(RuntimeError):  # the event loop is gone, and with it whoever waited
                    loop.call_soon_threadsafe(function, value)

            return later

        job = Job(request=request, done=tell(settle), watch=None if watch is None else tell(watch), priority=priority)
        self._scheduler.submit(job)
        self._wake.set()
        try:
            served = await answer
        except asyncio.CancelledError:
            self._scheduler.cancel(job)
            self._wake.set()
            raise
        self._seconds += (served.wall_s - self._seconds) * (0.1 if self._seconds else 1.0)
        if request.decoder is None:
            return served
        decoder = request.decoder
        (decoded,) = (await loop.run_in_executor(self._beside, lambda: decoder({"x": served.samples}))).values()
        return replace(served, decoded=decoded)

    @property
    def waiting(self) -> int:
        """Requests that no call has worked on yet."""
        return self._scheduler.waiting

    @property
    def in_work(self) -> int:
        """Requests that calls work on."""
        return self._scheduler.in_work

    @property
    def most(self) -> int:
        """Rows of a network call at most; a request may have as many samples."""
        return self._scheduler.most

    def retry_after(self) -> int:
        """Seconds after which a request that is refused now may be taken."""
        return max(1, min(60, ceil(self._seconds)))

    async def close(self, *, drain: float | None = None) -> None:
        """Take no more requests, end those that there are, and close the engine.

        drain: seconds after which those that are left are told that it closes; None: all are waited for
        """
        self._closing = True
        self._wake.set()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._thread.join, drain)
        if self._thread.is_alive():
            self._scheduler.abandon(BusyError("the server is closing; ask another one"))
            self._wake.set()
            await loop.run_in_executor(None, self._thread.join)
        self._beside.shutdown()
        for each in (self.engine, self.engine.encoder, self.engine.decoder):
            if each is not None:
                each.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _plan(self, plan: Plan | str | None) -> tuple[Plan, float]:
        """The plan that is meant, and its tolerance."""
        if isinstance(plan, Plan):
            return plan, TOLERANCE
        if self.plans and (plan is None or plan in self.plans):
            stored = self.plans[plan or next(iter(self.plans))]
            return stored.plan, stored.tolerance
        solver, _, steps = (plan or "").rpartition("-")
        if plan is not None and not (solver in FILES and steps.isdecimal() and 0 < int(steps) <= _MOST_STEPS):
            known = f"its plans are {', '.join(self.plans)}; " if self.plans else ""
            raise InputError(
                f"plan: got {plan[:60]!a}; {known}expected a solver and its steps up to {_MOST_STEPS}, such as "
                f"ddim-50, of {', '.join(FILES)}"
            )
        made: Plan = self._made(solver or None, int(steps) if steps else None)
        return made, TOLERANCE

    def _ticked(self, tick: Tick) -> None:
        self.ticks.append(tick)
        if self.on_tick is not None:
            self.on_tick(tick)

    def _work(self) -> None:
        while True:
            if self._scheduler.idle:
                if self._closing:
                    return
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                self._scheduler.tick()
            except Exception as e:  # a fault here must not leave anybody waiting for ever
                self._scheduler.abandon(e)
                self._scheduler.tick()


def row_limit(engine: Backend) -> int:
    """Most rows of x in a call of an engine: its own limit, or as many as have a quarter of a million values."""
    own = getattr(engine, "max_rows", None)
    return max(1, AUTO_VALUES // engine.info.dim if own is None else int(own))
