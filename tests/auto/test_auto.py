"""window="auto": on engines whose latency is known exactly, because they keep a clock of their own."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from keywords import grouped
from ncdeploy import InputError, Plan, SampleOptions, make_plan, sample
from ncdeploy.auto import forecast
from ncdeploy.auto import latency as latency_module
from ncdeploy.auto.latency import Latency, check_latency, measure_latency
from ncdeploy.auto.rehearsal import rehearse
from ncdeploy.auto.tuner import HARDNESS, Job, Tuner
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.parallel import ParallelRun
from oracle import digits, error_curve

SHAPE = (1, 8, 8)
DOUBLE = np.zeros((), np.float64)
SIZES = tuple(sorted({size for e in range(13) for size in (2**e, 3 * 2**e // 2)}))

# Seconds of a call by rows: overhead that batches share, and the work of a row.
ENGINES: dict[str, Callable[[float], float]] = {
    "linear": lambda rows: 0.01 * rows,
    "free batching": lambda rows: 0.01 + 1e-6 * rows,
    "a small chip": lambda rows: 0.01 + 0.002 * rows,
    "full at 64 rows": lambda rows: 0.01 * (1 + (rows / 64) ** 4) ** 0.25,
}
CORES = {  # that batching keeps busy on an engine which fills few of them with one row: these drift
    "both cores": lambda rows: 0.01 * rows**0.8,
    "one and a half": lambda rows: 0.01 * rows**0.86,
    "one core": lambda rows: 0.01 * rows,
    "one core, nearly": lambda rows: 0.01 * rows**0.92,
}


def curve(engine: str) -> Latency:
    return Latency(rows=SIZES, seconds=tuple((ENGINES | CORES)[engine](r) for r in SIZES), asked=SIZES[-1])


@cache
def plan_of(name: str) -> Plan:
    solver, steps = name.rsplit("-", 1)
    return make_plan(solver, int(steps))


@cache
def network_time(
    engine: str, name: str, n: int, window: Any, believed: str | None = None, acceptance: Any = "pathwise"
) -> float:
    """Seconds in the network, by the engine's own clock, of six samples of the exact denoiser in runs of n.

    believed: the engine whose latency auto is given, if not its own
    """
    spent = 0.0

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal spent
        spent += (ENGINES | CORES)[engine](len(x))
        return digits()(x, sigma)

    with pytest.MonkeyPatch.context() as patch:
        clock = type("Clock", (), {"perf_counter": staticmethod(lambda: spent)})
        for module in ("run", "run.policy", "auto.latency"):
            patch.setattr(import_module(f"ncdeploy.{module}"), "time", clock)
        for first in range(0, 6, n):
            sample(
                denoise, plan_of(name), seeds=range(first, first + n), window=window,
                options=SampleOptions(
                    shape=SHAPE, like=DOUBLE, error_curve=error_curve(), mean=digits().means.mean(0), max_rows=4096,
                    latency=curve(believed or engine) if window == "auto" else None, acceptance=acceptance,
                ),
            )  # fmt: skip
    return spent


@pytest.mark.timing
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("name", ["ddpm-120", "ddim-60", "dpmpp_2m-25"])
@pytest.mark.parametrize("engine", ENGINES)
def test_auto_is_never_slower_and_close_to_the_best_window(engine: str, name: str, n: int) -> None:
    k = plan_of(name).evaluations
    alone = network_time(engine, name, n, None)
    fixed = {w: network_time(engine, name, n, w) for w in (6, 16, 48, 128) if w < k}
    auto = network_time(engine, name, n, "auto")
    assert auto <= alone / 0.97
    assert auto <= 1.2 * min(alone, *fixed.values())


@pytest.mark.timing
@pytest.mark.parametrize("engine", ["free batching", "full at 64 rows"])
def test_where_batching_pays_auto_gains(engine: str) -> None:
    assert network_time(engine, "ddpm-200", 1, "auto") < 0.3 * network_time(engine, "ddpm-200", 1, None)


def test_samples_of_auto_are_those_of_sequential_sampling() -> None:
    for engine in ENGINES:
        result = sample(
            digits(), plan_of("ddim-100"), seeds=range(16), window="auto",
            options=SampleOptions(shape=SHAPE, latency=curve(engine), error_curve=error_curve(), like=DOUBLE),
        )  # fmt: skip
        exact = sample(digits(), plan_of("ddim-100"), seeds=range(16), options=SampleOptions(shape=SHAPE, like=DOUBLE))
        assert np.median(np.abs(result.samples - exact.samples)) < 2e-4
        assert result.choice is not None
        assert result.window == result.choice.window
        assert ("sequential: no window" in str(result.choice)) == (result.window is None)


@pytest.mark.parametrize("name", ["ddpm-300", "ddim-100", "dpmpp_2m-25", "heun-18"])
def test_a_rehearsal_tells_the_sweeps_of_a_real_run(name: str) -> None:
    plan = plan_of(name)
    for window in (8, 24):
        run = sample(
            digits(), plan, seeds=range(16), window=window,
            options=SampleOptions(shape=SHAPE, error_curve=error_curve(), like=DOUBLE),
        )  # fmt: skip
        expected = rehearse(plan, window, 1e-3, 0.1, 0.5)
        assert expected.sweeps == pytest.approx(run.sweeps.mean(), rel=0.35)
        assert expected.nfe == pytest.approx(run.nfe, rel=0.35)


@pytest.mark.parametrize(("name", "window"), [("ddpm-300", 8), ("ddpm-300", 32), ("ddpm-100", 16)])
def test_a_rehearsal_in_law_tells_the_sweeps_of_a_run_in_law(name: str, window: int) -> None:
    plan = plan_of(name)
    run = sample(
        digits(), plan, seeds=range(16), window=window,
        options=SampleOptions(shape=SHAPE, error_curve=error_curve(), like=DOUBLE, acceptance="law"),
    )  # fmt: skip
    expected = rehearse(plan, window, 1e-3, 0.1, 0.5, False, (1.0, 64))
    assert expected.sweeps == pytest.approx(run.sweeps.mean(), rel=0.35)
    assert expected.nfe == pytest.approx(run.nfe, rel=0.35)
    assert expected.sweeps < 0.95 * rehearse(plan, window, 1e-3, 0.1, 0.5).sweeps
    assert expected.sweeps < rehearse(plan, window, 1e-3, 0.1, 0.5, False, (1.0, 10_000)).sweeps


@pytest.mark.timing
@pytest.mark.parametrize("engine", ENGINES)
def test_in_law_auto_takes_a_good_window(engine: str) -> None:
    """Samples are others at other windows, so that six of them do not tell a best one to less than a third."""
    alone = network_time(engine, "ddpm-120", 1, None)
    fixed = [network_time(engine, "ddpm-120", 1, w, acceptance="law") for w in (6, 16, 48)]
    auto = network_time(engine, "ddpm-120", 1, "auto", acceptance="law")
    assert auto <= alone / 0.97
    assert auto <= 1.5 * min(alone, *fixed)


def test_in_law_it_is_predicted_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "rehearse", lambda *given: replace(rehearse(*given), driver=1e-4))
    jobs = [
        Job(
            plan=plan_of("ddpm-300"), latency=curve("a small chip"), n=1, tolerance=tolerance, floor=0.1, scale=0.5,
            max_rows=256, law=law,
        )
        for tolerance, law in ((1e-3, None), (0.0, (1.0, 64)), (0.0, None))
    ]  # fmt: skip
    pathwise, law, exact = (Tuner(job).choose() for job in jobs)
    assert law.window is not None
    assert law.seconds < 0.95 * pathwise.seconds
    assert exact.window is None, "at tolerance 0 pathwise sampling is sequential; in law there is no tolerance"


@pytest.mark.parametrize("window", [3, 6, 12])
@pytest.mark.parametrize("name", ["ddpm-300", "dpmpp_2m_sde-100", "ddim-100"])
def test_at_narrow_windows_a_rehearsal_is_close(name: str, window: int) -> None:
    """Where few rows share a call, a tenth decides whether they pay."""
    plan = plan_of(name)
    run = sample(
        digits(), plan, seeds=range(8), window=window,
        options=SampleOptions(shape=SHAPE, error_curve=error_curve(), like=DOUBLE),
    )  # fmt: skip
    expected = rehearse(plan, window, 1e-3, 0.1, 0.5)
    assert expected.sweeps == pytest.approx(run.sweeps.mean(), rel=0.08)
    assert expected.nfe == pytest.approx(run.nfe, rel=0.08)


def test_what_a_run_shows_makes_the_hardness_and_that_the_window() -> None:
    plan = plan_of("ddim-100")
    tuner = Tuner(
        Job(plan=plan, latency=curve("a small chip"), n=1, tolerance=1e-3, floor=0.1, scale=0.5, max_rows=4096)
    )
    window = tuner.choose().window
    assert window is not None
    late, calls = np.full(1, 0.9), rehearse(plan, window, 1e-3, 0.1, 0.5).course[18]
    as_measured = {"rows": 20.0, "seconds": ENGINES["a small chip"](20)}
    tuner.correct(window, 1, round(3 * calls), late, **as_measured)
    hard = tuner.hardness
    after_hard = tuner.correct(window, 1, round(3 * calls), late, **as_measured)
    tuner.correct(window, 1, round(0.8 * calls), late, **as_measured)
    assert tuner.hardness < HARDNESS < hard
    assert after_hard <= window
    windows = []
    for tuner.hardness in (0.25, HARDNESS, 6.0):
        windows.append(tuner.choose().window or 1)
    assert windows[0] > windows[1] > windows[2]


@pytest.mark.timing
def test_calls_that_take_longer_than_measured_narrow_the_window() -> None:
    misled = network_time("linear", "ddpm-120", 1, "auto", believed="full at 64 rows")
    assert misled < 0.8 * network_time("linear", "ddpm-120", 1, 120)
    assert misled > network_time("linear", "ddpm-120", 1, "auto")


@pytest.mark.timing
@pytest.mark.parametrize(
    ("engine", "believed", "gain"),
    [("both cores", "one core, nearly", 1.1), ("one core", "one and a half", 0.97)],
    ids=["batching gains more", "batching gains less"],
)
def test_a_long_run_near_break_even_measures_the_latency_again(engine: str, believed: str, gain: float) -> None:
    misled = network_time(engine, "ddpm-1000", 6, "auto", believed=believed)
    assert misled <= network_time(engine, "ddpm-1000", 6, None) / gain


@pytest.mark.parametrize("per_row", [1, 2])
def test_a_latency_that_is_checked_is_that_of_now(per_row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls, known = 0.0, 0, curve("one core")

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal now, calls
        now += CORES["both cores"](per_row * len(x)) * (1 if calls else 10)  # the first call has something to set up
        calls += 1
        return x

    monkeypatch.setattr(latency_module, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: now)}))
    once = known(3 * per_row) + known(12 * per_row)
    check = {"rows": (3, 12), "shape": (3,), "per_row": per_row}
    assert check_latency(known, denoise, **check, budget=2.9 * once) is known
    assert calls == 0
    found = check_latency(known, denoise, **check, budget=3.1 * once)
    assert calls == 6
    for rows in (3, 12):
        assert found(rows * per_row) == pytest.approx(CORES["both cores"](rows * per_row))


def test_a_latency_is_bent_through_what_was_seen() -> None:
    known = curve("a small chip")
    now = known.bent([4, 64], [1.1 * known(4), 1.4 * known(64)])
    assert [now(rows) / known(rows) for rows in (1, 4, 16, 64, 1024)] == pytest.approx(
        [1.1, 1.1, 1.241, 1.4, 1.4], rel=1e-3
    )
    assert known.bent([5], [known(5)])(5) == pytest.approx(known(5))
    assert np.all(np.diff(known.bent([1, 2], [1.0, 1e-3]).seconds) >= 0)


def test_a_latency_is_corrected_where_it_was_seen() -> None:
    known = curve("a small chip")
    slower = known.corrected(32, 1.5 * known(32))
    assert slower(32) == pytest.approx(1.5 * known(32))
    assert known(16) < slower(16) < 1.5 * known(16)
    assert slower(2) == known(2)
    assert known.corrected(32, 100.0)(32) == pytest.approx(4 * known(32))
    assert known.corrected(32, 0.0)(32) >= known(32) / 4


@pytest.mark.parametrize("curve_known", [True, False], ids=["curve", "online"])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", ["ddpm-60", "unipc-25", "heun-18"])
def test_a_window_may_change_at_every_sweep(name: str, lanes: int, curve_known: bool) -> None:
    plan, rng = plan_of(name), np.random.default_rng(0)
    run = ParallelRun(
        Evaluator(digits(), SHAPE, None, DOUBLE), plan, seeds=list(range(4)), dim=64, window=8, tolerance=0.0,
        floor=0.1, curve=error_curve() if curve_known else None, mean=None, lanes=lanes, like=DOUBLE,
    )  # fmt: skip
    for _ in run.run():
        run.window = int(rng.integers(1, plan.evaluations + 1))
    exact = sample(digits(), plan, seeds=range(4), options=SampleOptions(shape=SHAPE, like=DOUBLE))
    np.testing.assert_allclose(run.samples.reshape(exact.samples.shape), exact.samples, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_measuring_finds_the_curve_through_disturbances(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, 0

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal now, calls
        calls += 1
        now += ENGINES[engine](len(x)) * (8.0 if calls % 7 == 0 else 1.0)
        return x

    monkeypatch.setattr(latency_module, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: now)}))
    used: list[float] = []
    found = measure_latency(denoise, shape=(3,), max_rows=256, budget=20.0, on_call=used.append)
    for rows in (1, 5, 16, 100):
        assert found(rows) == pytest.approx(ENGINES[engine](rows), rel=0.35)
    assert now < 30.0, "the budget"
    assert used[-1] <= 1.0


def test_the_moods_of_a_machine_do_not_bend_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then it is slower for a second or two, and not for all sizes equally often."""
    now, slow, ratios = 0.0, np.zeros(60, bool), []

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal now
        now += (5e-4 + 2e-4 * len(x)) * (1.7 if slow[int(now)] else 1.0)
        return x

    monkeypatch.setattr(latency_module, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: now)}))
    for seed in range(8):
        now, slow = 0.0, np.random.default_rng(seed).random(60) < 0.5
        found = measure_latency(denoise, shape=(3,), max_rows=512, budget=5.0)
        ratios += [found(rows) / found(1) / ((5e-4 + 2e-4 * rows) / 7e-4) for rows in (2, 4, 16, 64)]
    assert ratios == pytest.approx([1.0] * len(ratios), rel=0.03)


def test_what_another_size_left_in_the_caches_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler asks for one size again and again."""
    now, last = 0.0, 0

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal now, last
        now += (5e-4 + 1e-5 * len(x)) * (1.0 if len(x) == last else 3.0)
        last = len(x)
        return x

    monkeypatch.setattr(latency_module, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: now)}))
    found = measure_latency(denoise, shape=(3,), max_rows=32, budget=20.0)
    assert [found(rows) for rows in (1, 8, 32)] == pytest.approx([5.1e-4, 5.8e-4, 8.2e-4])


def test_a_size_whose_neighbours_are_disturbed_is_compared_with_the_next_but_one() -> None:
    """Most calls beside the smallest size are slowed down; those of one before and one after are not."""
    seen, rng = [], np.random.default_rng(0)
    for _ in range(12):
        slow = np.where(rng.random(2) < 0.2, 1.0, rng.uniform(1.3, 2.2, 2))
        seen += [
            (4, 4e-3),
            (2, 2e-3 * slow[0]),
            (1, 1e-3),
            (2, 2e-3 * slow[1]),
            (4, 4e-3),
            (2, 2e-3),
            (4, 4e-3),
            (2, 2e-3),
        ]
    sizes, seconds = latency_module._fit(seen)
    assert sizes == (1, 2, 4)
    np.testing.assert_allclose(seconds, [1e-3, 2e-3, 4e-3], rtol=0.02)


@pytest.mark.timing
def test_measuring_keeps_to_its_budget_on_a_slow_engine() -> None:
    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        time.sleep(0.01 * len(x))
        return x

    start = time.perf_counter()
    found = measure_latency(denoise, shape=(3,), max_rows=4096, budget=0.3)
    assert time.perf_counter() - start < 1.5
    assert found.rows[-1] < 64
    assert found(4096) == pytest.approx(found.seconds[-1] * 4096 / found.rows[-1])
    assert found.asked == 4096


def test_a_slow_engine_is_given_the_time_for_a_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run on it takes many more: else nothing would be known but one row, and no window ever be worth it."""
    now = 0.0

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal now
        now += 0.4 + 0.05 * len(x)
        return x

    monkeypatch.setattr(latency_module, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: now)}))
    found = measure_latency(denoise, shape=(3,), max_rows=4096)
    assert found.rows[-1] >= 16
    np.testing.assert_allclose(found.seconds, [0.4 + 0.05 * rows for rows in found.rows], rtol=1e-3)
    assert now < 25 * 0.45
    before = now
    measure_latency(denoise, shape=(3,), max_rows=4096, budget=2.0)
    assert now - before < 2 + 2 * 0.45 + 0.8


def test_a_curve_survives_json_and_refuses_nonsense() -> None:
    known = curve("a small chip")
    assert Latency.from_json(known.to_json()) == known
    for text in (
        "",
        "[]",
        "{}",
        '{"rows": [2], "seconds": [1], "asked": 2}',
        '{"rows": [1, 2], "seconds": [2, 1], "asked": 2}',
        '{"rows": [1, 2], "seconds": [1, Infinity], "asked": 2}',
    ):
        with pytest.raises(InputError, match="latency"):
            Latency.from_json(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": "wide"}, "window: got 'wide'"), ({"window": 4, "latency": curve("linear")}, "latency: only")],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(digits(), plan_of("ddim-100"), **grouped(shape=SHAPE, seeds=range(2), like=DOUBLE, **options))
