"""A comparison is worth what it rejects: every corruption here is small or rare, and every one must fail."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity import compare, open_pair
from ncdeploy.parity.agreement import Agreement
from ncdeploy.sampling import schedules
from tiny_models import IMAGES, write_mixture

INFO = ModelInfo(shape=(1, 4, 4), sigma_min=0.02, sigma_max=80.0, sigma_data=0.5, num_classes=3)


class Gaussian:
    """The exact denoiser of N(label / 10, sigma_data^2); `corrupt` has the last word on its output."""

    name = "gaussian"

    def __init__(self, corrupt=None, info=INFO):
        self.info, self.corrupt, self.calls, self.buffer = info, corrupt, 0, None

    def __call__(self, x, sigma, labels=None):
        self.calls += 1
        return self.exact(x, sigma, labels) if self.corrupt is None else self.corrupt(self, x, sigma, labels)

    def exact(self, x, sigma, labels):
        mean = 0 if labels is None else labels[:, None, None, None] / 10
        shrink = (self.info.sigma_data**2 / (self.info.sigma_data**2 + sigma**2))[:, None, None, None]
        return (mean + shrink * (x - mean)).astype(np.float32)

    def close(self):
        pass


def test_equal_models_agree():
    report = compare(Gaussian(), Gaussian())
    assert report.ok
    assert report.max_abs == 0
    assert report.trajectory_rms == 0
    assert len(report.levels) >= 24
    assert report.levels[0].sigma < INFO.sigma_min
    assert report.levels[-1].sigma > INFO.sigma_max


def test_rounding_is_tolerated():
    def rounding(self, x, sigma, labels):
        return self.exact(x, sigma, labels) * np.float32(1 + 1e-6)

    assert compare(Gaussian(), Gaussian(rounding)).ok


def rolled(self, x, sigma, labels):
    return np.roll(self.exact(x, sigma, labels), 1, axis=0)


def last_two_rows_swapped_in_large_batches(self, x, sigma, labels):
    out = self.exact(x, sigma, labels)
    if len(out) > 8:
        out[[-1, -2]] = out[[-2, -1]]
    return out


def one_sigma_for_the_batch(self, x, sigma, labels):
    return self.exact(x, np.full_like(sigma, sigma[0]), labels)


def mean_sigma(self, x, sigma, labels):
    return self.exact(x, np.full_like(sigma, sigma.mean()), labels)


def labels_ignored(self, x, sigma, labels):
    return self.exact(x, sigma, np.full_like(labels, 3))


def sigma_clamped_at_the_lower_end(self, x, sigma, labels):
    return self.exact(x, np.maximum(sigma, np.float32(0.05)), labels)


def half_precision(self, x, sigma, labels):
    return self.exact(x, sigma, labels).astype(np.float16).astype(np.float32)


def off_around_one_sigma(self, x, sigma, labels):
    near = np.abs(np.log(sigma / 3.0)) < 0.2
    return self.exact(x, sigma, labels) + np.float32(2e-3) * near[:, None, None, None]


def one_pixel(self, x, sigma, labels):
    out = self.exact(x, sigma, labels)
    out[:, 0, 3, 3] += 1e-3
    return out


def off_in_odd_batches(self, x, sigma, labels):
    return self.exact(x, sigma, labels) + np.float32(1e-3) * (len(x) % 2 and len(x) > 1)


def nan_in_the_last_row_of_a_large_batch(self, x, sigma, labels):
    out = self.exact(x, sigma, labels)
    if len(x) == 64:
        out[-1] = np.nan
    return out


def overflow_at_high_noise(self, x, sigma, labels):
    return np.where((sigma > 50)[:, None, None, None], np.float32("inf"), self.exact(x, sigma, labels))


def previous_output(self, x, sigma, labels):
    out = self.exact(x, sigma, labels)
    stale, self.buffer = self.buffer, out
    return out if stale is None or stale.shape != out.shape else stale


def one_buffer_for_every_call(self, x, sigma, labels):
    """Right when read at once, wrong when kept."""
    if self.buffer is None:
        self.buffer = np.zeros((64, *x.shape[1:]), np.float32)
    self.buffer[: len(x)] = self.exact(x, sigma, labels)
    return self.buffer[: len(x)]


CORRUPTIONS = [
    rolled, last_two_rows_swapped_in_large_batches, one_sigma_for_the_batch, mean_sigma, labels_ignored,
    sigma_clamped_at_the_lower_end, half_precision, off_around_one_sigma, one_pixel, off_in_odd_batches,
    nan_in_the_last_row_of_a_large_batch, overflow_at_high_noise, previous_output, one_buffer_for_every_call,
]  # fmt: skip


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_corruptions_fail(corrupt, seed):
    report = compare(Gaussian(), Gaussian(corrupt), seed=seed)
    assert not report.ok
    assert "\n" not in report.summary


@pytest.mark.parametrize(
    "plan",
    [
        {"solver": "ddim", "steps": 50, "schedule": "ddpm"},
        {"solver": "ddim", "steps": 5, "schedule": "table", "levels": [0.02, 0.5, 3.0, 11.0, 60.0]},
    ],
)
def test_a_difference_at_training_levels_alone_is_seen(plan):
    """As of a network of whole steps that is asked at its neighbour's, where rounding leaves t a little below."""
    info = replace(INFO, default_plan=plan)
    trained = np.array(plan.get("levels", schedules.ddpm(1000)[:-1]))

    def neighbour(self, x, sigma, labels):
        on_level = np.abs(sigma[:, None] / trained - 1).min(axis=1) < 1e-6
        return self.exact(x, sigma, labels) + np.float32(2e-3) * on_level[:, None, None, None]

    report = compare(Gaussian(info=info), Gaussian(neighbour, info=info))
    wrong = [level.sigma for level in report.levels if level.max_abs > level.allowed]
    assert len(wrong) == min(12, len(trained))
    assert compare(Gaussian(), Gaussian(neighbour)).levels[0].max_abs == 0, "elsewhere they are equal"


def test_a_difference_above_the_tolerance_stands_beside_what_is_allowed_there():
    """float32's rounding of sigma, 4e-6 of it, comes on top: what agrees must not read as if it did not."""

    def rounded(self, x, sigma, labels):
        return self.exact(x, sigma, labels) + np.float32(3.9e-6) * sigma[:, None, None, None]

    report = compare(Gaussian(), Gaussian(rounded))
    assert report.ok
    assert report.max_abs > report.tolerance
    level = max(report.levels, key=lambda level: level.max_abs / level.allowed)
    assert (
        f"worst at sigma {level.sigma:.4g}: {level.max_abs:.2g} where {level.allowed:.2g} is allowed" in report.summary
    )
    assert "tolerances 0.0001, at high sigma more, and 0.001" in report.summary


def test_the_worst_place_is_named():
    report = compare(Gaussian(), Gaussian(off_around_one_sigma))
    assert abs(np.log(report.worst_sigma / 3.0)) < 0.2
    assert report.max_abs == pytest.approx(2e-3, rel=1e-2)
    bad = [level.sigma for level in report.levels if level.max_abs > level.allowed]
    assert all(abs(np.log(sigma / 3.0)) < 0.2 for sigma in bad)
    assert f"{report.worst_sigma:.4g}" in report.summary
    assert "0.002 where 0.00011 is allowed" in report.summary
    report = compare(Gaussian(), Gaussian(nan_in_the_last_row_of_a_large_batch))
    assert (report.worst_row, report.worst_batch) == (63, 64)
    assert report.max_abs == np.inf


def test_errors_that_only_add_up_along_a_trajectory_fail():
    """Each evaluation is within the level tolerance; the sample is not within its own."""

    def biased(self, x, sigma, labels):
        return self.exact(x, sigma, labels) + np.float32(9e-5)

    assert compare(Gaussian(), Gaussian(biased)).ok
    report = compare(Gaussian(), Gaussian(biased), trajectory_tolerance=2e-5)
    assert not report.ok
    assert all(level.max_abs <= level.allowed for level in report.levels)


def test_data_of_large_scale_gets_a_tolerance_of_its_scale():
    info = ModelInfo(shape=(2,), sigma_min=1.0, sigma_max=5000.0, sigma_data=100.0)

    class Wide(Gaussian):
        def exact(self, x, sigma, labels):
            return (1e4 / (1e4 + sigma.astype(np.float64) ** 2))[:, None] * x

        def __call__(self, x, sigma, labels=None):
            return np.float32(self.exact(x, sigma, labels) + self.calls)

    near, far = Wide(info=info), Wide(info=info)
    near.calls, far.calls = 5e-3, 0.5
    assert compare(Wide(info=info), near).ok
    assert not compare(Wide(info=info), far).ok


def test_report_is_json():
    report = compare(Gaussian(), Gaussian(one_pixel))
    record = json.loads(json.dumps(report.to_dict()))
    assert record["ok"] is False
    assert record["max_abs"] == report.max_abs
    assert len(record["levels"]) == len(report.levels)
    assert {t["plan"] for t in record["trajectories"]} == {"dpmpp_2m-25", "ddim-50"}

    broken = compare(Gaussian(), Gaussian(nan_in_the_last_row_of_a_large_batch)).to_dict()
    assert broken["max_abs"] is None
    assert "Infinity" not in json.dumps(broken)


def test_what_cannot_be_compared_is_refused():
    other = ModelInfo(shape=(1, 4, 4), sigma_min=0.02, sigma_max=80.0, sigma_data=0.5)
    with pytest.raises(InputError, match="num_classes: 3 and 0"):
        compare(Gaussian(), Gaussian(info=other))
    with pytest.raises(InputError, match="tolerance"):
        compare(Gaussian(), Gaussian(), tolerance=0.0)


def test_a_silent_file_takes_the_description_of_the_other(tmp_path):
    means = np.random.default_rng(0).standard_normal((20, 1, 8, 8))
    described = write_mixture(tmp_path / "a.onnx", IMAGES, means)
    silent = write_mixture(tmp_path / "b.onnx", IMAGES, means, described=False)
    wrong = write_mixture(tmp_path / "c.onnx", IMAGES, means + 0.01, described=False)
    for pair in ((described, silent), (silent, described)):
        a, b = open_pair(*pair, threads=1)
        assert a.info == b.info == IMAGES
        assert compare(a, b).ok
    assert not compare(*open_pair(described, wrong, threads=1)).ok
    with pytest.raises(InputError, match="describe themselves"):
        open_pair(described, described, info=IMAGES)


def test_samples_of_a_graph_agree_within_what_is_allowed_and_sweeps_within_one() -> None:
    found = Agreement(plan="ddim-10", window=4, samples=4, rms=1e-4, allowed=1e-4, sweeps=1)
    assert found.ok
    assert replace(found, sweeps=None).ok
    assert not replace(found, sweeps=2).ok
    assert not replace(found, rms=2e-4).ok
