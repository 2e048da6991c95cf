"""`ncdeploy demo` shows each stage as it ends, says where the page is, and fails early where it must."""

import pytest

from ncdeploy.errors import NumericalError


def _fake(fail: bool = False):
    from ncdeploy.demo.run import Step

    def run_demo(folder, *, data, steps, seed, threads):
        yield Step(name="train", note="loading")
        yield Step(name="train", done=1.0, note=f"{data}, {steps} steps, seed {seed}")
        if fail:
            raise NumericalError("step 3: the loss is NaN")
        yield Step(name="draw")

    return run_demo


def test_a_line_per_stage_and_the_way_to_the_page(run, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("ncdeploy.demo.run.run_demo", _fake())
    done = run("demo", "-o", "out", "--updates", 5, "--seed", 2)
    assert done.exit_code == 0, done.output
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["train", "draw"]
    assert "digits, 5 steps, seed 2" in done.stderr
    assert done.stdout.rstrip().endswith("open out/index.html")


def test_a_failed_stage_is_not_shown_as_done(run, monkeypatch):
    monkeypatch.setattr("ncdeploy.demo.run.run_demo", _fake(fail=True))
    done = run("demo")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: step 3: the loss is NaN\n"


def test_an_output_that_is_a_file_is_found_first(run, tmp_path):
    (tmp_path / "taken").write_text("mine")
    done = run("demo", "-o", "taken")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: taken")
    assert (tmp_path / "taken").read_text() == "mine"
