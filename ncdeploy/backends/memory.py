"""When a device or the host has too little memory: half the window, and on."""

from collections.abc import Callable
from typing import Any, TypeVar

from ncdeploy.errors import OutOfMemoryError

Result = TypeVar("Result")


def halve_until_it_fits(
    run: Callable[[Any, int], Result],
    *,
    window: int | str | None,
    samples: int,
    rows: int,
    per_node: int = 1,
    say: Callable[[str], None],
) -> Result:
    """run(window, rows), with half the window whenever memory does not suffice, then with half the samples at once.

    window:   nodes per sample and call, None for sequential, "auto" if it follows from the rows
    samples:  in all; rows: most rows of one call, per_node of them for an evaluation of D
    say:      is told what is tried next, in one line

    The samples are the same up to the tolerance, which no window changes. Raises OutOfMemoryError if one evaluation
    does not fit.
    """
    while True:
        try:
            return run(window, rows)
        except (OutOfMemoryError, MemoryError) as e:
            if isinstance(window, int):
                rows, window = min(rows, samples * window * per_node), max(1, window // 2)
            elif window is None:
                rows = min(rows, samples * per_node)
            why = str(e) or "the host is out of memory"
            if rows <= per_node:
                raise OutOfMemoryError(why) from e
            rows = max(rows // 2, (window if isinstance(window, int) else 1) * per_node)
            what = f"a window of {window} and " if isinstance(window, int) else ""
            say(f"{why}; going on with {what}at most {rows} rows in a call")
