"""What a comparison found."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Level:
    """Largest |difference| of D at one sigma, in model units, and how much is allowed there."""

    sigma: float
    max_abs: float
    allowed: float


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One plan run on both: the largest rms difference of a finished sample, and of any state on the way.

    Each over the rms of the reference's state where that is above 1 (or above the data's std, if that is above 1).
    """

    plan: str
    final_rms: float
    worst_node_rms: float


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The outcome. The worst place is where the difference is largest relative to what is allowed there.

    worst_row is a row of a batch of worst_batch rows. NaN counts as an infinite difference.
    """

    reference: str
    candidate: str
    tolerance: float
    trajectory_tolerance: float
    max_abs: float
    worst_sigma: float
    worst_row: int
    worst_batch: int
    levels: tuple[Level, ...]
    trajectories: tuple[Trajectory, ...]

    @property
    def trajectory_rms(self) -> float:
        """The largest final rms over the plans."""
        return max(t.final_rms for t in self.trajectories)

    @property
    def ok(self) -> bool:
        """Whether every level and every trajectory is within tolerance."""
        nodes = max(t.worst_node_rms for t in self.trajectories)
        trajectory = max(self.trajectory_rms, nodes) <= self.trajectory_tolerance
        return trajectory and all(level.max_abs <= level.allowed for level in self.levels)

    @property
    def summary(self) -> str:
        """One line."""
        level = next(level for level in self.levels if level.sigma == self.worst_sigma)
        worst = f"max |difference| {self.max_abs:.2g}, worst at sigma {level.sigma:.4g}"
        found = f"{level.max_abs:.2g} where {level.allowed:.2g} is allowed"
        where = f"row {self.worst_row} of a batch of {self.worst_batch}"
        plans = ", ".join(f"{t.plan} {max(t.final_rms, t.worst_node_rms):.2g}" for t in self.trajectories)
        limits = f"tolerances {self.tolerance:g}, at high sigma more, and {self.trajectory_tolerance:g}"
        return f"{worst}: {found} ({where}); trajectory rms {plans}; {limits}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: all fields, ok, trajectory_rms and summary. None stands for a difference that is not finite."""
        record = {"ok": self.ok, "trajectory_rms": self.trajectory_rms, "summary": self.summary, **asdict(self)}
        return {name: _finite(value) for name, value in record.items()}


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, tuple):
        return [{name: _finite(inner) for name, inner in row.items()} for row in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
