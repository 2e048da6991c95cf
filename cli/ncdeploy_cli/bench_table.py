"""The table of `ncdeploy bench`."""

import math
from typing import TYPE_CHECKING

from ncdeploy_cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.evaluation.bench import Bench, Row
    from ncdeploy.evaluation.recommend import Recommendation


def table(found: "Bench", advice: "Recommendation | None") -> "Table":
    """Every way of sampling, the recommended one in bold."""
    from rich import box
    from rich.table import Table

    caption = f"quality of {console.samples(found.judged)}, lower is better: {found.measure}"
    if any(row.window is not None for row in found.rows):
        caption = f"gain: sequential time over this one's; rms: to the sequential samples\n{caption}"
    if found.floor is not None:
        caption += f";\nup to {found.floor:.2g} it cannot be told from real data"
    made = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left",
        title=f"{found.engine}, {console.samples(found.n)} at once, median of {found.repetitions} runs",
        title_style="bold", caption=caption, caption_style="",
    )  # fmt: skip
    made.add_column("", no_wrap=True)
    for name in ("depth", "NFE", "time", "gain", "rms", "quality"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        gain, low, high = row.gain
        made.add_row(
            _label(row),
            f"{row.depth:.0f}",
            f"{row.nfe:.0f}",
            console.duration(row.wall_s),
            "" if row.window is None else f"{gain:.2f} ({low:.1f}–{high:.1f})",
            "" if row.rms is None else f"{row.rms:.0e}" if row.rms else "0",
            "–" if row.quality is None else _with_error(row.quality, row.error),
            style="bold" if advice is not None and row is advice.row else None,
        )
    return made


def _label(row: "Row") -> str:
    if row.window is None:
        return row.plan
    if row.window != "auto":
        return f" {row.driver}"
    return " auto: sequential" if row.ran is None else f" auto: window {row.ran}"


def _with_error(value: float, error: float | None) -> str:
    """A value to the digits that its standard error leaves: 0.0123 ± 0.0008."""
    if not error or not 1e-4 <= error < 1e4:
        return f"{value:.2g} ± {error or 0:.0e}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
