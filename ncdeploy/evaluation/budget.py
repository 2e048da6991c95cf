"""How much work an estimate of a likelihood may take."""

import math
from dataclasses import dataclass

from ncdeploy.errors import InputError

FEWEST = 16  # repeats from which on it pays to fit a control variate to them
_MARGIN, _MOST = 1.25, 16  # on the repeats that a goal takes, since the error is uncertain; and the most, in budgets


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to spend on one point: `repeats` independent grids of `levels` noise levels, two signs of noise each.

    A point costs 2 * repeats * levels rows of the network, for a ratio twice that; `rows` is the most in one call. The
    repeats give the standard error. A point where that is above `goal`, in nats per dimension, gets up to sixteen
    times the repeats; the default rarely needs more but far outside the data. For a mean over many points far less will
    do, and no goal. Up to 64 dimensions, 64 levels have noise in all of them.
    """

    repeats: int = 32
    levels: int = 64
    rows: int = 4096
    goal: float | None = 0.01

    def __post_init__(self) -> None:
        if self.repeats < 2 or self.levels < 2 or self.rows < 1 or not (self.goal is None or self.goal > 0):
            raise InputError(
                f"budget: got {self.repeats} repeats of {self.levels} levels, {self.rows} rows a call, goal "
                f"{self.goal}; expected at least 2, 2 and 1, and a positive goal or none"
            )

    def further(self, done: int, error: float, dim: int) -> int:
        """Repeats to add to those `done`, which left that standard error in nats; 0 when there is nothing to add."""
        missed = 0.0 if self.goal is None else (error / (self.goal * dim)) ** 2
        room = _MOST * self.repeats - done
        if missed <= 1 or room < FEWEST:
            return 0
        return min(room, max(FEWEST, math.ceil(done * (_MARGIN * missed - 1))))
