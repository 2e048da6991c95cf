"""Which setting to take, from what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from ncdeploy.errors import InputError
from ncdeploy.evaluation.bench import Row

SLACK = 0.05  # a quality that much above the best counts as the best


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
    """The fastest row of at most this quality value and wall time; of a quality near the best, where none is asked.

    quality: the largest acceptable value (lower is better); budget_s: seconds a run may take; floor: the quality of
    real data, below which rows differ by chance alone, so that all of them count as the best. Where no row meets
    what was asked, the one that comes nearest: the fastest for a budget, the best for a quality. None if no row has
    a quality.
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
    best = min(q for q, _ in affordable)
    if quality is not None and best > quality:
        row = next(row for q, row in affordable if q == best)
        within = "" if budget_s is None else " within the budget"
        return Recommendation(row=row, reason=f"nothing{within} reaches the quality; this comes nearest", met=False)
    limit = max(best * (1 + SLACK), floor or 0.0) if quality is None else quality
    row = min((row for q, row in affordable if q <= limit), key=lambda row: row.wall_s)
    near, as_real = f"the fastest within {SLACK:.0%} of the best quality", "the fastest that is as good as real data"
    reason = {
        (False, False): as_real if limit == floor else near,
        (False, True): f"{as_real}, within the budget" if limit == floor else f"{near} that the budget allows",
        (True, False): "the fastest that reaches the quality",
        (True, True): "the fastest that reaches the quality, within the budget",
    }[quality is not None, budget_s is not None]
    return Recommendation(row=row, reason=reason, met=True)
