"""Starting from an earlier answer, which changes how many sweeps it takes and no sample, and ending by a deadline."""

import time

import numpy as np
import pytest

from ncdeploy import InputError, SampleOptions, make_plan, sample
from ncdeploy.sampling.errorcurve import ErrorCurve
from oracle import digits

ORACLE = digits()
SHAPE = (64,)
ODE, NOISY = make_plan("ddim", 50, schedule="karras"), make_plan("ddpm", 100)
SEEDS = range(16)


def drifting(drift: float):
    """The oracle's D of data that has moved by `drift` everywhere: what a slowly changing observation does."""

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        return (ORACLE(x - drift, sigma) + drift).astype(np.float32)

    return denoise


def run(drift: float = 0.0, plan=ODE, window: int | None = None, seeds=SEEDS, tolerance=1e-3, **options):
    """All samples with one window over the whole plan, unless another is given."""
    given = SampleOptions(shape=SHAPE, error_curve=curve(), **options)
    width = plan.evaluations if window is None else window
    return sample(drifting(drift), plan, seeds=seeds, window=width, tolerance=tolerance, options=given)


def curve() -> ErrorCurve:
    sigmas = np.geomspace(0.01, 100, 20)
    return ErrorCurve(sigmas=tuple(sigmas), mse=tuple(sigmas**2 / (1 + sigmas**2) * 0.3))


@pytest.mark.parametrize("acceptance", ["pathwise", "law"])
def test_the_last_answer_makes_the_next_one_cheap(acceptance) -> None:
    plan = ODE if acceptance == "pathwise" else NOISY
    cold, state = run(plan=plan, acceptance=acceptance, keep=True), None
    state = cold.trajectory
    for step in range(1, 4):
        warm = run(0.002 * step, plan, acceptance=acceptance, keep=True, start=state)
        state = warm.trajectory
        assert np.median(warm.sweeps) <= 5 < np.median(cold.sweeps)


def test_a_start_changes_no_sample() -> None:
    """Whatever it is: those of another model, noise, or far away."""
    wanted = sample(drifting(0.3), ODE, seeds=SEEDS, options=SampleOptions(shape=SHAPE)).samples
    rng = np.random.default_rng(0)
    cold = run(0.3)
    trajectory = run(0.0, keep=True).trajectory
    for start in (trajectory, rng.standard_normal((16, 64)).astype(np.float32), np.full((16, 64), 50.0)):
        found = run(0.3, start=start, tolerance=0)
        assert np.abs(found.samples - wanted).max() < 1e-4
    guessed = run(0.3, start=rng.standard_normal((16, 64)).astype(np.float32))
    assert np.median(guessed.sweeps) <= np.median(cold.sweeps) + 2


def test_a_start_in_narrow_windows_that_take_turns() -> None:
    """New nodes follow the trajectory, in lanes that are given to other samples meanwhile."""
    trajectory = run(keep=True, window=9, max_rows=27).trajectory
    wanted = sample(drifting(0.0), ODE, seeds=SEEDS, options=SampleOptions(shape=SHAPE, keep=True))
    assert np.abs(trajectory.outputs - wanted.trajectory.outputs)[:, :-1].max() < 0.02
    cold, warm = (run(0.001, window=9, max_rows=27, start=start) for start in (None, trajectory))
    assert warm.depth < 0.75 * cold.depth
    assert np.abs(warm.samples - cold.samples).max() < 0.02


def test_samples_in_law_have_the_law_from_any_start() -> None:
    """Mean and variance of a Gaussian's samples, started from the answers of the same seeds at another place."""
    seeds, plan = range(4000), make_plan("ddpm", 20)

    def gauss(centre: float):
        def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
            part = (0.5**2 / (0.5**2 + sigma**2))[:, None]
            return (centre + part * (x - centre)).astype(np.float32)

        return denoise

    options = {"shape": (1,), "acceptance": "law"}
    first = sample(gauss(0.0), plan, seeds=seeds, window=20, options=SampleOptions(**options, keep=True))
    wanted = sample(gauss(0.5), plan, seeds=range(4000, 8000), options=SampleOptions(shape=(1,))).samples[:, 0]
    for start in (first.trajectory, first.samples + 3):
        found = sample(gauss(0.5), plan, seeds=seeds, window=20, options=SampleOptions(**options, start=start))
        values = found.samples[:, 0]
        assert abs(values.mean() - wanted.mean()) < 4 * 0.5 * (2 / 4000) ** 0.5
        assert abs(values.std() / wanted.std() - 1) < 4 / 4000**0.5
        assert abs(found.rejections.sum() - found.rejection_odds.sum()) < 5 * found.rejection_odds.sum() ** 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": np.zeros((16, 3))}, "start: got"),
        ({"start": np.full((16, 64), np.nan)}, "start: holds NaN"),
        ({"deadline": 0.0}, "deadline: got 0.0"),
        ({"deadline": float("inf")}, "deadline: got inf"),
    ],
)
def test_what_does_not_fit_is_refused(options, words) -> None:
    with pytest.raises(InputError, match=words):
        run(**options)


def test_a_trajectory_of_another_run_is_refused() -> None:
    trajectory = run(keep=True).trajectory
    with pytest.raises(InputError, match="is of plan ddim-50, this is ddpm-100"):
        run(plan=NOISY, start=trajectory)
    with pytest.raises(InputError, match="of other seeds"):
        run(seeds=range(1, 17), start=trajectory)
    with pytest.raises(InputError, match="is of parallel sampling"):
        sample(drifting(0), ODE, seeds=SEEDS, options=SampleOptions(shape=SHAPE, start=trajectory))
    with pytest.raises(InputError, match="deadline: measuring what is fastest"):
        sample(drifting(0), ODE, seeds=SEEDS, window="auto", options=SampleOptions(shape=SHAPE, deadline=1.0))


class Clock:
    """Every call of the network takes a second of its own clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self, x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        self.now += 1.0
        return drifting(0.0)(x, sigma)


@pytest.mark.parametrize("window", [None, 16, 50])
@pytest.mark.parametrize("deadline", [0.2, 3.5, 5.5, 1000.0])
def test_a_run_ends_by_its_deadline_with_what_it_knows(monkeypatch, window, deadline) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    options = SampleOptions(shape=SHAPE, error_curve=curve(), deadline=deadline)
    found = sample(clock, ODE, seeds=[3], window=window, options=options)
    full = sample(drifting(0.0), ODE, seeds=[3], options=SampleOptions(shape=SHAPE)).samples
    assert clock.now == found.depth
    assert found.depth == (max(1, int(deadline)) if deadline < 100 else found.depth)
    assert found.complete.tolist() == [deadline > 100]
    assert np.isfinite(found.samples).all()
    if deadline > 100:
        assert np.abs(found.samples - full).max() < 0.02
        assert found.residual.max() <= 1e-3
    elif window is not None:
        assert found.residual.min() > 1e-3


def test_what_is_known_gets_better_with_time(monkeypatch) -> None:
    full = sample(drifting(0.0), ODE, seeds=SEEDS, options=SampleOptions(shape=SHAPE)).samples
    errors = []
    for deadline in (1.5, 4.5, 7.5, 100.0):
        clock = Clock()
        monkeypatch.setattr(time, "perf_counter", lambda clock=clock: clock.now)
        options = SampleOptions(shape=SHAPE, error_curve=curve(), deadline=deadline)
        found = sample(clock, ODE, seeds=SEEDS, window=50, options=options)
        errors.append(float(np.sqrt(np.mean((found.samples - full) ** 2))))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_samples_that_were_not_begun_are_the_mean() -> None:
    options = SampleOptions(shape=SHAPE, deadline=1e-9, max_rows=4, mean=np.full(64, 0.25))
    found = sample(drifting(0.0), ODE, seeds=SEEDS, window=4, options=options)
    assert found.depth == 1
    assert (found.samples[1:] == 0.25).all()
    assert np.isinf(found.residual[1:]).all()
    assert not found.complete.any()


@pytest.mark.parametrize("window", [None, 12, 50])
def test_a_run_that_ended_early_is_a_start_too(monkeypatch, window) -> None:
    """Its trajectory goes on with what was known: no worse than none, and better where there was time for much."""
    cold = run()
    for deadline in (1.5, 40.5):
        clock = Clock()
        monkeypatch.setattr(time, "perf_counter", lambda clock=clock: clock.now)
        options = SampleOptions(shape=SHAPE, error_curve=curve(), deadline=deadline, keep=True)
        early = sample(clock, ODE, seeds=SEEDS, window=window, options=options)
        monkeypatch.undo()
        assert np.abs(early.trajectory.outputs[:, -2]).max() > 0
        warm = run(start=early.trajectory)
        assert np.median(warm.sweeps) <= np.median(cold.sweeps) + 1
    assert np.median(warm.sweeps) < np.median(cold.sweeps)
