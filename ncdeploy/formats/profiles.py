"""How many rows an engine takes: one range for sequential sampling, one for parallel, each tuned at its optimum."""

from collections.abc import Sequence
from dataclasses import dataclass

from ncdeploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Rows of one call: least, those it is tuned for, most."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise InputError(
                f"profile: got {self.least}, {self.best}, {self.most} rows; expected 1 <= least <= best <= most"
            )


def profiles_for(max_samples: int, max_window: int, window: int) -> tuple[Profile, ...]:
    """The profiles for at most `max_samples` samples at once, each with a window of at most `max_window` nodes.

    The first serves sequential sampling, one row a sample, and the end of a parallel run; the second, absent if no
    window is wanted (max_window 1), is tuned for `max_samples` windows of `window` nodes.

    Raises InputError for sizes that are not positive or a window beyond the largest.
    """
    if max_samples < 1 or max_window < 1:
        raise InputError(f"max_samples, max_window: got {max_samples} and {max_window}, expected at least 1")
    if not 1 <= window <= max_window:
        raise InputError(f"window: got {window}, expected 1 to max_window, {max_window}")
    small = Profile(least=1, best=max_samples, most=max_samples)
    if max_window == 1:
        return (small,)
    most = max_samples * max_window
    return small, Profile(least=max_samples + 1, best=max(max_samples * window, max_samples + 1), most=most)


def samples_of(profiles: Sequence[Profile]) -> Profile:
    """Samples whose conditions one call may have: `max_samples`, of which guidance around an engine makes two each."""
    most = profiles[0].most
    return Profile(least=1, best=most, most=2 * most)


def choose(profiles: Sequence[Profile], rows: int) -> int:
    """The index of the profile that takes this many rows.

    Raises InputError if none does, saying what the engine takes.
    """
    for index, profile in enumerate(profiles):
        if profile.least <= rows <= profile.most:
            return index
    raise InputError(
        f"x: got {rows} rows; this engine takes 1 to {profiles[-1].most}. Use --rows {profiles[-1].most}, "
        "or build it with a larger --max-samples or --max-window"
    )
