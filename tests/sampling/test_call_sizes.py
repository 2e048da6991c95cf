"""An engine with call sizes is asked for few of them, fills its calls, and is as fast as one that takes any size."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from ncdeploy import Plan, SampleOptions, make_plan, sample
from ncdeploy.auto.latency import Latency, measure_latency
from ncdeploy.auto.rehearsal import rehearse
from ncdeploy.auto.tuner import Job, Tuner
from ncdeploy.guidance import Guided
from ncdeploy.sampling.callsizes import CallSizes, filled
from ncdeploy.sampling.window import WindowTables
from oracle import GaussianMixture

SHAPE, DOUBLE = (16,), np.zeros((), np.float64)
MIXTURE = GaussianMixture(
    0.5 * np.random.default_rng(0).standard_normal((24, 16)), 0.1
)  # small, so that runs are quick
CURVE = MIXTURE.error_curve()
PLANS = {"ddpm-1000": make_plan("ddpm", 1000), "ddim-100": make_plan("ddim", 100)}
SET_UP = 0.5


class Sessions:
    """The exact denoiser behind one session a size, with a clock of its own; a session that sees another number of rows
    than before sets itself up for it.

    sizes: None for an engine that takes any number of rows, at no charge
    """

    def __init__(self, sizes: CallSizes | None) -> None:
        self.sizes, self.now, self.asked = sizes, 0.0, list[int]()

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        rows = len(x)
        self.asked.append(rows)
        if self.sizes is not None and rows not in self.sizes.ready:
            self.sizes.ready.add(rows)
            self.now += SET_UP
        self.now += 5e-3 * (1 + (rows / 128) ** 2) ** 0.5
        return MIXTURE(x, sigma)


@contextmanager
def clock_of(engine: Sessions) -> Iterator[None]:
    """Time passes in the engine alone, also for the rehearsals, whose driver then costs nothing."""
    rehearse.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("run", "run.policy", "auto.latency", "auto.rehearsal", "sampling.evaluator"):
            patch.setattr(import_module(f"ncdeploy.{module}"), "time", engine)
        yield
    rehearse.cache_clear()


def run(engine: Any, plan: Plan, n: int, window: Any, *, tolerance: float = 1e-3, first: int = 0, **rest: Any) -> Any:
    options = SampleOptions(shape=SHAPE, error_curve=CURVE, mean=MIXTURE.means.mean(0), like=DOUBLE, **rest)
    return sample(engine, plan, seeds=range(first, first + n), window=window, tolerance=tolerance, options=options)


@pytest.mark.parametrize("n", [1, 4, 16])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_set_up_for_every_size_costs_nothing_in_later_runs(plan: Plan, n: int) -> None:
    """Several of them, because one more sweep is a tenth of a short run."""
    seconds = {}
    for sizes in (None, CallSizes()):
        engine = Sessions(sizes)
        with clock_of(engine):
            latency = measure_latency(engine, shape=SHAPE, max_rows=2048, like=DOUBLE)
            run(engine, plan, n, "auto", latency=latency, max_rows=2048)
            engine.asked.clear()
            start = engine.now
            for first in range(n, 6 * n, n):
                result = run(engine, plan, n, "auto", first=first, latency=latency, max_rows=2048)
            seconds[sizes] = engine.now - start
        assert result.window is not None
        if sizes is not None:
            assert len(set(engine.asked)) <= 8
            assert set(engine.asked) <= set(CallSizes().up_to(2048))
    free, charged = seconds.values()
    assert charged <= 1.1 * free


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "unipc", "heun", "dpmpp_2m_sde"])
def test_samples_are_those_of_an_engine_without_call_sizes(solver: str, n: int) -> None:
    plan = make_plan(solver, 30)
    exact = run(MIXTURE, plan, n, None)
    for window in (None, 1, 7, 30):
        engine = Sessions(CallSizes())
        result = run(engine, plan, n, window, tolerance=0.0)
        np.testing.assert_allclose(result.samples, exact.samples, rtol=0, atol=1e-12)
        assert set(engine.asked) <= set(CallSizes().up_to(256))
        assert min(engine.asked) >= max(engine.asked) // 8
    assert result.nfe <= sum(engine.asked) / n


@pytest.mark.parametrize(("solver", "n", "window"), [("ddpm", 1, 100), ("ddpm", 5, 50), ("dpmpp_2m_sde", 3, 40)])
def test_a_call_is_filled_with_nodes_rather_than_with_padding(
    solver: str, n: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, padding = make_plan(solver, 300), []
    for _ in range(2):
        engine = Sessions(CallSizes())
        nfe = run(engine, plan, n, window).nfe
        padding.append(sum(engine.asked) / n / nfe - 1)
        monkeypatch.setattr(WindowTables, "filled", lambda tables, base, stop, near: stop)
    filled_up, left = padding
    assert left > 0.05, "a run that wastes nothing tests nothing"
    assert filled_up < 0.6 * left


def test_with_guidance_a_call_of_the_engine_has_one_of_its_sizes() -> None:
    asked = []

    class Conditional:
        sizes = CallSizes()

        def __call__(self, x: np.ndarray, sigma: np.ndarray, labels: np.ndarray) -> np.ndarray:
            asked.append(len(x))
            return MIXTURE(x, sigma) + 0.01 * labels[:, None]

    guided = Guided(Conditional(), 1.5, null_label=2)
    options = SampleOptions(shape=SHAPE, like=DOUBLE)
    sample(guided, make_plan("ddim", 20), seeds=range(3), conditions={"labels": [0, 1, 1]}, window=6, options=options)
    assert set(asked) <= set(CallSizes().up_to(64)) - {1, 3}


def test_sizes() -> None:
    assert [CallSizes().fit(rows) for rows in (1, 2, 3, 5, 9, 13, 64)] == [1, 2, 3, 6, 12, 16, 64]
    assert CallSizes().fit(3, least=16) == 16
    assert [CallSizes(48).fit(rows) for rows in (3, 33, 48, 50)] == [3, 48, 48, 50]
    assert CallSizes().up_to(5) == [1, 2, 3, 4, 6]
    assert CallSizes(40).up_to(100) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40]
    sizes = CallSizes(64)
    sizes.ready |= {1, 4, 64}
    assert (sizes.per(2).most, sizes.per(2).ready) == (32, {2, 32})
    np.testing.assert_array_equal(filled(np.arange(3)[:, None] * [1, 1], 5)[:, 0], [0, 1, 2, 2, 2])


def test_what_is_measured_is_the_latency_at_the_sizes() -> None:
    """The largest among them, though every size is set up first, at many times what a call takes."""
    engine = Sessions(CallSizes())
    with clock_of(engine):
        found = measure_latency(engine, shape=SHAPE, max_rows=512, like=DOUBLE, budget=1.0)
    assert found.rows == tuple(CallSizes().up_to(512))
    assert found.set_up == pytest.approx(SET_UP)
    for rows in (3, 33, 64, 500):
        assert found(rows) == pytest.approx(5e-3 * (1 + (CallSizes().fit(rows) / 128) ** 2) ** 0.5, rel=1e-3)
    assert Latency.from_json(found.to_json()) == found


def test_a_set_up_is_counted_once_a_run_and_not_once_a_sweep() -> None:
    plan = make_plan("ddim", 1000)
    seconds = []
    for set_up in (0.1, 0.2):
        latency = Latency(rows=(1, 64), seconds=(5e-3, 6e-3), asked=64, set_up=set_up)
        tuner = Tuner(Job(plan=plan, latency=latency, n=1, tolerance=1e-3, floor=0.1, scale=0.5, max_rows=64))
        seconds.append([tuner._parallel(window, 1).seconds for window in (4, 64)])
    sizes = [len(CallSizes().up_to(4)), len([size for size in CallSizes().up_to(64) if size >= 8])]
    np.testing.assert_allclose(np.diff(seconds, axis=0)[0], 0.1 * np.array(sizes), rtol=1e-6)


def test_a_short_run_does_not_pay_for_more_set_ups_than_it_gains() -> None:
    """A kept latency knows what a set-up takes; a new process has to pay for each size once more."""
    engine = Sessions(CallSizes())
    with clock_of(engine):
        latency = measure_latency(engine, shape=SHAPE, max_rows=64, like=DOUBLE)
        for plan, ready, window in ((20, set(), None), (20, set(engine.sizes.ready), 1), (1000, set(), 1)):
            engine.sizes.ready = set(ready)
            chosen = run(engine, make_plan("ddim", plan), 1, "auto", latency=latency, max_rows=64).window
            assert (chosen is None) == (window is None)
