"""What a bench measures, and what it recommends."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ncdeploy.auto.latency import Latency
from ncdeploy.errors import InputError
from ncdeploy.evaluation.bench import Row, bench, runs_of
from ncdeploy.evaluation.distances import Estimate, estimate_energy_distance
from ncdeploy.evaluation.recommend import recommend
from ncdeploy.run import sample
from ncdeploy.sampling.recipe import make_plan
from oracle import GaussianMixture
from tiny_models import POINTS

RING = GaussianMixture([[np.cos(t), np.sin(t)] for t in np.linspace(0, 2 * np.pi, 8, endpoint=False)], 0.05)


class Engine:
    """The exact denoiser of points on a ring, moved by `shift`, behind the contract of a backend."""

    info, name = POINTS, "NumPy"

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = np.array([shift, 0.0])

    def __call__(self, x, sigma, labels=None, guidance=None):
        return (RING(x - self.shift, sigma) + self.shift).astype(x.dtype)

    def close(self) -> None: ...


def _plans(*names: str) -> list:
    split = [(solver, int(steps)) for solver, _, steps in (name.partition("-") for name in names)]
    return [(solver, steps, make_plan(solver, steps)) for solver, steps in split]


def test_costs_are_those_of_the_runs_and_fidelity_is_to_the_sequential_samples():
    engine, plans = Engine(), _plans("ddim-40", "ddpm-40")
    found = bench(engine, plans, [5, 16], n=2, repetitions=2, judged=6)
    assert [r.driver for r in found.rows] == ["sequential", "window 5", "window 16"] * 2
    for i, (_, _, plan) in enumerate(plans):
        exact, *windows = found.rows[3 * i : 3 * i + 3]
        assert (exact.depth, exact.nfe, exact.gain, exact.rms) == (40, 40, (1.0, 1.0, 1.0), None)
        reference = sample(engine, plan, seeds=range(6)).samples
        for row in windows:
            assert row.depth < 40 < row.nfe
            assert row.gain[1] <= row.gain[0] <= row.gain[2]
            own = sample(engine, plan, seeds=range(6), window=row.window).samples
            assert row.rms == pytest.approx(float(np.median(np.sqrt(((own - reference) ** 2).mean(1)))))
            assert 0 < row.rms < 1e-3


def test_ways_of_sampling_take_turns_so_that_noise_hits_all_alike():
    order: list[str] = []
    plans = _plans("euler-6", "ddpm-6")
    bench(Engine(), plans, [3], repetitions=3, judged=2, on_run=order.append)
    rounds = [order[i : i + 4] for i in range(0, 12, 4)]
    assert all(set(one) == set(rounds[0]) and len(set(one)) == 4 for one in rounds)
    assert all(a == b[::-1] for a, b in pairwise(rounds))
    assert len(order) == runs_of(plans, [3], 3, data=False)


def test_without_data_quality_is_the_error_of_the_solver():
    names = ("euler-10", "euler-40", "euler-160", "heun-80", "ddpm-10")
    plans = [  # to the lowest level of the model, as the fine solution goes
        (s, k, make_plan(s, k, sigma_min=None if s == "ddpm" else POINTS.sigma_min)) for s, k, _ in _plans(*names)
    ]
    found = bench(Engine(), plans, [8], judged=8, repetitions=1)
    quality = {row.plan: row.quality for row in found.rows if row.window is None}
    assert quality["ddpm-10"] is None, "it draws noise, so it solves another equation"
    assert quality["euler-10"] > 2 * quality["euler-40"] > 4 * quality["euler-160"]
    assert quality["heun-80"] < quality["euler-160"] / 2
    for row in found.rows:
        if row.quality is not None:
            assert row.quality == pytest.approx(quality[row.plan], abs=2e-3), "parallel sampling solves the same"
    assert found.floor is None


def test_a_wrong_plan_has_a_worse_quality():
    ((solver, steps, plan),) = _plans("unipc-40")
    wrong = replace(plan, name="wrong", denoised=plan.denoised * 1.05)
    right, other = bench(Engine(), [(solver, steps, plan), (solver, steps, wrong)], [], judged=8, repetitions=1).rows
    assert other.quality > 20 * right.quality


def test_with_data_quality_is_the_distance_to_it_beside_that_of_real_data():
    data = RING.sample(400, seed=3).astype(np.float32)
    plans = _plans("unipc-20", "ddpm-20")
    found = bench(Engine(), plans, [], judged=100, repetitions=1, data=data)
    for row, (_, _, plan) in zip(found.rows, plans, strict=True):
        x = sample(Engine(), plan, seeds=range(100)).samples
        assert row.quality == pytest.approx(estimate_energy_distance(x, data).value)
        assert abs(row.quality) < 3 * row.error, "the samples are of the distribution of the data"
    moved = bench(Engine(shift=0.3), plans, [], judged=100, repetitions=1, data=data)
    assert 0 < found.floor < 0.03
    assert found.rows[0].quality < found.floor
    assert moved.rows[0].quality > 2 * found.floor
    assert moved.rows[0].quality > 2 * moved.rows[0].error
    record = found.figures()
    assert record["rows"][0]["quality_error"] == found.rows[0].error
    assert "estimate" not in record["rows"][0]


def test_windows_are_cut_to_the_plan_and_to_the_rows_of_a_call():
    rows = bench(Engine(), _plans("euler-6"), [4, 16, 32], repetitions=1, judged=2).rows
    assert [(r.window, r.driver) for r in rows] == [(None, "sequential"), (4, "window 4"), (6, "window 16")]
    rows = bench(Engine(), _plans("euler-6"), [4], repetitions=1, judged=2, max_rows=3).rows
    assert [r.window for r in rows] == [None, 3]


def test_auto_is_a_driver_like_any_other():
    sequential, auto = bench(Engine(), _plans("euler-6"), ["auto"], repetitions=1, judged=2).rows
    assert (auto.window, auto.driver) == ("auto", "window auto")
    assert auto.rms < 1e-3
    assert auto.depth <= sequential.depth
    assert auto.ran is None or 1 <= auto.ran <= 6


@pytest.mark.parametrize(("seconds", "ran"), [(lambda rows: 1.0 + 1e-6 * rows, 6), (float, None)])
def test_a_row_of_auto_says_what_was_chosen(seconds, ran):
    rows = (1, 2, 4, 8, 16, 32, 64)
    latency = Latency(rows=rows, seconds=tuple(map(seconds, rows)), asked=1 << 18)
    found = bench(Engine(), _plans("euler-6"), [4, "auto"], repetitions=1, judged=2, latency=latency).rows
    assert [r.ran for r in found] == [None, 4, ran]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n: got 0"),
        ({"tolerance": -1.0}, "tolerance: got -1.0"),
        ({"judged": 0}, "judged"),
        ({"data": np.zeros((9, 3), np.float32)}, "takes samples of"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        bench(Engine(), _plans("euler-6"), [], **given)


def _row(plan: str, wall_s: float, quality: float | None, window: int | None = None) -> Row:
    solver, _, steps = plan.partition("-")
    return Row(
        solver=solver, steps=int(steps), window=window, driver=f"window {window}" if window else "sequential",
        plan=plan, depth=float(steps), nfe=float(steps), wall_s=wall_s, gain=(1.0, 1.0, 1.0), rms=None, beyond=None,
        quality=quality,
    )  # fmt: skip


ROWS = (
    _row("unipc-8", 0.01, 0.08),
    _row("unipc-20", 0.03, 0.0102),
    _row("unipc-40", 0.08, 0.010),
    _row("ddim-20", 0.02, 0.05, window=8),
    _row("ddpm-8", 0.001, None),
)


@pytest.mark.parametrize(
    ("asked", "plan", "met"),
    [
        ({}, "unipc-20", True),
        ({"quality": 0.06}, "ddim-20", True),
        ({"quality": 0.0101}, "unipc-40", True),
        ({"quality": 0.001}, "unipc-40", False),
        ({"budget_s": 0.025}, "ddim-20", True),
        ({"budget_s": 0.005}, "unipc-8", False),
        ({"budget_s": 1.0, "quality": 0.06}, "ddim-20", True),
        ({"budget_s": 0.015, "quality": 0.06}, "unipc-8", False),
    ],
)
def test_the_recommendation_is_the_fastest_that_is_good_enough(asked, plan, met):
    for rows in (ROWS, ROWS[::-1]):
        advice = recommend(rows, **asked)
        assert (advice.row.plan, advice.met) == (plan, met)


def _judged(plan: str, wall_s: float, shares: np.ndarray, value: float) -> Row:
    """A row whose samples speak for `shares` around the value."""
    estimate = Estimate(value=value, shares=(shares - shares.mean(),))
    return replace(_row(plan, wall_s, value), estimate=estimate)


def test_what_cannot_be_told_from_the_best_counts_as_the_best_and_no_more():
    """The differences of paired samples decide: what all of them share says nothing about which is better."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(64)  # standard error 0.125 of each quality
    near = _judged("unipc-8", 0.01, shared + 0.4 * rng.standard_normal(64), 0.35)  # 0.05 of the difference
    best = _judged("unipc-40", 0.08, shared, 0.30)
    assert recommend([near, best]).row is near
    assert "cannot be told from the best" in recommend([near, best]).reason
    clear = _judged("unipc-8", 0.01, shared + 0.1 * rng.standard_normal(64), 0.35)  # 0.0125
    assert recommend([clear, best]).row is best, "two errors of either quality would let it pass"
    assert recommend([clear, best], budget_s=0.05).row is clear
    assert recommend([clear, best], budget_s=1.0).reason == "the best within the budget"
    slight = _judged("unipc-8", 0.01, shared + 0.01 * rng.standard_normal(64), 0.31)  # told apart, by a thirtieth
    assert recommend([slight, best]).row is slight


def test_no_more_is_said_of_real_data_than_the_samples_allow():
    assert "real data" not in recommend(ROWS, floor=0.001).reason
    advice = recommend(ROWS, floor=0.06)
    assert advice.row.plan == "unipc-20", "settings are told apart better than any is from real data"
    assert "so many samples cannot tell the best from real data" in advice.reason


def test_nothing_is_recommended_without_a_quality_and_targets_are_checked():
    assert recommend(ROWS[-1:]) is None
    for asked in ({"quality": 0.0}, {"budget_s": float("nan")}):
        with pytest.raises(InputError, match="expected a positive number"):
            recommend(ROWS, **asked)
