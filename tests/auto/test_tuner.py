"""What window="auto" predicts, and how a run corrects it."""

from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from ncdeploy import Choice, ModelInfo, SampleOptions, make_plan, sample
from ncdeploy.auto import forecast
from ncdeploy.auto import latency as latency_module
from ncdeploy.auto.latency import Latency
from ncdeploy.auto.rehearsal import PARTS, SAMPLES, rehearse
from ncdeploy.auto.tuner import HARDNESS, Job, Tuner
from ncdeploy.guidance import Guided
from oracle import digits, error_curve

SHAPE = (1, 8, 8)
DOUBLE = np.zeros((), np.float64)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)

# Seconds of a call: overhead that batches share, and of each row.
ENGINES = {"linear": (0.0, 0.01), "free batching": (0.01, 1e-6), "a small chip": (0.01, 0.002)}


def curve(engine: str) -> Latency:
    overhead, row = ENGINES[engine]
    return Latency(rows=SIZES, seconds=tuple(overhead + row * rows for rows in SIZES), asked=SIZES[-1])


@cache
def plan_of(name: str) -> Any:
    solver, steps = name.rsplit("-", 1)
    return make_plan(solver, int(steps))


def tuner_of(name: str, engine: str, **options: Any) -> Tuner:
    usual = {"n": 1, "tolerance": 1e-3, "floor": 0.1, "scale": 0.5, "max_rows": 256}
    return Tuner(Job(plan=plan_of(name), latency=curve(engine), **usual | options))


@pytest.mark.timing
@pytest.mark.parametrize(("n", "max_rows"), [(17, 16), (40, 24), (10, 8)])
@pytest.mark.parametrize("engine", ENGINES)
def test_samples_that_are_left_over_cost_what_their_rows_do(
    engine: str, n: int, max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More samples than fit into a call, and not a multiple of those that do: the last ones make short calls."""
    spent, (overhead, row) = 0.0, ENGINES[engine]

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal spent
        spent += overhead + row * len(x)
        return digits()(x, sigma)

    def seconds(window: Any) -> float:
        nonlocal spent
        spent = 0.0
        sample(
            denoise, plan_of("ddim-40"), seeds=range(n), window=window,
            options=SampleOptions(
                shape=SHAPE, max_rows=max_rows, like=DOUBLE, error_curve=error_curve(),
                latency=curve(engine) if window == "auto" else None,
            ),
        )  # fmt: skip
        return spent

    clock = type("Clock", (), {"perf_counter": staticmethod(lambda: spent)})
    monkeypatch.setattr(import_module("ncdeploy.run.policy"), "time", clock)
    alone, auto = seconds(None), seconds("auto")
    choice = tuner_of("ddim-40", engine, n=n, max_rows=max_rows).choose()
    assert auto <= alone / 0.97
    assert choice.seconds == pytest.approx(auto, rel=0.2)
    assert choice.sequential <= 1.1 * alone


@pytest.mark.parametrize("tolerance", [0.0, 1e-9])
def test_a_tolerance_below_rounding_is_sampled_sequentially(tolerance: float) -> None:
    """Such iterates settle node after node, as sequential sampling goes; that needs no rehearsal."""
    rehearsed = rehearse.cache_info().misses
    assert tuner_of("ddpm-500", "free batching", tolerance=tolerance).choose().window is None
    assert rehearse.cache_info().misses == rehearsed
    result = sample(
        lambda x, sigma: digits()(x, sigma).astype(x.dtype), plan_of("ddim-40"), seeds=[0], window="auto",
        tolerance=tolerance, options=SampleOptions(shape=SHAPE, latency=curve("free batching")),
    )  # fmt: skip
    assert result.depth == 40
    fine = tuner_of("ddim-40", "free batching", tolerance=1e-9, eps=float(np.finfo(np.float64).eps)).choose()
    assert fine.window is not None


def test_the_hardness_counts_each_part_of_a_run_at_the_window_it_had() -> None:
    wide, narrow = (np.asarray(rehearse(plan_of("ddim-100"), w, 1e-3, 0.1, 0.5).course) for w in (64, 16))
    tuner, sweeps = tuner_of("ddim-100", "free batching", n=2), 0.0
    assert tuner._forecast.widen()  # to 64
    for window, course, parts in ((64, wide, (0.3, 0.5)), (16, narrow, (0.7, 0.8))):
        before = tuner._parts
        sweeps += float(np.sum(np.interp(parts, PARTS, course) - np.interp(before, PARTS, course)))
        tuner.correct(window, 2, round(sweeps), np.array(parts), rows=20.0, seconds=0.01)  # all as rehearsed
    assert tuner.hardness == pytest.approx(HARDNESS + 0.75 * (1 - HARDNESS), abs=0.1)  # sweeps are whole


@pytest.mark.parametrize("name", ["ddpm-120", "dpmpp_2m-25"])
def test_the_course_of_a_rehearsal_ends_with_its_sweeps(name: str) -> None:
    run = rehearse(plan_of(name), 16, 1e-3, 0.1, 0.5)
    assert run.course[0] == 0
    assert run.course[-1] == pytest.approx(run.sweeps)
    assert np.all(np.diff(run.course) > 0)


def test_a_run_without_an_error_curve_is_rehearsed_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, jobs = plan_of("ddim-100"), []
    run = sample(digits(), plan, seeds=range(16), window=24, options=SampleOptions(shape=SHAPE, like=DOUBLE))
    online, known = (rehearse(plan, 24, 1e-3, 0.1, 0.5, estimated) for estimated in (True, False))
    assert online.sweeps == pytest.approx(run.sweeps.mean(), rel=0.35)
    assert online.sweeps > known.sweeps
    module = import_module("ncdeploy.run.policy")
    choose = module.choose
    monkeypatch.setattr(module, "choose", lambda job: jobs.append(job) or choose(job))
    for given in (None, error_curve()):
        sample(
            digits(), plan, seeds=[0], window="auto",
            options=SampleOptions(shape=SHAPE, latency=curve("linear"), like=DOUBLE, error_curve=given),
        )  # fmt: skip
    assert [job.online for job in jobs] == [True, False]


@pytest.mark.parametrize("rows", [(1, 512), (1, 48)])
def test_a_latency_is_corrected_between_and_beyond_what_was_measured(rows: tuple[int, ...]) -> None:
    known = Latency(rows=rows, seconds=tuple(0.01 + 0.002 * r for r in rows), asked=512)
    for seen in (24, 100.4, 400):
        for factor in (0.5, 3.0):
            corrected = known.corrected(seen, factor * known(seen))
            assert corrected(seen) == pytest.approx(factor * known(seen), rel=0.02)
            assert corrected(1) == known(1)
            assert Latency.from_json(corrected.to_json()) == corrected


@pytest.mark.parametrize("outside", [True, False], ids=["Guided given", "guidance asked for"])
def test_two_rows_of_a_guided_call_are_timed_once(outside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now, jobs = 0.0, []

    class Engine:
        info = ModelInfo(shape=(64,), sigma_min=0.002, sigma_max=200.0, sigma_data=0.5, num_classes=2)

        def __call__(self, x: np.ndarray, sigma: np.ndarray, labels: np.ndarray) -> np.ndarray:
            nonlocal now
            now += 0.01 * len(x)
            return digits()(x, sigma)

    module = import_module("ncdeploy.run.policy")
    choose = module.choose
    monkeypatch.setattr(module, "choose", lambda job: jobs.append(job) or choose(job))
    monkeypatch.setattr(latency_module, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: now)}))
    sample(
        Guided(Engine(), 1.5) if outside else Engine(), plan_of("ddim-40"), seeds=[0], conditions={"labels": [1]},
        window="auto", options=SampleOptions(guidance=None if outside else 1.5, max_rows=16, like=DOUBLE),
    )  # fmt: skip
    assert jobs[0].latency(4 * jobs[0].per_row) == pytest.approx(0.08, rel=0.01)
    assert jobs[0].max_rows == 8


def test_a_plan_made_again_is_not_rehearsed_again() -> None:
    def run(plan: Any) -> int:
        sample(
            digits(), plan, seeds=[0], window="auto",
            options=SampleOptions(shape=SHAPE, latency=curve("free batching"), like=DOUBLE, error_curve=error_curve()),
        )  # fmt: skip
        return int(rehearse.cache_info().misses)

    first, again, other = (run(make_plan("ddim", steps)) for steps in (33, 33, 34))
    assert first == again < other


def test_what_the_driver_takes_grows_with_the_window_and_no_disturbance_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rehearsed: 1 ms at a window of 16, disturbed at 64, 4 ms at 200."""
    seconds = {16: 0.001, 64: 1.0, 200: 0.004}
    monkeypatch.setattr(
        forecast, "rehearse", lambda plan, window, *rest: replace(rehearse(plan, window, *rest), driver=seconds[window])
    )
    found = forecast.Forecast(plan_of("ddpm-200"), most=200, tolerance=1e-3, floor=0.1, scale=0.5, online=False)
    assert [found.widen() for _ in range(3)] == [True, True, False]

    def of_a_rehearsal(window: int) -> float:
        fixed, each = found.driver(window)
        return fixed + SAMPLES * each

    assert [of_a_rehearsal(w) for w in (1, 16, 64, 200)] == pytest.approx([0.001, 0.001, 0.004, 0.004])
    assert 0.001 < of_a_rehearsal(30) < 0.004
    assert found.driver(1)[0] == found.driver(200)[0]


def test_long_network_calls_slow_down_what_the_driver_does_once_a_call_and_not_what_it_does_for_each_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        forecast, "rehearse", lambda plan, window, *rest: replace(rehearse(plan, window, *rest), driver=0.001)
    )
    tuner = tuner_of("ddpm-200", "linear", values=1000)
    few, many = ([tuner._driver(8, lanes, network) for network in (0.0, 1.0)] for lanes in (1, 65))
    each = 0.1e-3 / 3 + 2e-8 * 1000 * 8
    assert few == pytest.approx([0.9e-3 + each, 1.8e-3 + each], rel=2e-3)
    assert [m - f for m, f in zip(many, few, strict=True)] == pytest.approx([64 * each] * 2)


def test_wider_windows_are_rehearsed_as_long_as_they_may_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[int] = []
    monkeypatch.setattr(
        forecast, "rehearse",
        lambda plan, window, *rest: rehearsed.append(window)
        or replace(rehearse(plan, window, *rest), driver=1e-4),
    )  # fmt: skip
    widest = {}
    for engine in ("a small chip", "free batching"):
        rehearsed.clear()
        assert tuner_of("ddpm-500", engine).choose().window
        widest[engine] = max(rehearsed)
    assert widest == {"a small chip": 64, "free batching": 256}


@pytest.mark.timing
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", ["ddim-100", "ddpm-300", "dpmpp_2m_sde-100"])
def test_the_choice_is_as_good_as_if_every_window_were_rehearsed(name: str, n: int) -> None:
    tuner = tuner_of(name, "a small chip", n=n)
    window = tuner.choose().window
    for w in tuner._forecast.windows:
        tuner._forecast.rehearse(int(w))
    assert window is not None
    assert tuner._parallel(window, n).seconds <= 1.05 * tuner._best([n]).seconds


def test_sequential_sampling_is_not_charged_for_the_secants_of_the_parallel_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        forecast, "rehearse",
        lambda plan, window, *rest: replace(rehearse(plan, window, *rest), driver=0.005 if rest[3] else 0.001),
    )  # fmt: skip
    tuners = [tuner_of("ddim-40", "linear", online=online) for online in (False, True)]
    alone = [tuner._alone([1], tuner._forecast.least_driver()).seconds for tuner in tuners]
    parallel = [tuner._parallel(8, 1).seconds for tuner in tuners]
    assert alone[0] == alone[1]
    assert parallel[0] < parallel[1]


def test_a_driver_that_costs_more_than_the_network_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = Latency(rows=(1, 256), seconds=(1e-4, 2e-4), asked=256)
    windows = []
    for wide in (0.0, 1e-2):
        monkeypatch.setattr(
            forecast, "rehearse",
            lambda plan, window, *rest, wide=wide: replace(
                rehearse(plan, window, *rest), driver=1e-4 + wide * (window > 16)
            ),
        )  # fmt: skip
        job = Job(plan=plan_of("ddpm-200"), latency=cheap, n=1, tolerance=1e-3, floor=0.1, scale=0.5, max_rows=256)
        windows.append(Tuner(job).choose().window or 1)
    assert windows[0] > 64 > 17 > windows[1]


def test_a_choice_says_what_it_gains():
    gains = Choice(window=8, lanes=1, sweeps=12.0, seconds=0.5, sequential=2.0)
    assert str(gains) == "window 8: 12 sweeps predicted, 4.0 x faster than sequential"
    assert str(replace(gains, window=None)).startswith("sequential: no window")
