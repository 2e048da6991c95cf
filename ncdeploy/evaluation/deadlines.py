"""What a deadline costs: how far the samples of runs that are cut short are from those of whole runs.

Every deadline is given to every way of sampling in turn, `repetitions` times over with other seeds. The distance is the
rms to the whole sequential sample of the same seed. Near zero deadlines it is that of the first estimate; from the time
of a whole run on, that of parallel sampling, or nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.auto.latency import Latency
from ncdeploy.backends.base import Backend
from ncdeploy.errors import InputError
from ncdeploy.evaluation.bench import drivers_of, rms, words
from ncdeploy.evaluation.bench_chart import save
from ncdeploy.report import charts
from ncdeploy.result import Result
from ncdeploy.run import SampleOptions, Window, sample
from ncdeploy.sampling.parallel import TOLERANCE
from ncdeploy.sampling.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (8.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One way of sampling under one deadline.

    plan, driver, deadline_s: the setting; ran: the window, None in sequence
    depth:    network calls in a row, mean over the runs
    complete: share of the samples that came to their end
    late_s:   how long after its deadline the latest run ended; 0 if none did
    rms:      to the whole sequential samples, median over the samples
    """

    plan: str
    driver: str
    ran: int | None
    deadline_s: float
    depth: float
    complete: float
    late_s: float
    rms: float


def against_deadlines(
    engine: Backend, plans: Sequence[Plan], windows: Sequence[Window], deadlines: Sequence[float], *, n: int = 1,
    repetitions: int = 5, tolerance: float = TOLERANCE, own: Mapping[str, NDArray[Any]] | None = None,
    latency: Latency | None = None, max_rows: int | None = None, on_run: Callable[[str], None] = lambda _: None,
) -> tuple[Cut, ...]:  # fmt: skip
    """Run every plan, in sequence and with each window, under every deadline.

    windows:   nodes, cut to the evaluations of a plan, or "auto": what it chooses without a deadline
    deadlines: seconds
    own:       labels and conditions by name, [n, ...] each, the same in every repetition
    latency, max_rows: as `bench` takes them; on_run: called with a name before every run

    Raises InputError for a deadline, a count or a tolerance out of range.
    """
    if not plans:
        raise InputError("plans: got none; expected one or more")
    for name, values in (("n", [n]), ("repetitions", [repetitions]), ("deadlines", list(deadlines))):
        if not values or not min(values) > 0:
            raise InputError(f"{name}: got {values}; expected one or more, above 0")
    options = SampleOptions(latency=latency, max_rows=max_rows)
    widest = None if max_rows is None else max(1, max_rows // engine.info.evaluations)

    def run(plan: Plan, window: Window, first: int, how: SampleOptions) -> Result:
        on_run(f"{plan.name} {words(window)}")
        return sample(
            engine, plan, seeds=range(first, first + n), conditions=own, window=window, tolerance=tolerance,
            options=how if window == "auto" else replace(how, latency=None),
        )  # fmt: skip

    cuts = []
    for plan in plans:
        drivers = drivers_of(plan, windows, widest)
        chosen = {w: run(plan, w, 0, options).window if w == "auto" else w for w in drivers}
        found: dict[tuple[Window, float], list[tuple[Result, NDArray[np.float64]]]] = {}
        for first in range(0, repetitions * n, n):
            whole = np.asarray(run(plan, None, first, options).samples)
            for deadline in deadlines:
                for window in drivers:
                    result = run(plan, chosen[window], first, replace(options, deadline=deadline))
                    off = rms(np.asarray(result.samples), whole)
                    found.setdefault((window, deadline), []).append((result, off))
        cuts += [
            Cut(
                plan=plan.name, driver=driver, ran=chosen[window], deadline_s=deadline,
                depth=float(np.mean([result.depth for result, _ in runs])),
                complete=float(np.mean([result.complete for result, _ in runs])),
                late_s=max(0.0, *(result.wall_s - deadline for result, _ in runs)),
                rms=float(np.median([off for _, off in runs])),
            )
            for window, driver in drivers.items() for deadline in deadlines for runs in [found[window, deadline]]
        ]  # fmt: skip
    return tuple(cuts)


def runs_of(plans: int, windows: int, deadlines: int, repetitions: int) -> int:
    """How often `against_deadlines` will call `on_run`, at most."""
    return plans * (1 + repetitions * (1 + deadlines * (windows + 1)))


def write_chart(path: Path, cuts: Sequence[Cut], *, title: str) -> None:
    """The distance over the deadline, one line for every way of sampling. Raises as `bench_chart.check_output`."""
    series: dict[str, list[tuple[float, float]]] = {}
    for cut in cuts:
        series.setdefault(f"{cut.plan}, {cut.driver}", []).append((1e3 * cut.deadline_s, cut.rms))
    lines = charts.curves(series, x_name="deadline, ms", y_name="rms to the whole sample", log_x=True)

    def paint(figure: "Figure") -> None:
        lines(figure)
        figure.axes[0].set_ylim(bottom=0)
        figure.suptitle(title, x=0.01, ha="left")

    save(path, paint, SIZE)
