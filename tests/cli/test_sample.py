"""`ncdeploy sample`: what it writes, what it says, and that the two ways of sampling agree."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncdeploy.auto.latency import Latency
from ncdeploy.errors import InputError
from ncdeploy.sampling.recipe import make_plan
from ncdeploy_cli.choices import BATCH_VALUES, Execution, choose_classes
from oracle import digits
from tiny_models import IMAGES, write_mixture


def _npz(path: str | Path) -> np.ndarray:
    with np.load(path) as archive:
        return archive["samples"]


def _size(path: str) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


def test_parallel_gives_the_sequential_samples_in_fewer_calls(run, models):
    figures = {}
    for way, options in {"sequential": ["--sequential"], "parallel": ["--window", 12]}.items():
        done = run("sample", "-e", models["image"], "-n", 8, *options, "-o", f"{way}.npz", "--json")
        assert done.exit_code == 0, done.output
        figures[way] = json.loads(done.stdout)
    a, b = _npz("sequential.npz"), _npz("parallel.npz")
    rms = np.sqrt(((a - b) ** 2).mean(axis=(1, 2, 3))) / 8
    assert a.shape == (8, 1, 8, 8)
    assert np.median(rms) < 2e-4
    assert np.abs(a - np.roll(a, 1, axis=0)).max() > 1, "samples must differ from one another"
    assert figures["sequential"]["depth"] == figures["sequential"]["nfe"] == 12
    assert figures["parallel"]["depth"] < 12 < figures["parallel"]["nfe"]
    assert figures["parallel"]["sequential_depth"] == figures["parallel"]["sequential_nfe"] == 12
    assert 0 < figures["parallel"]["residual"] <= 1e-3
    assert figures["parallel"]["sweeps"] <= figures["parallel"]["depth"]


def test_json_says_at_least_what_scripts_rely_on(run, models):
    done = run("sample", "-e", models["image"], "-n", 3, "--window", 20, "--solver", "ddim", "--steps", 20, "--json")
    record = json.loads(done.stdout)
    wanted = {"n": 3, "solver": "ddim", "steps": 20, "window": 20, "output": "samples.png"}
    assert {k: record[k] for k in wanted} == wanted
    assert {"depth", "nfe", "sweeps", "residual", "wall_s", "engine_s"} <= record.keys()
    assert 0 < record["engine_s"] <= record["wall_s"]


def test_the_summary_names_depth_and_what_sequential_would_have_cost(run, models):
    done = run("sample", "-e", models["image"], "-n", 4, "--window", 6)
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert lines["depth"][2] == "12"
    assert int(lines["depth"][1]) < 12
    assert lines["NFE"][2] == "12"
    assert "wrote samples.png" in done.stdout
    assert "wall" in lines
    assert "residual" in lines
    assert done.stdout.startswith("4 samples, ")
    assert "at a time" not in done.stdout
    done = run("sample", models["image"], "-n", 1, "--force")
    assert done.stdout.startswith("1 sample, ")


def test_auto_says_how_many_samples_it_takes_at_a_time(run, models, tmp_path):
    arguments = ("sample", "-e", models["image"], "-n", 6, "--parallel", "--tolerance", 0, "--force")
    assert run(*arguments).exit_code == 0
    (kept,) = (tmp_path / "cache" / "ncdeploy" / "latency").glob("*.json")
    dear = Latency(rows=(1, 2, 3), seconds=(0.001, 0.01, 0.1), asked=Latency.from_json(kept.read_text()).asked)
    kept.write_text(dear.to_json())
    done = run(*arguments)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert lines["depth"].split()[1] == "72", "six times the twelve evaluations"
    assert lines["depth"].rstrip().endswith("one after another, 1 sample at a time")


def test_samples_follow_their_seeds_not_the_batch(run, models):
    run("sample", "-e", models["image"], "-n", 6, "--seed", 3, "--window", 12, "-o", "all.npz")
    run("sample", "-e", models["image"], "-n", 6, "--seed", 3, "--window", 12, "--rows", 12, "-o", "few.npz")
    run("sample", "-e", models["image"], "-n", 1, "--seed", 7, "--window", 12, "-o", "one.npz")
    assert np.abs(_npz("all.npz") - _npz("few.npz")).max() < 1e-3
    assert np.abs(_npz("all.npz")[4] - _npz("one.npz")[0]).max() < 1e-3
    assert np.abs(_npz("all.npz")[3] - _npz("one.npz")[0]).max() > 1


def test_a_sheet_of_pictures_a_folder_and_a_plot(run, models):
    assert run("sample", "-e", models["image"], "-n", 9, "-o", "sheet.png").exit_code == 0
    assert _size("sheet.png") == (3 * 48 + 4, 3 * 48 + 4)
    assert run("sample", "-e", models["image"], "-n", 3, "-o", "folder/").exit_code == 0
    assert [f.name for f in sorted(Path("folder").iterdir())] == ["0.png", "1.png", "2.png"]
    assert run("sample", "-e", models["points"], "-n", 50, "-o", "plot.png").exit_code == 0
    assert _size("plot.png") == (640, 640)


def test_without_an_output_vectors_go_to_an_archive(run, models):
    done = run("sample", "-e", models["vectors"], "-n", 4)
    assert done.exit_code == 0, done.output
    assert _npz("samples.npz").shape == (4, 5)


def test_labels_are_stored_with_the_samples(run, models):
    done = run("sample", "-e", models["classes"], "-n", 5, "--labels", "3,7", "-o", "s.npz")
    assert done.exit_code == 0, done.output
    with np.load("s.npz") as archive:
        assert archive["labels"].tolist() == [3, 7, 3, 7, 3]


def test_an_onnx_file_without_metadata_runs_with_the_options_it_asks_for(run, models):
    done = run("sample", "-e", models["silent"], "-n", 2)
    assert done.exit_code == 1
    for option in ("--sigma-min", "--sigma-max", "--sigma-data"):
        assert option in done.stderr
    options = ("--sigma-min", 0.02, "--sigma-max", 80, "--sigma-data", 0.75)
    done = run("sample", "-e", models["silent"], "-n", 2, *options, "--steps", 12, "-o", "silent.npz")
    assert done.exit_code == 0, done.output
    run("sample", "-e", models["image"], "-n", 2, "-o", "told.npz")
    assert np.abs((_npz("told.npz") - 8) / 8 - _npz("silent.npz")).max() < 1e-4


def test_a_schedule_outside_the_trained_range_is_announced_on_stderr(run, models):
    done = run("sample", "-e", models["image"], "-n", 1, "--sigma-max", 300, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["n"] == 1
    assert done.stderr.startswith("warning: dpmpp_2m-12 asks for noise levels 0.02 to 300")
    assert len(done.stderr.splitlines()) == 1
    assert run("sample", models["image"], "-n", 1, "--force").stderr == ""
    IMAGES.check_plan(make_plan(sigma_min=0.002, sigma_max=160.0))  # a warning would be an error here


def test_plans_start_from_the_models_own():
    def same(plan, other):
        return plan.name == other.name and np.array_equal(plan.sigmas, other.sigmas)

    own = make_plan("dpmpp_2m", 12, sigma_min=0.02, sigma_max=80.0)
    assert same(IMAGES.plan(), own)
    assert same(IMAGES.plan(solver=None, steps=7), make_plan("dpmpp_2m", 7, sigma_min=0.02, sigma_max=80.0))
    narrow = replace(IMAGES, default_plan={"solver": "unipc", "steps": 9, "order": 3, "sigma_max": 40.0})
    assert same(narrow.plan(solver="heun"), make_plan("heun", sigma_max=40.0))
    assert same(narrow.plan(solver="ddpm", steps=50), make_plan("ddpm", 50))
    assert same(narrow.plan(schedule="cosine"), make_plan("unipc", 9, order=3, schedule="cosine"))
    with pytest.raises(InputError, match="sigma_max"):
        IMAGES.plan(solver="ddpm", steps=50, sigma_max=10.0)


def test_classes_from_text():
    conditional = replace(IMAGES, num_classes=4)
    assert choose_classes("all", 6, conditional).tolist() == [0, 1, 2, 3, 0, 1]
    assert choose_classes(None, 2, conditional).tolist() == [4, 4]
    assert choose_classes("none", 2, IMAGES) is None
    assert choose_classes("3, 0", 3, conditional).dtype == np.int64


def test_rows_of_a_call_are_bounded_by_the_size_of_a_sample():
    big = replace(IMAGES, shape=(3, 64, 64))
    plan = make_plan(steps=50)

    def choose(info, **given):
        return Execution.choose(
            plan, info, **{"parallel": None, "window": None, "tolerance": None, "rows": None} | given
        )

    assert choose(big).rows == BATCH_VALUES // (3 * 64 * 64)
    assert choose(big, parallel=True) == Execution(window="auto", tolerance=None, rows=BATCH_VALUES // (3 * 64 * 64))
    assert choose(big, window=32) == Execution(window=32, tolerance=None, rows=32)
    assert choose(IMAGES, window=5).window == 5
    assert choose(IMAGES, rows=10).sequential_depth(plan, 25) == 150


def test_states_that_the_model_does_not_know_are_told(run, models, tmp_path):
    narrow = write_mixture(tmp_path / "narrow.onnx", IMAGES, digits().means[:100].reshape(100, 1, 8, 8), std=0.03)
    for model, told in ((models["image"], False), (narrow, True)):
        done = run("sample", model, "-n", 16, "-o", f"{told}.npz")
        assert done.exit_code == 0, done.output
        assert ("does not look like what this model was trained on" in done.stderr) is told
        assert done.stderr.count("warning") == told
    record = json.loads(run("sample", models["image"], "-n", 4, "-o", "json.npz", "--json").stdout)
    assert min(record["energy"]["ratio"]) > 0.5
    assert len(record["energy"]["sigmas"]) == len(record["energy"]["ratio"]) == len(record["energy"]["band"])
    none = run("sample", models["points"], "-n", 4, "-o", "none.npz", "--json")
    assert json.loads(none.stdout)["energy"] is None
