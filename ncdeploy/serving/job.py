"""One request: what it asks for, and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError, NcdeployError
from ncdeploy.guidance import Guided
from ncdeploy.result import Result
from ncdeploy.run.request import Request
from ncdeploy.serving.pool import LawPool, Pool

PATIENCE = 10.0  # seconds that a request without a deadline is taken to have
MOST_PRIORITY = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Served(Result):
    """A Result, and how it came about beside others. `depth` counts the calls that the request took part in, `engine_s`
    their time; `energy` is not measured.

    Attributes:
        waited_s: seconds until the first of those calls; wall_s from the beginning, that included
        widths: for each sample the evaluated nodes in each of its sweeps. They depend on the load for window="auto"
    """

    waited_s: float = 0.0
    widths: tuple[tuple[int, ...], ...] = ()


@dataclass(kw_only=True, eq=False)
class Job:
    """A checked request in the hands of a scheduler.

    done:     called once, by the scheduler's thread, with a Served or an error; not for a cancelled job
    watch:    called after every call that it took part in, with all samples as known, [n, *shape]
    priority: each is worth being PATIENCE seconds older
    came:     seconds of the scheduler's clock
    """

    request: Request
    done: Callable[[Served | NcdeployError], None]
    watch: Callable[[NDArray[Any]], None] | None = None
    priority: int = 0
    came: float = 0.0

    id: int = 0
    pool: Pool | None = None
    places: list[int] = field(default_factory=list)
    left: int = 0
    calls: int = 0
    engine_s: float = 0.0
    began: float = 0.0
    over: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.priority, bool) or not isinstance(self.priority, int) or abs(self.priority) > MOST_PRIORITY:
            raise InputError(f"priority: got {self.priority!r}; expected {-MOST_PRIORITY} to {MOST_PRIORITY}")
        if self.request.start is not None or self.request.options.keep:
            raise InputError("start, keep: trajectories stay with whoever draws alone; leave them out")

    @property
    def samples(self) -> int:
        """How many it wants."""
        return len(self.request.seeds)

    @property
    def end(self) -> float:
        """When it should end, infinity without a deadline."""
        deadline = self.request.options.deadline
        return inf if deadline is None else self.came + deadline

    @property
    def due(self) -> float:
        """Who is due first goes first. It never changes, so that later requests do not overtake for ever."""
        return (self.end if isfinite(self.end) else self.came + PATIENCE) - PATIENCE * self.priority

    @property
    def most(self) -> int:
        """Nodes that the window of one of its samples may have."""
        window = self.request.window
        return 1 if window is None else self.request.plan.evaluations if window == "auto" else int(window)

    @property
    def per_node(self) -> int:
        """Rows that the engine is called with for each node of a sample."""
        return self.request.denoise.calls_rows if isinstance(self.request.denoise, Guided) else 1

    @property
    def least(self) -> int:
        """Rows that it has in every call."""
        return self.samples * self.per_node * (1 if self.request.window == "auto" else self.most)

    def served(self, now: float) -> Served:
        """What is known of its samples now."""
        request, pool, places = self.request, self.pool, self.places
        assert pool is not None  # a job that was admitted
        complete = np.array([pool.ended(place) for place in places])
        samples = pool.samples[places] if complete.all() else pool.estimate(places)
        law = pool if isinstance(pool, LawPool) else None
        rows = sum(sum(pool.widths[place]) for place in places)
        return Served(
            samples=samples.reshape((-1, *request.shape)).copy(),
            depth=self.calls,
            nfe=rows * request.per_row / self.samples,
            sweeps=pool.sweeps[places],
            residual=self._residual(pool, complete),
            wall_s=now - self.came,
            engine_s=self.engine_s,
            window=request.window if isinstance(request.window, int) else None,
            rejections=None if law is None else law.rejected[places],
            rejection_odds=None if law is None else law.odds[places],
            complete=None if request.options.deadline is None else complete,
            info=request.info,
            labels=request.classes,
            waited_s=self.began - self.came,
            widths=tuple(tuple(pool.widths[place]) for place in places),
        )

    def _residual(self, pool: Pool, complete: NDArray[np.bool_]) -> NDArray[np.float64]:
        """As `Result` says: of a sample that has not ended, the largest of the nodes left in its window, where one
        knows."""
        accepted = np.array(pool.residual[self.places])
        if self.request.window is None:
            return np.where(complete, 0.0, inf)
        known = self.request.options.acceptance == "pathwise" and not np.isin(self.places, pool.waiting).any()
        return np.where(complete, accepted, np.maximum(accepted, pool.last[self.places]) if known else inf)
