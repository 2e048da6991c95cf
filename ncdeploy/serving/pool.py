"""Samples of one plan that come and go: the parallel driver, with a place for every sample in work.

A place is an index into the arrays that the driver keeps a sample in; when its sample is gone it is given to another.
Windows are as wide as the tables at most, and narrower for each lane as it is told, from call to call at no cost.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.run.request import Request
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.law import LawRun
from ncdeploy.sampling.parallel import Asked, Ints, ParallelRun
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.result import Sweep

_FIRST = 16  # places to begin with
LIKE = np.zeros((), np.float32)


class Pool(ParallelRun):
    """As ParallelRun, on NumPy arrays, for samples that are not known beforehand.

    By place:
    owner:    int64, whose sample it is; 0 when nobody wants it any more
    most:     int64, nodes that its window may have; auto: whether the load decides how many it has
    due:      float64, when it should be done
    labels:   int64; guidance: float32, NaN for none; given: the values of its conditions
    last:     float64, largest residual of its last sweep, accepted or not
    widths:   evaluated nodes in each of its sweeps: with these a run alone gives the same sample
    """

    _by_place: tuple[str, ...] = (
        "samples", "sweeps", "residual", "accepted", "owner", "most", "auto", "due", "labels", "guidance", "last",
    )  # fmt: skip

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, seeds=[0] * _FIRST, lanes=0, **settings)
        self.waiting.clear()
        self._free = list(range(_FIRST))
        self.owner, self.most, self.labels = (np.zeros(_FIRST, np.int64) for _ in range(3))
        self.due, self.last = (np.zeros(_FIRST) for _ in range(2))
        self.auto, self.guidance = np.zeros(_FIRST, bool), np.zeros(_FIRST, np.float32)
        self.given: list[dict[str, NDArray[Any]]] = [{} for _ in range(_FIRST)]
        self.widths: list[list[int]] = [[] for _ in range(_FIRST)]

    def add(
        self,
        seed: int,
        *,
        owner: int,
        most: int,
        auto: bool,
        due: float,
        label: int,
        guidance: float,
        given: dict[str, NDArray[Any]],
    ) -> int:
        """A place for a sample, which the next slide lets in."""
        if not self._free:
            self._grow(len(self.seeds))
        place = self._free.pop()
        for name in self._by_place:
            getattr(self, name)[place] = 0
        self.seeds[place], self.given[place], self.widths[place] = seed, given, []
        self.owner[place], self.most[place], self.auto[place], self.due[place] = owner, most, auto, due
        self.labels[place], self.guidance[place] = label, guidance
        self.waiting.append(place)
        self.capacity += 1
        return place

    def leave(self, place: int) -> None:
        """Nobody wants the sample any more. If it has not ended, it goes with the next slide."""
        self.owner[place], self.most[place], self.auto[place] = 0, 1, False
        if self.ended(place):
            self._release(place)

    def ended(self, place: int) -> bool:
        """Whether the sample is accepted to its last node."""
        return bool(self.accepted[place] >= len(self.plan))

    @property
    def kind(self) -> tuple[Plan, bool]:
        """What its hardness depends on: the plan, and whether samples are accepted in law."""
        return self.plan, isinstance(self, LawPool)

    @property
    def wanted(self) -> bool:
        """Whether any sample has an owner."""
        return bool(self.owner.any())

    def room(self) -> Ints:
        """Nodes that each lane could have evaluated in this sweep."""
        full: Ints = self.tables.rank[self.stop] - self.tables.rank[self.base]
        return np.minimum(full, self.most[self.lanes])

    def narrow(self, widths: Ints) -> None:
        """Evaluate so many nodes of each lane in this sweep, of those that there is room for."""
        t, rank = self.tables, self.tables.rank[self.base]
        self.stop = np.minimum(self.stop, t.ranked[np.minimum(rank + widths, len(t.ranked) - 1)])
        for lane, width in zip(self.lanes.tolist(), (t.rank[self.stop] - rank).tolist(), strict=True):
            self.widths[lane].append(width)

    def ask(self) -> Asked:
        """As in ParallelRun, with the place of every row."""
        x, sigma, node, place = super().ask()
        return x, sigma, node, np.broadcast_to(place, node.shape)

    def take(self, outputs: Any) -> Sweep:
        """As in ParallelRun."""
        sweep = super().take(outputs)
        self.last[sweep.lanes] = sweep.residual.max(axis=1, initial=0.0)
        return sweep

    def estimate(self, places: list[int]) -> NDArray[Any]:
        """[n, dim]: samples as known now; of one that has not begun, the mean."""
        known: NDArray[Any] = self._estimate().reshape((-1, self.dim))[places]
        known[np.isin(places, np.asarray(self.waiting, np.int64))] = self.mean
        return known

    def _slide(self, keep: Ints, accepted: Ints, steady: Ints | None) -> None:
        unwanted = [place for place in self.waiting if not self.owner[place]]
        going = self.owner[self.lanes[keep]] == 0
        unwanted += self.lanes[keep[going]].tolist()
        for place in unwanted:
            if place in self.waiting:
                self.waiting.remove(place)
            self._release(place)
        super()._slide(keep[~going], accepted, steady)

    def _fill(self) -> None:
        """Whoever makes the calls fills them."""

    def _release(self, place: int) -> None:
        self.given[place] = {}
        self._free.append(place)
        self.capacity -= 1

    def _grow(self, more: int) -> None:
        first = len(self.seeds)
        for name in self._by_place:
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))
        self.seeds.extend([0] * more)
        self.given.extend({} for _ in range(more))
        self.widths.extend([] for _ in range(more))
        self._free.extend(range(first, first + more))


class LawPool(Pool, LawRun):
    """As LawRun."""

    _by_place = (*Pool._by_place, "rejected", "attempted", "odds", "_ahead")


def make_pool(request: Request, evaluator: Evaluator) -> Pool:
    """A pool for the plan of a request, and for whatever else agrees in these settings."""
    settings: dict[str, Any] = {
        "dim": request.dim, "window": 1, "tolerance": request.tolerance, "floor": request.options.error_floor,
        "curve": request.error_curve, "mean": request.mean, "like": LIKE,
    }  # fmt: skip
    if request.options.acceptance == "law":
        return LawPool(evaluator, request.plan, theta=request.options.theta, **settings)
    return Pool(evaluator, request.plan, **settings)
