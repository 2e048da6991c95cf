"""One engine for many requests: samples as alone, calls that are worth their time, nobody forgotten or starved."""

from typing import Any

import numpy as np
import pytest

from ncdeploy import BackendError, InputError, NumericalError, SampleOptions, make_plan, sample
from ncdeploy.auto.latency import Latency
from ncdeploy.errors import BusyError
from ncdeploy.sampling.callsizes import CallSizes
from ncdeploy.serving.job import Served
from ncdeploy.serving.pace import HARDNESS, Hardness, accepted, efficient, evenly
from serving_bench import INFO, LATENCY, Bench, Simulated

PLANS = {
    "ddpm": make_plan("ddpm", 100), "ddim": make_plan("ddim", 50), "2m": make_plan("dpmpp_2m", 25),
    "heun": make_plan("heun", 18),
}  # fmt: skip
NAMES = tuple(PLANS)


def mixed(bench: Bench, n: int, *, every: float, window: Any, **more: Any) -> list[tuple[float, Any]]:
    """n requests of every plan in turn, at times a Poisson process gives."""
    gaps = np.random.default_rng(0).exponential(every, n)
    plans = [PLANS[NAMES[i % 4]] for i in range(n)]
    return [(t, bench.job(plans[i], [i], window=window, **more)) for i, t in enumerate(np.cumsum(gaps))]


def alone(plan: Any, seeds: Any, window: Any, **options: Any) -> Any:
    return sample(Simulated(), plan, seeds=seeds, window=window, options=SampleOptions(**options))


@pytest.mark.parametrize("window", [None, 8])
def test_whatever_shares_the_calls_samples_are_those_of_a_run_alone(window: Any) -> None:
    bench = Bench()
    arrivals = mixed(bench, 40, every=0.005, window=window)
    bench.arrive(arrivals)
    assert max(tick.samples for tick in bench.ticks) > 10
    for i, (_, job) in enumerate(arrivals):
        served = bench.outcomes[job]
        np.testing.assert_allclose(served.samples, alone(job.request.plan, [i], window).samples, atol=1e-5, rtol=0)
        if window is None and i < 8:  # beside the network nothing is computed otherwise
            solo = Bench()
            by_itself = solo.submit(job.request.plan, [i], window=None)
            solo.run()
            np.testing.assert_array_equal(served.samples, solo.outcomes[by_itself].samples)


def replay(job: Any, served: Served) -> Any:
    """The samples of a job from a scheduler that has nobody else, and gives each the widths that were recorded."""
    bench = Bench()
    ahead = {p: list(w) for p, w in zip(range(100), served.widths, strict=False)}

    def share(pools: list[Any]) -> list[np.ndarray]:
        (pool,) = pools
        places = {place: i for i, place in enumerate(again.places)}
        return [np.array([ahead[places[p]].pop(0) for p in pool.lanes.tolist()])]

    request = job.request
    again = bench.job(
        request.plan, request.seeds, window=request.window, tolerance=request.tolerance,
        acceptance=request.options.acceptance,
    )  # fmt: skip
    bench.scheduler._share = share
    bench.scheduler._widen = lambda pool: setattr(pool, "window", request.plan.evaluations)
    bench.scheduler.submit(again)
    bench.run()
    return bench.outcomes[again].samples


@pytest.mark.parametrize("acceptance", ["pathwise", "law"])
def test_a_sample_whose_window_followed_the_load_is_that_of_its_recorded_widths(acceptance: Any) -> None:
    bench = Bench()
    arrivals = [(0.0, bench.job(PLANS["ddpm"], [3, 4], acceptance=acceptance))]
    arrivals += mixed(bench, 12, every=0.004, window="auto")
    bench.arrive(arrivals)
    job = arrivals[0][1]
    served = bench.outcomes[job]
    assert len({w for widths in served.widths for w in widths}) > 3
    np.testing.assert_allclose(served.samples, replay(job, served), atol=1e-5, rtol=0)
    if acceptance == "pathwise":
        np.testing.assert_allclose(served.samples, alone(PLANS["ddpm"], [3, 4], None).samples, atol=0.02)


def test_saturated_mixed_requests_cost_what_the_best_static_batches_do() -> None:
    bench = Bench()
    n = 160
    bench.arrive([(0.0, job) for _, job in mixed(bench, n, every=1, window="auto")])
    work = n / 4 * sum(plan.evaluations for plan in PLANS.values())
    alone_s = work * LATENCY(1)
    # Static batching: the requests of each plan together, in the batch that makes a row cheapest.
    static = sum(
        min(plan.evaluations * -(-(n // 4) // b) * LATENCY(min(b, n // 4)) for b in (8, 16, 32, 40))
        for plan in PLANS.values()
    )
    assert bench.engine.now < static / 0.95
    assert bench.engine.now < alone_s / 2
    assert bench.engine.rows[0] == min(n, bench.scheduler.most)


def throughput(given: Latency, window: Any, rounds: int) -> list[float]:
    """Of 40 requests at once, round after round, beside the best static batches; the scheduler is given a curve that
    is not the engine's."""
    bench, n, found = Bench(latency=given), 40, []
    static = min(PLANS["heun"].evaluations * -(-n // b) * LATENCY(min(b, n)) for b in (8, 16, 32, 40))
    for _ in range(rounds):
        begin = bench.engine.now
        for i in range(n):
            bench.submit(PLANS["heun"], [i], window=window)
        bench.run()
        found.append(static / (bench.engine.now - begin))
    return found


def test_windows_that_a_wrong_curve_made_too_wide_are_corrected() -> None:
    wide_seems_free = Latency(rows=(1, 8, 64, 1024), seconds=(4e-3, 4.2e-3, 5e-3, 60e-3), asked=1024)
    found = throughput(wide_seems_free, "auto", 8)
    assert found[0] < 0.92
    assert np.mean(found[4:]) > 0.95


def test_calls_that_a_wrong_curve_made_too_small_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncdeploy.serving.pace._MOMENT", 0.0)  # as if a row took long
    sharing_seems_to_gain_nothing = Latency(rows=(1, 1024), seconds=(1e-3, 1.024), asked=1024)
    found = throughput(sharing_seems_to_gain_nothing, None, 10)
    assert found[0] < 0.5
    assert found[-1] > 0.95


def test_an_idle_engine_works_on_the_future_of_the_one_request() -> None:
    alone_s = PLANS["ddpm"].evaluations * LATENCY(1)
    bench = Bench()
    for i in range(8):  # the first tell what the plan gains
        job = bench.submit(PLANS["ddpm"], [i])
        bench.run()
    assert bench.outcomes[job].wall_s < alone_s / 2.5


def test_under_a_light_load_most_requests_take_what_they_take_alone() -> None:
    solo = []
    for i in range(40):
        bench = Bench()
        bench.submit(PLANS[NAMES[i % 4]], [i])
        bench.run()
        solo.append(bench.engine.now)
    best = [min(fixed(PLANS[name], w) for w in (2, 4, 8, 16, 24, 32, 48)) for name in NAMES]
    assert np.mean(solo) < 1.15 * np.mean(best)
    bench = Bench()
    arrivals = mixed(bench, 40, every=10 * float(np.mean(solo)), window="auto")
    bench.arrive(arrivals)
    ratio = [bench.outcomes[job].wall_s / solo[i] for i, (_, job) in enumerate(arrivals)]
    assert np.median(ratio) < 1.1


def fixed(plan: Any, window: int) -> float:
    """Seconds of the engine for a sample alone with a window that stays."""
    engine = Simulated()
    sample(engine, plan, seeds=[0], window=window)
    return engine.now


def test_windows_widen_when_others_leave() -> None:
    bench = Bench()
    first = bench.submit(PLANS["ddpm"], [0])
    for i in range(100):
        bench.submit(PLANS["heun"], [i])
    bench.run()
    widths = bench.outcomes[first].widths[0]
    assert max(widths[:10]) <= 4
    assert max(widths[-10:-5]) >= 8


def test_nan_of_one_request_ends_that_one_alone() -> None:
    bench = Bench()
    jobs = [bench.submit(PLANS["ddim"], [i], window=4) for i in range(6)]
    bench.scheduler.tick()
    bench.scheduler.tick()
    pool = jobs[2].pool
    bad = pool.x[pool.lanes.tolist().index(jobs[2].places[0]), pool.tables.reach - 1].astype(np.float32)
    bench.engine.wrong = lambda x: (x == bad).all(axis=1)
    bench.run()
    error = bench.outcomes[jobs[2]]
    assert isinstance(error, NumericalError)
    assert "of sample 0" in str(error)
    assert "sigma = " in str(error)
    for i, job in enumerate(jobs):
        if i != 2:
            expected = alone(PLANS["ddim"], [i], 4).samples
            np.testing.assert_allclose(bench.outcomes[job].samples, expected, atol=1e-5, rtol=0)


def test_an_engine_that_fails_tells_those_who_took_part_and_goes_on() -> None:
    bench = Bench()
    first = bench.submit(PLANS["ddim"])
    bench.scheduler.tick()
    bench.engine.wrong = lambda x: 1 // 0
    bench.scheduler.tick()
    assert isinstance(bench.outcomes[first], BackendError)
    assert "ZeroDivisionError" in str(bench.outcomes[first])
    bench.engine.wrong = None
    second = bench.submit(PLANS["ddim"])
    bench.run()
    np.testing.assert_allclose(bench.outcomes[second].samples, alone(PLANS["ddim"], [0], None).samples, atol=0.02)


def test_cancelled_requests_leave_no_trace_and_places_are_used_again() -> None:
    bench = Bench()
    rng = np.random.default_rng(1)
    stayed = []
    for round_ in range(15):
        jobs = [bench.submit(PLANS[NAMES[i % 4]], [i, i + 1], window=8) for i in range(6)]
        for _ in range(int(rng.integers(0, 6))):
            bench.scheduler.tick()
        for job in jobs[:3]:
            bench.scheduler.cancel(job)
        stayed += jobs[3:]
        if round_ % 3 == 0:
            bench.run()
    keep = bench.job(PLANS["ddim"], [0], window=8)
    bench.scheduler.submit(keep)
    bench.scheduler.cancel(keep)
    bench.run()
    assert bench.scheduler.idle
    assert not bench.scheduler._pools
    assert all(isinstance(bench.outcomes[job], Served) for job in stayed)
    assert set(bench.outcomes) - set(stayed) <= {job for job in bench.outcomes if job.over}
    assert keep not in bench.outcomes
    for job in stayed[-3:]:
        expected = alone(job.request.plan, job.request.seeds, 8).samples
        np.testing.assert_allclose(bench.outcomes[job].samples, expected, atol=1e-5, rtol=0)


def test_a_pool_that_never_empties_keeps_no_more_places_than_it_has_samples() -> None:
    bench = Bench()
    most = 0
    jobs = []
    for i in range(300):
        if i % 7 == 0:
            jobs.append(bench.submit(PLANS["heun"], [i], window=None))
        bench.scheduler.tick()
        (pool,) = bench.scheduler._pools.values()
        most = max(most, len(pool.seeds))
    assert len(bench.outcomes) > 30
    assert most == 16


def test_a_deadline_ends_a_request_with_what_is_known() -> None:
    bench = Bench()
    job = bench.submit(PLANS["ddpm"], [0], window=4, deadline=0.02)
    bench.run()
    served = bench.outcomes[job]
    assert not served.complete.any()
    assert served.wall_s <= 0.02
    assert 0 < served.residual[0] < np.inf
    assert np.isfinite(served.samples).all()
    plenty = bench.submit(PLANS["ddpm"], [0], window=4, deadline=10.0)
    bench.run()
    assert bench.outcomes[plenty].complete.all()
    in_law = bench.submit(PLANS["ddpm"], [0], window=4, deadline=0.02, acceptance="law")
    bench.run()
    assert np.isinf(bench.outcomes[in_law].residual[0])


def test_a_deadline_that_passes_in_the_queue_is_told() -> None:
    bench = Bench(max_rows=4)
    for i in range(4):
        bench.submit(PLANS["ddpm"], [i], window=None)
    bench.scheduler.tick()
    late = bench.submit(PLANS["heun"], [0], deadline=0.01)
    bench.run()
    assert isinstance(bench.outcomes[late], BusyError)


def test_who_is_due_first_goes_first_and_nobody_starves() -> None:
    bench = Bench(max_rows=2)
    lowly = bench.submit(PLANS["2m"], [0], priority=-1)
    bench.scheduler.tick()
    low = bench.submit(PLANS["2m"], [1], priority=-1)
    usual = bench.submit(PLANS["2m"], [2])
    urgent = bench.submit(PLANS["2m"], [3], deadline=1.0)
    high = bench.submit(PLANS["2m"], [4], priority=1)
    bench.run()
    order = sorted((job for job in (low, usual, urgent, high)), key=lambda job: job.began)
    assert order == [high, urgent, usual, low]
    assert lowly in bench.outcomes
    # A stream of high priority as fast as the engine works: one of the lowest priority waits 20 s at most for it.
    bench = Bench(max_rows=2)
    starving, came = bench.submit(PLANS["2m"], [0], priority=-1), 0
    while starving not in bench.outcomes:
        if bench.scheduler.waiting < 3:
            bench.submit(PLANS["2m"], [came], priority=1)
            came += 1
        bench.scheduler.tick()
        assert bench.engine.now < 25


def test_who_watches_sees_samples_converge() -> None:
    bench = Bench()
    seen: list[np.ndarray] = []
    job = bench.submit(PLANS["ddpm"], [5, 6], watch=seen.append)
    bench.run()
    final = bench.outcomes[job].samples
    errors = [float(np.abs(each - final).mean()) for each in seen]
    assert seen[0].shape == (2, 64)
    assert len(errors) > 5
    assert errors[-1] < errors[0] / 3


def test_call_sizes_are_filled() -> None:
    engine = Simulated()
    engine.sizes = CallSizes(256)  # type: ignore[attr-defined]
    bench = Bench()
    bench.engine = engine
    bench.scheduler.__init__(engine, INFO, LATENCY, limit=256, clock=engine.clock, on_tick=bench.ticks.append)  # type: ignore[misc]
    for i in range(5):
        bench.submit(PLANS["ddpm"], [i])
    bench.run()
    assert set(engine.rows) <= set(CallSizes(256).up_to(256))
    full = [tick.rows / rows for tick, rows in zip(bench.ticks, engine.rows, strict=True)]
    assert np.mean(full[: len(full) // 2]) > 0.9


def test_jobs_that_no_call_holds_are_refused() -> None:
    bench = Bench(max_rows=8)
    with pytest.raises(InputError, match="a call here has 8 at most"):
        bench.submit(PLANS["ddim"], range(9))
    with pytest.raises(InputError, match="16 rows each at once"):
        bench.submit(PLANS["ddim"], [0], window=16)
    with pytest.raises(InputError, match="priority: got 11"):
        bench.job(PLANS["ddim"], priority=11)


def test_the_law_of_windows_fits_what_was_measured() -> None:
    """Sweeps of runs on the exact denoiser, by the formula with its hardness as it begins."""
    for plan, rows, sweeps in ((1000, 57, 29.8), (1000, 193, 14.5), (100, 35, 9.8), (25, 10, 9.1), (35, 14, 9.3)):
        assert 1 / 1.3 < plan / accepted(rows, plan, HARDNESS) / sweeps < 1.3
    hardness = Hardness()
    for _ in range(100):
        hardness.saw([10] * 20, 100)
    assert float(accepted(10, 100, hardness.value)) == pytest.approx(5, rel=1e-3)
    before = hardness.value
    hardness.saw([1] * 100, 100)
    assert hardness.value == before


def test_rows_are_shared_out_to_the_last() -> None:
    assert evenly(7, np.array([1, 5, 5])).tolist() == [1, 3, 3]
    assert evenly(100, np.array([1, 5, 2])).tolist() == [1, 5, 2]
    assert evenly(2, np.array([4, 4, 4])).tolist() == [1, 1, 0]
    assert evenly(0, np.array([4])).tolist() == [0]
    assert evenly(5, np.zeros(0, np.int64)).tolist() == []
    sizes = np.array([1.0, 8.0, 64.0, 256.0])
    assert efficient(sizes, np.array([LATENCY(size) for size in sizes])) == 256
    assert efficient(sizes, sizes) == 1
    assert efficient(sizes, sizes * 1e-3) == 64
