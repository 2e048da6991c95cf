"""window="auto" against sequential sampling and against every fixed window, in random turns in one process.

    python -m benchmarks.auto demo/model.onnx
    python -m benchmarks.auto demo/model.onnx --plans ddpm-1000 ddim-1000 --samples 1 --windows 24 64 --repetitions 25
    python -m benchmarks.small unet32 build/unet32 && python -m benchmarks.auto build/unet32/model.onnx --longest 600

auto:    wall time of sequential sampling over that of window="auto", median of pairs (least … largest)
best:    the same for the fastest of the fixed windows, which is too good: it is the best of so many medians
of best: wall time of the best way over that of auto, median of pairs; the best way, a window or sequential sampling, is
         that of the other half of the repetitions
allowed: what the engine's latency t(B) allows for the calls that auto made: K t(n) over the sum of t(rows); the
         geometric mean for t(B) before the row, which auto is given, and after it
Runs of more than 5 s are repeated a fifth as often as --repetitions says, beside every third window. A run that would
take longer than --longest seconds is not timed: the table then shows what auto chose.
"""

import argparse
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from ncdeploy import SampleOptions, make_plan, open_engine, sample
from ncdeploy.auto.latency import Latency, measure_latency
from ncdeploy.auto.tuner import Job, choose
from ncdeploy.backends.base import Backend
from ncdeploy.result import Result
from ncdeploy.run import AUTO_VALUES
from ncdeploy.sampling.parallel import ERROR_FLOOR, TOLERANCE
from ncdeploy.sampling.plan import Floats, Plan

SIZES = (1, 4, 64)
PLANS = (  # and how many samples
    ("ddpm", 1000, SIZES),
    ("ddim", 1000, (1,)),
    ("ddim", 100, SIZES),
    ("dpmpp_2m", 25, SIZES),
    ("dpmpp_2m_sde", 100, (1,)),
)
WINDOWS = (4, 8, 12, 16, 24, 32, 64)
LONGEST = 40.0
_ENOUGH, _MOST = 30.0, 60  # seconds that a row's repetitions take where they are short, and how many there are at most
_LONG, _VERY_LONG = 5.0, 30.0  # seconds of a sequential run, beyond which it is repeated less, beside fewer windows


def table(
    model: Path,
    repetitions: int = 9,
    *,
    longest: float = LONGEST,
    plans: Collection[str] = (),
    samples: Collection[int] = SIZES,
    windows: Sequence[int] = WINDOWS,
) -> Iterator[str]:
    """Lines of a Markdown table; longest: seconds of a run that is still timed; plans: names of those, or all."""
    engine = open_engine(model)
    rows = max(1, AUTO_VALUES // engine.info.dim)

    def tune() -> Latency:
        """As the command does."""
        return measure_latency(engine, shape=engine.info.shape, max_rows=rows, budget=5.0)

    latency = tune()
    one = latency.seconds[0]
    curve = ", ".join(f"{b}: {b * one / s:.2f}" for b, s in zip(latency.rows, latency.seconds, strict=True))
    yield f"A batch of so many rows over its rows one by one, {engine.name}: {curve}."
    yield ""
    yield "| plan | samples | chosen | auto | best fixed window | of best | allowed by t(B) |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for solver, steps, sizes in PLANS:
        plan = make_plan(solver, steps)
        for n in sizes if not plans or plan.name in plans else ():
            if n in samples:
                yield _row(engine, tune, plan, n, repetitions, longest, windows)
    engine.close()


def _row(
    engine: Backend,
    tune: Callable[[], Latency],
    plan: Plan,
    n: int,
    repetitions: int,
    longest: float,
    windows: Sequence[int],
) -> str:
    latency = tune()
    alone = plan.evaluations * latency(n)
    if alone > longest:
        job = Job(
            plan=plan, latency=latency, n=n, tolerance=TOLERANCE, floor=ERROR_FLOOR, scale=engine.info.sigma_data,
            max_rows=latency.asked, values=engine.info.dim,
        )  # fmt: skip
        return f"| {plan.name} | {n} | {choose(job)[0].window or 'sequential'} | not timed | | | |"
    long = alone > _LONG
    shown = windows[:1] if alone > _VERY_LONG else windows[::3] if long else windows
    ways: list[int | str | None] = [None, "auto", *(w for w in shown if w < plan.evaluations)]
    order = np.random.default_rng(0)
    for way in ways if not long else ():
        _run(engine, plan, range(n), way, latency)  # what a first run sets up is kept for the next ones
    enough = min(_MOST, int(_ENOUGH / (alone * len(ways))))
    seconds = np.zeros((max(2, repetitions // 5) if long else max(repetitions, enough), len(ways)))
    calls = []
    for repetition in range(len(seconds)):
        seeds = range(n * repetition, n * (repetition + 1))
        for i in order.permutation(len(ways)):
            seconds[repetition, i], rows, result = _run(engine, plan, seeds, ways[i], latency)
            if ways[i] == "auto":
                calls.append(rows)
                choice = result.choice
    gains = seconds[:, :1] / seconds
    medians = np.median(gains, axis=0)
    best = 2 + int(np.argmax(medians[2:]))
    bounds = [np.median([plan.evaluations * t(n) / sum(map(t, rows)) for rows in calls]) for t in (latency, tune())]
    gain, bound = medians[1], float(np.sqrt(np.prod(bounds)))
    return (
        f"| {plan.name} | {n} | {choice.window or 'sequential'} | "
        f"{gain:.2f} ({gains[:, 1].min():.2f} … {gains[:, 1].max():.2f}) | {medians[best]:.2f} at {ways[best]} | "
        f"{_of_best(seconds):.2f} | {bound:.2f}, reached {gain / bound:.0%} |"
    )


def _of_best(seconds: Floats) -> float:
    """Time [repetition, way] of the best way over that of way 1, in the repetitions that did not find it the best."""
    others = np.delete(seconds, 1, axis=1)
    first = np.arange(len(seconds)) % 2 == 0
    found = []
    for here in (first, ~first):
        gains = others[~here, :1] / others[~here]
        best = int(np.argmax(np.median(gains, axis=0)))
        found.extend(others[here, best] / seconds[here, 1])
    return float(np.median(found))


def _run(
    engine: Backend, plan: Plan, seeds: range, window: int | str | None, latency: Latency
) -> tuple[float, list[int], Result]:
    """Seconds of a run, the rows of its calls, and what it returned."""
    rows: list[int] = []
    options = SampleOptions(latency=latency if window == "auto" else None, on_sweep=lambda s: rows.append(s.rows))
    start = time.perf_counter()
    result = sample(engine, plan, seeds=seeds, window=window, options=options)
    return time.perf_counter() - start, rows, result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=Path, default=[Path("demo/model.onnx")])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--longest", type=float, default=LONGEST)
    parser.add_argument("--plans", nargs="+", choices=[f"{solver}-{steps}" for solver, steps, _ in PLANS], default=())
    parser.add_argument("--samples", nargs="+", type=int, choices=SIZES, default=SIZES)
    parser.add_argument("--windows", nargs="+", type=int, default=WINDOWS)
    given = vars(parser.parse_args())
    for path in given.pop("models"):
        for line in table(path, **given):
            print(line, flush=True)
