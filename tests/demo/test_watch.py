"""What the demo measures: the two runs it compares, the map of residuals, and the distances it reports."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ncdeploy.demo import pictures
from ncdeploy.demo.outcome import measure_quality
from ncdeploy.demo.watch import Pair, Watched, node_residuals, run_pair
from ncdeploy.evaluation.distances import energy_distance
from ncdeploy.report import charts
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.recipe import make_plan
from oracle import digits
from tiny_models import IMAGES


class Oracle:
    """The digits' mixture in the shape of a backend."""

    info, name = IMAGES, "oracle"

    def __call__(self, x: Any, sigma: Any, labels: Any = None) -> Any:
        return digits()(x, sigma).astype(np.float32)

    def close(self) -> None: ...


def _finish(run: Generator[float, None, Pair]) -> tuple[list[float], Pair]:
    shares = []
    while True:
        try:
            shares.append(next(run))
        except StopIteration as end:
            return shares, end.value


@pytest.fixture(scope="module")
def pair() -> Pair:
    return _finish(run_pair(Oracle(), make_plan("ddim", 24), seeds=range(6), labels=None, window=10))[1]


def test_both_runs_are_what_sample_gives_and_progress_reaches_the_end():
    plan = make_plan("ddim", 24)
    shares, pair = _finish(run_pair(Oracle(), plan, seeds=range(6), labels=None, window=10))
    for run, window in ((pair.sequential, None), (pair.parallel, 10)):
        wanted = sample(
            Oracle(), plan, seeds=range(6), window=window,
            options=SampleOptions(shape=IMAGES.shape, error_curve=IMAGES.error_curve),
        )  # fmt: skip
        assert np.array_equal(run.result.samples, wanted.samples)
        assert len(run.estimates) == wanted.depth == run.result.depth
        assert run.estimates.shape[1:] == (6, 1, 8, 8)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_estimates_converge_to_the_samples(pair):
    run = pair.parallel
    gaps = np.abs(run.estimates - np.asarray(run.result.samples)).max(axis=(1, 2, 3, 4))
    assert gaps[0] > 0.5
    assert gaps[-1] < 0.05


def test_the_rms_sees_a_corrupted_sample(pair):
    assert np.median(pair.rms) < 1e-3
    assert pair.figures()["rms_beyond"] == 0
    samples = np.array(pair.parallel.result.samples)
    samples[2] += 0.5
    broken = replace(pair, parallel=replace(pair.parallel, result=replace(pair.parallel.result, samples=samples)))
    assert broken.rms[2] == pytest.approx(0.5, abs=1e-2)
    assert broken.figures()["rms_beyond"] == pytest.approx(1 / 6)


def test_the_map_of_residuals_follows_the_window(pair):
    residuals = pair.parallel.residuals
    assert residuals.shape == (pair.parallel.result.depth, len(pair.plan))
    known = np.isfinite(residuals)
    first, last = known.argmax(axis=1), known.shape[1] - known[:, ::-1].argmax(axis=1)
    assert first[0] == 1
    assert last[0] == 11
    assert (np.diff(first) >= 0).all()
    assert last[-1] == len(pair.plan)
    assert charts.image(pictures.residual_map(pair.parallel), 300).size == (300, 300)


def test_residuals_of_several_samples_are_averaged_at_their_nodes():
    class Sweep:
        nodes, base = 5, np.array([0, 2])
        residual = np.array([[1e-2, 1e-4], [1e-2, 0.0]])

    found = node_residuals(Sweep())
    assert found[1:4] == pytest.approx([1e-2, 1e-4, 1e-2])
    assert np.isnan(found[[0, 4]]).all()
    Sweep.base = np.array([1, 1])
    assert node_residuals(Sweep())[2:4] == pytest.approx([1e-2, 1e-4])


@pytest.mark.parametrize(
    ("calls", "wanted"), [(1, [1]), (4, [1, 2, 3, 4]), (11, [1, 2, 3, 5, 8, 11]), (8, [1, 2, 3, 5, 8])]
)
def test_chosen_sweeps_spread_out_and_end_at_the_last(calls, wanted):
    assert pictures.chosen_sweeps(calls) == wanted


def _pair_of(sequential: np.ndarray, parallel: np.ndarray, pair: Pair) -> Pair:
    def run(samples: np.ndarray) -> Watched:
        return replace(pair.sequential, result=replace(pair.sequential.result, samples=samples))

    return replace(pair, sequential=run(sequential), parallel=run(parallel))


def test_the_floor_is_what_real_data_score_and_bad_samples_score_more(pair):
    rng = np.random.default_rng(0)
    real = rng.permutation(digits().means).reshape(-1, 1, 8, 8).astype(np.float32)
    train, held_out, fresh = real[:800], real[800:1200], real[1200:1500]
    quality = measure_quality(_pair_of(fresh, fresh * 0.7, pair), train, held_out, seed=0)
    assert (quality.n, quality.held_out) == (300, 400)
    assert quality.sequential == pytest.approx(quality.floor, rel=0.35)
    assert quality.parallel > 2 * quality.floor
    assert quality.sequential == energy_distance(fresh, held_out)
