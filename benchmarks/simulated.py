"""window="auto" against every fixed window and sequential sampling, on engines with a clock of their own.

    python -m benchmarks.simulated [demo/model.onnx]

Samples are those of the model, or of the exact denoiser of digits; what a call takes is a formula of its rows, so that
no machine disturbs the comparison but the one that is simulated to be busy: calls take up to three times as long from
one moment to the next, which auto sees and the figures leave out. The driver is taken to cost nothing. Auto measures
t(B) by the same clock, outside the run. Each figure is the time of the best other way over that of auto, of single
samples.
"""

import argparse
import math
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.law import digits
from ncdeploy import Plan, SampleOptions, make_plan, open_engine, sample
from ncdeploy.auto.forecast import Forecast
from ncdeploy.auto.latency import measure_latency

WINDOWS = (4, 8, 16, 32, 64, 128, 256)
PLANS = (("ddpm", 1000), ("ddim", 100), ("dpmpp_2m", 25), ("dpmpp_2m_sde", 100), ("heun", 18))
ENGINES: dict[str, Callable[[float], float]] = {  # seconds of a call, by its rows
    "staircase": lambda rows: 0.01 * math.ceil(rows / 8),
    "flat": lambda rows: 0.01 + 1e-6 * rows,
    "linear": lambda rows: 0.01 * rows,
    "busy": lambda rows: 0.01 + 0.002 * rows,
    "slow": lambda rows: 0.4 + 0.05 * rows,
}
MOODS = {"busy": (1.0, 2.3, 1.2, 1.7, 1.0, 1.4, 3.0)}  # times as long, 0.7 seconds each
MEDIAN, LEAST = 1.0, 0.92


class Engine:
    """A denoiser that takes as long as it is told to. now: the time; rows: of its calls"""

    def __init__(self, denoise: Any, name: str) -> None:
        self._denoise, self._seconds, self._moods = denoise, ENGINES[name], MOODS.get(name, (1.0,))
        self.info = getattr(denoise, "info", None)
        self.now, self.rows = 0.0, list[int]()

    def __call__(self, x: Any, sigma: Any) -> Any:
        self.rows.append(len(x))
        self.now += self._seconds(len(x)) * self._moods[int(self.now / 0.7) % len(self._moods)]
        return self._denoise(x, sigma)


def calls_of(
    denoise: Any, options: Callable[..., SampleOptions], plan: Plan, window: int | None, seeds: range
) -> list[int]:
    """Rows of the calls of runs of one sample each."""
    engine = Engine(denoise, "flat")
    for seed in seeds:
        sample(engine, plan, seeds=[seed], window=window, options=options())
    return engine.rows


def calls_of_auto(
    denoise: Any, options: Callable[..., SampleOptions], plan: Plan, name: str, seeds: range
) -> tuple[list[int], int | None]:
    """The same on an engine, and the window that was chosen first."""
    engine = Engine(denoise, name)
    with ExitStack() as stack:
        clock = SimpleNamespace(perf_counter=lambda: engine.now)
        for module in ("run", "run.policy", "auto.latency"):
            stack.enter_context(mock.patch.object(import_module(f"ncdeploy.{module}"), "time", clock))
        stack.enter_context(mock.patch.multiple(Forecast, driver=lambda *_: (0.0, 0.0), least_driver=lambda _: 0.0))
        shape = options().shape or denoise.info.shape
        latency = measure_latency(engine, shape=shape, max_rows=1024, like=options().like)
        engine.rows.clear()
        for seed in seeds:
            found = sample(engine, plan, seeds=[seed], window="auto", options=options(latency=latency))
    return engine.rows, found.window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="whose samples are drawn", default=None)
    parser.add_argument("--seeds", type=int, default=4)
    given = parser.parse_args()
    exact, seeds, ratios = digits(), range(given.seeds), list[float]()
    denoise, options = (exact, exact.options) if given.model is None else (open_engine(given.model), SampleOptions)
    print("| plan | " + " | ".join(ENGINES) + " |\n| --- |" + " --- |" * len(ENGINES))
    for solver, steps in PLANS:
        plan, cells = make_plan(solver, steps), []
        fixed = {w: calls_of(denoise, options, plan, w, seeds) for w in (None, *WINDOWS) if (w or 1) < plan.evaluations}
        for name, seconds in ENGINES.items():
            times = {w: sum(map(seconds, rows)) for w, rows in fixed.items()}
            rows, chosen = calls_of_auto(denoise, options, plan, name, seeds)
            best = min(times, key=lambda w: times[w])
            ratios.append(times[best] / sum(map(seconds, rows)))
            cells.append(f"{ratios[-1]:.2f}, {chosen or 'sequential'} beside {best or 'sequential'}")
        print(f"| {plan.name} | " + " | ".join(cells) + " |", flush=True)
    median, least = float(np.median(ratios)), min(ratios)
    print(f"\nMedian {median:.3f} (bar {MEDIAN:.2f}), least {least:.3f} (bar {LEAST}).")
    raise SystemExit(0 if round(median, 2) >= MEDIAN and least >= LEAST else 1)


if __name__ == "__main__":
    main()
