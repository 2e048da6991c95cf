"""`ncdeploy bundle`, and the commands that take what it writes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bundle_files import INFO
from ncdeploy import open_bundle
from tiny_models import IMAGES, write_mixture


def test_pairs_of_solver_and_steps(run, model):
    done = run("bundle", model, "--solver", "ddim", "--steps", 100, "--solver", "ddpm", "--steps", 200, "-o", "b/")
    assert done.exit_code == 0, done.output
    bundle = open_bundle("b")
    assert list(bundle.plans) == ["ddim-100", "ddpm-200"]
    assert [plan.window for plan in bundle.plans.values()] == [64, 64]
    assert "ddim-100: window 64, " in done.stdout
    assert "network calls instead of 200" in done.stdout


def test_without_a_solver_it_is_the_models_own_plan(run, model):
    done = run("bundle", model, "-o", "b", "--window", 5, "--tolerance", 0.01, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["plans"] == ["dpmpp_2m-12"]
    assert record["bytes"] == open_bundle("b").size
    stored = open_bundle("b").plan()
    assert (stored.window, stored.tolerance) == (5, 0.01)
    assert record["parity"]["plans"]["dpmpp_2m-12"]["window"] == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--solver", "ddim"), "got 1 --solver and 0 --steps; give as many of both"),
        (("--steps", 5), "got 0 --solver and 1 --steps"),
        (("--solver", "ddim", "--steps", 5, "--solver", "ddim", "--steps", 5), "ddim-5: given twice"),
        (("--solver", "dim", "--steps", 5), "did you mean 'ddim'?"),
        (("--no-verify", "--reference", "model.pt"), "reference: nothing is compared without verification"),
        (("--no-verify", "--threads", 1), "threads: nothing is compared without verification"),
        (("--trust",), "trust: is about the code of a reference"),
        (("--graph", "missing.onnx"), "missing.onnx: there is no such file"),
        (("--window", 0), "window: got 0"),
        (("--sigma-data", 1.0, "--sigma-min", 1.0, "--sigma-max", 2.0), "describes itself"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(run, model, tmp_path, arguments, said):
    done = run("bundle", model, "-o", "b", *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_force_replaces(run, model):
    for expected, extra in ((0, ()), (1, ()), (0, ("--force",))):
        assert run("bundle", model, "-o", "b", "--no-verify", *extra).exit_code == expected


def test_a_model_that_is_described_by_options(run, tmp_path):
    silent = write_mixture(tmp_path / "silent.onnx", INFO, np.eye(5), described=False)
    flags = ("--sigma-min", 0.01, "--sigma-max", 50, "--sigma-data", 0.5)
    done = run("bundle", silent, "-o", "b", *flags, "--solver", "heun", "--steps", 4)
    assert done.exit_code == 0, done.output
    bundle = open_bundle("b")
    assert (bundle.info.sigma_min, bundle.info.sigma_max, bundle.info.sigma_data) == (0.01, 50, 0.5)
    assert bundle.plan().plan.sigmas[0] == pytest.approx(50)


def test_sample_takes_the_plan_and_tolerance_of_the_bundle(run, bundle):
    def figures(*arguments):
        done = run("sample", "--engine", bundle.path, "-n", 3, "-o", "s.npy", "--force", "--json", *arguments)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout), np.load("s.npy")

    one, sequential = figures()
    assert (one["solver"], one["steps"], one["window"], one["depth"]) == ("ddim", 20, None, 20)
    assert figures("--parallel")[0]["auto"] is True, "what is fastest here, as for any engine"
    many, parallel = figures("--window", 16)
    assert (many["window"], many["depth"] < 20, 0 < many["residual"] <= 1e-3) == (16, True, True)
    exact, same = figures("--window", 16, "--tolerance", 0)
    assert exact["residual"] == 0
    np.testing.assert_allclose(same, sequential, atol=1e-6)
    assert np.sqrt(np.mean((parallel - sequential) ** 2)) < 1e-2
    assert figures("--plan", "ddpm-30")[0]["depth"] == 30
    assert figures("--plan", "ddpm-30", "--window", 7)[0]["window"] == 7
    assert figures("--solver", "euler", "--steps", 4)[0]["depth"] == 4


def test_the_tolerance_of_a_bundle_holds_for_any_window(run, model):
    assert run("bundle", model, "-o", "loose", "--no-verify", "--tolerance", 0.5).exit_code == 0

    def depth(*arguments):
        done = run(
            "sample", "--engine", "loose", "-n", 3, "-o", "s.npy", "--force", "--json", "--window", 12, *arguments
        )
        return json.loads(done.stdout)["depth"]

    assert depth() == depth("--tolerance", 0.5) < depth("--tolerance", 1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--plan", "ddim-21"), "has no plan 'ddim-21'; it has ddim-20, heun-6, ddpm-30, unipc-8"),
        (("--plan", "ddim-20", "--steps", 4), "--plan ddim-20: --steps asks for another plan"),
        (("--shape", "5", "--sigma-min", 1, "--sigma-max", 2, "--sigma-data", 1), "describes itself"),
    ],
)
def test_sample_refuses_what_does_not_fit_a_bundle(run, bundle, arguments, said):
    done = run("sample", "--engine", bundle.path, *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_only_a_bundle_has_plans(run, model):
    done = run("sample", "--engine", model, "--plan", "ddim-20")
    assert done.exit_code == 1
    assert "only a bundle has plans; choose with --solver and --steps" in done.stderr


def test_a_damaged_bundle_is_one_line_everywhere(run, copy):
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-1])
    for command in (("sample", "--engine", copy), ("inspect", copy), ("triton", copy, "-o", "r")):
        done = run(*command)
        assert done.exit_code == 1
        assert "model.onnx: has" in done.stderr
        assert done.stderr.count("\n") == 1


def test_inspect_describes_a_bundle(run, bundle):
    shown = run("inspect", bundle.path)
    assert shown.exit_code == 0, shown.output
    assert "bundle, " in shown.stdout
    assert "plans unipc-8" in shown.stdout
    record = json.loads(run("inspect", bundle.path, "--json").stdout)
    assert record["size"] == sum(entry.stat().st_size for entry in bundle.path.rglob("*") if entry.is_file()) - sum(
        (bundle.path / name).stat().st_size for name in ("manifest.json", "manifest.sha256")
    )
    assert record["details"]["plans"]["heun-6"] == {"evaluations": 11, "window": 11, "tolerance": 0.001}
    assert record["info"]["sigma_data"] == INFO.sigma_data
    assert record["details"]["parity"] == bundle.parity


def test_a_bundle_of_a_model_with_classes(run, tmp_path):
    model = write_mixture(tmp_path / "m.onnx", replace(IMAGES, num_classes=3), np.zeros((3, 1, 8, 8)))
    assert run("bundle", model, "--solver", "ddim", "--steps", 5, "-o", "b").exit_code == 0
    done = run("sample", "--engine", "b", "--labels", "all", "-n", 3)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "samples.png").exists()
