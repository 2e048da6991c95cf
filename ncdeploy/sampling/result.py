"""What a sampling run tells: its choice of a window, and its state after every network call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Choice:
    """window: None for sequential; lanes: samples worked on at once; sweeps: predicted, of a sample

    Attributes:
        seconds, sequential: predicted, of the run as chosen and of the best sequential one
    """

    window: int | None
    lanes: int
    sweeps: float
    seconds: float
    sequential: float

    def __str__(self) -> str:
        if self.window is None:
            return "sequential: no window is predicted to be faster on this engine"
        gain = self.sequential / self.seconds
        return f"window {self.window}: {self.sweeps:.0f} sweeps predicted, {gain:.1f} x faster than sequential"


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """Where a run went, to start a later one of the same plan and seeds from.

    Attributes:
        plan, seeds: of the run
        outputs: [n, nodes, d], D at every node that was evaluated, array kind of the run
    """

    plan: Plan
    seeds: tuple[int, ...]
    outputs: Any


@dataclass(kw_only=True, eq=False, slots=True)
class Sweep:
    """The state after one network call.

    Attributes:
        calls: network calls so far
        rows: nodes evaluated in this call (with guidance the network sees twice as many)
        accepted: int64 [n], nodes of each sample that are final
        nodes: how many there are
        lanes: int64 [m], the samples this call worked on
        base: int64 [m], their first node
        residual: float64 [m, span], change of node base + 1 + i over its noise level; 0 behind the window
    """

    calls: int
    rows: int
    accepted: NDArray[np.int64]
    nodes: int
    lanes: NDArray[np.int64]
    base: NDArray[np.int64]
    residual: NDArray[np.float64]
    _estimate: Callable[[], Any]

    def estimate(self) -> Any:
        """[n, *shape]: every sample as known now: the sample itself, or the last D in its window.

        Valid until the next sweep.
        """
        return self._estimate()
