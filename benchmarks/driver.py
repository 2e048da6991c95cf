"""What the parallel driver costs beside the network, and what it gains, on a model and ONNX Runtime.

overhead: seconds outside the network over seconds inside it, of the parallel run
gain:     wall time of sequential sampling over that of parallel sampling, run in turn in one process
Medians over the repetitions, with the smallest and the largest.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ncdeploy import make_plan, open_engine, sample

ROWS = (("ddpm", 1000), ("ddim", 1000), ("ddim", 100), ("dpmpp_2m", 25), ("heun", 18))
WINDOW = 32


def table(model: Path, repetitions: int = 5) -> Iterator[str]:
    """Lines of a Markdown table."""
    engine = open_engine(model)
    yield "| plan | samples | window | sweeps | NFE / K | rms to sequential | overhead | gain |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for solver, steps in ROWS:
        plan = make_plan(solver, steps)
        window = min(WINDOW, plan.evaluations)
        for n in (1, 8):
            overheads, gains, errors = [], [], []
            for repetition in range(repetitions):
                seeds = range(n * repetition, n * (repetition + 1))
                exact = sample(engine, plan, seeds=seeds)
                result = sample(engine, plan, seeds=seeds, window=window)
                overheads.append(result.wall_s / result.engine_s - 1)
                gains.append(exact.wall_s / result.wall_s)
                errors.append(np.sqrt(((result.samples - exact.samples) ** 2).reshape(n, -1).mean(1)))
            yield (
                f"| {plan.name} | {n} | {window} | {result.sweeps.mean():.0f} | "
                f"{result.nfe / plan.evaluations:.2f} | {np.median(errors):.0e} | "
                f"{_spread(overheads, '.1%')} | {_spread(gains, '.2f')} |"
            )
    engine.close()


def _spread(values: list[float], form: str) -> str:
    return f"{np.median(values):{form}} ({min(values):{form}} … {max(values):{form}})"
