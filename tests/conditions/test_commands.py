"""--condition: from files to samples, on the command line."""

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from conditioned import CONDITIONS, make
from ncdeploy import Condition, FileError, InputError, open_engine, sample
from ncdeploy.export import export_onnx
from ncdeploy.formats.conditions import parse_condition, read_conditions

INFO = make().info


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    export_onnx(make(), path, threads=1)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """obs for 4 samples, a single value of tokens, and an archive of tasks."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.save("obs.npy", rng.standard_normal((4, 2, 3)))
    np.save("tokens.npy", rng.standard_normal((4, 5)).astype(np.float32))
    np.savez("more.npz", task=np.array([0, 1, 2, 0]), other=np.zeros(3))
    return tmp_path


ALL = ["--condition", "obs=obs.npy", "--condition", "tokens=tokens.npy", "--condition", "task=more.npz:task"]


def run(*args):
    from ncdeploy_cli.main import app

    return CliRunner().invoke(app, [str(a) for a in args])


def test_sample_gives_every_sample_its_own(folder, model):
    done = run("sample", "-e", model, "-n", 4, *ALL, "--window", 5, "-o", "s.npy", "--json")
    assert done.exit_code == 0, done.output
    given = {"obs": np.load("obs.npy"), "tokens": np.stack([np.load("tokens.npy")] * 4), "task": [0, 1, 2, 0]}
    engine = open_engine(model)
    wanted = sample(engine, engine.info.plan(), seeds=range(4), conditions=given).samples
    np.testing.assert_allclose(np.load("s.npy"), wanted, atol=2e-3)
    assert np.abs(wanted - np.roll(wanted, 1, axis=0)).max() > 0.1


def test_verify_and_bench_take_them(folder, model):
    done = run("verify", model, model, *ALL)
    assert done.exit_code == 0, done.output
    done = run(
        "bench", model, *ALL, "--solvers", "ddim", "--steps", "8", "--windows", "4", "--repetitions", "1", "--json"
    )
    assert done.exit_code == 0, done.output
    assert "--condition task=more.npz:task" in json.loads(done.stdout)["recommendation"]["command"]


def test_tune_measures_with_conditions_of_one_sample(folder, model):
    done = run("tune", model, "--rows", 8, "--budget", 0.1, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"][0] == 1


def test_inspect_names_them(folder, model):
    said = run("inspect", model).output
    assert "obs float32 (2, 3) of a sample" in said


WRONG = {
    "missing": (["obs=obs.npy"], "task is missing"),
    "twice": (["obs=obs.npy", "obs=obs.npy"], "given twice"),
    "no file": (["obs"], "expected NAME=FILE"),
    "unknown": (["depth=obs.npy"], "got 'depth'"),
    "no key": (["task=more.npz"], "name one of its arrays"),
    "another key": (["task=more.npz:tasks"], "name one of its arrays.*it has other, task"),
    "another shape": (["obs=more.npz:task", "task=more.npz:task", "tokens=tokens.npy"], "obs: got"),
    "missing file": (["obs=nothing.npy"], "nothing.npy"),
    "no array": (["obs=text.npy"], "text.npy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(folder, name):
    (folder / "text.npy").write_text("no array")
    given, said = WRONG[name]
    with pytest.raises((InputError, FileError), match=said) as e:
        read_conditions(given, INFO, 8)
    assert "\n" not in str(e.value)


def test_values_fill_the_samples(folder):
    every = [text for text in ALL if "=" in text]
    found = read_conditions(every, INFO, 6)
    np.testing.assert_array_equal(found["task"], [0, 1, 2, 0, 0, 1])
    assert (found["tokens"] == found["tokens"][0]).all()
    assert len(read_conditions(every, INFO)["obs"]) == 4
    assert read_conditions([], open_engine_info(), 3) == {}


def open_engine_info():
    from dataclasses import replace

    return replace(INFO, conditions=())


def test_conditions_in_words():
    assert parse_condition("obs:float32:2x3:0") == CONDITIONS[0]
    assert parse_condition("task:int64::3") == CONDITIONS[1]
    assert parse_condition("tokens:float32:4x5") == CONDITIONS[2]
    assert parse_condition("goal:int64") == Condition(name="goal", dtype="int64", shape=())
    for wrong in ("obs", "obs:float64:2", "obs:float32:2,5", "obs:float32:2:x", "a:int64:1:0:0", "", "x:float32:2"):
        with pytest.raises(InputError, match="condition"):
            parse_condition(wrong)


def test_import_a_module_save_and_sample_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "conditioned", sys.modules["conditioned"])
    words = ["--condition", "obs:float32:2x3:0", "--condition", "task:int64::3", "--condition", "tokens:float32:4x5"]
    done = run(
        "import", "conditioned:per_row", "--predicts", "F", "--noise", "c-noise", "--shape", "6", *words, "-o", "m.pt",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert open_engine("m.pt", allow_module=True).info.conditions == CONDITIONS
    done = run("sample", "-e", "m.pt", "--trust", "-n", 2, *ALL, "-o", "s.npy", "--guidance", 2)
    assert done.exit_code == 0, done.output
