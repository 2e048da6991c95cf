"""`ncdeploy check`: what it says and its exit code."""

import json

import numpy as np

from oracle import digits
from tiny_models import IMAGES, write_mixture


def test_a_sound_engine_and_its_data_pass(run, models, tmp_path):
    data = digits().means[:20].reshape(20, 8, 8)
    np.save(tmp_path / "raw.npy", 8 + 8 * data)
    done = run("check", models["image"], "--data", "raw.npy")
    assert done.exit_code == 0, done.output
    assert "image.onnx is sound" in done.stdout
    record = json.loads(run("check", models["image"], "--json").stdout)
    assert record["ok"]
    assert len(record["levels"]) == 6


def test_what_is_wrong_is_one_line_and_exit_code_1(run, models, tmp_path):
    other = write_mixture(tmp_path / "other.onnx", IMAGES, digits().means[:100].reshape(100, 1, 8, 8), std=0.02)
    done = run("check", other)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the residual is ")
    np.save(tmp_path / "unit.npy", (1 + digits().means[:20].reshape(20, 8, 8)) / 2)
    done = run("check", models["image"], "--data", "unit.npy", "--json")
    assert done.exit_code == 1
    assert "the data do not look like" in json.loads(done.stdout)["faults"][0]
    done = run("check", models["image"], "--data", "missing.npy")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1


def test_without_a_curve_it_says_what_was_not_checked(run, models):
    done = run("check", models["points"])
    assert done.exit_code == 0, done.output
    assert "no error curve" in done.stderr
