"""Which setting to take, from what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from ncdeploy.errors import InputError
from ncdeploy.evaluation.bench import Row

SLACK = 0.05  # a quality that much above the best counts as the best,
ERRORS = 2.0  # and so does one whose difference to it is within so many of its standard errors


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The row to take, why, and whether it meets what was asked for."""

    row: Row
    reason: str
    met: bool


def check_targets(*, quality: float | None, budget_s: float | None) -> None:
    """Raise InputError for targets that are not positive, before anything is measured for them."""
    for name, value in (("quality", quality), ("budget", budget_s)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name}: got {value}, expected a positive number")


def recommend(
    rows: Sequence[Row], *, quality: float | None = None, budget_s: float | None = None, floor: float | None = None
) -> Recommendation | None:
    """The fastest row of at most this quality value; where none is asked, the best, or the fastest that is as good.

    quality: the largest acceptable value (lower is better); budget_s: seconds a run may take; floor: the quality from
    which on one can be told from real data's. Where no row meets what was asked, the one that comes nearest: the
    fastest for a budget, the best for a quality. None if no row has a quality.
    Raises InputError for targets that are not positive.
    """
    check_targets(quality=quality, budget_s=budget_s)
    judged = [(row.quality, row) for row in rows if row.quality is not None]
    if not judged:
        return None
    affordable = [(q, row) for q, row in judged if budget_s is None or row.wall_s <= budget_s]
    if not affordable:
        row = min((row for _, row in judged), key=lambda row: row.wall_s)
        return Recommendation(row=row, reason="nothing is within the budget; this is the fastest", met=False)
    best, leader = min(affordable, key=lambda pair: pair[0])
    within = "" if budget_s is None else " within the budget"
    if quality is not None:
        if best > quality:
            return Recommendation(
                row=leader, reason=f"nothing{within} reaches the quality; this comes nearest", met=False
            )
        row = min((row for q, row in affordable if q <= quality), key=lambda row: row.wall_s)
        return Recommendation(row=row, reason=f"the fastest{within} that reaches the quality", met=True)
    row = min((row for _, row in affordable if _as_good(row, leader)), key=lambda row: row.wall_s)
    reason = f"the best{within}" if row is leader else f"the fastest{within} that cannot be told from the best"
    if floor is not None and best <= floor:
        reason += "; so many samples cannot tell the best from real data"
    return Recommendation(row=row, reason=reason, met=True)


def _as_good(row: Row, best: Row) -> bool:
    """Whether a row's quality is near the best, or further above it only as chance would have it."""
    if row.quality is None or best.quality is None:
        return False
    if row.estimate is None or best.estimate is None:
        return row.quality <= best.quality + SLACK * abs(best.quality)
    difference, error = row.estimate.beyond(best.estimate)
    return difference <= max(SLACK * abs(best.quality), ERRORS * error)
