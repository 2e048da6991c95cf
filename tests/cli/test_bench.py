"""`ncdeploy bench`: its figures, its chart, and a recommendation that can be typed."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EFFORT = ("--repetitions", 1, "--samples", 4)
FAST = (*EFFORT, "--solver", "unipc,ddpm", "--steps", "6,12", "--window", "4")


def test_figures_cover_solvers_steps_and_drivers_and_the_command_runs(run, models):
    done = run("bench", models["image"], *FAST, "--budget", "10s", "-o", "chart.svg", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    found = {(r["solver"], r["steps"], r["window"]) for r in record["rows"]}
    assert found == {(s, k, w) for s in ("unipc", "ddpm") for k in (6, 12) for w in (None, 4)}
    assert all(r["wall_s"] > 0 and r["depth"] > 0 and r["nfe"] >= r["steps"] for r in record["rows"])
    assert {r["solver"] for r in record["rows"] if r["quality"] is None} == {"ddpm"}
    assert "<svg" in Path("chart.svg").read_text()
    advice = record["recommendation"]
    assert advice["met"]
    program, *words = shlex.split(advice["command"])
    assert program == "ncdeploy"
    typed = run(*words, "--json")
    assert typed.exit_code == 0, typed.output
    sampled = json.loads(typed.stdout)
    assert (sampled["n"], sampled["solver"], sampled["steps"]) == (1, advice["solver"], advice["steps"])


def test_the_table_says_what_quality_means_and_ends_in_the_command(run, models):
    np.save("real.npy", np.random.default_rng(0).uniform(0, 16, (64, 1, 8, 8)).astype(np.float32))
    done = run("bench", models["image"], *FAST, "--data", "real.npy", "-n", 2, "-o", "chart.png")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "it cannot be told from real data" in done.stdout
    assert lines[-2].startswith("ncdeploy sample ")
    assert "-n 2" in lines[-2]
    assert lines[-1] == "wrote chart.png"
    assert max(map(len, lines[:-2])) <= 80
    assert " ± " in done.stdout
    assert sum(line.split()[:2] == ["window", "4"] for line in lines) == 4


def test_the_table_says_what_auto_chose(run, models):
    done = run("bench", models["image"], *EFFORT, "--steps", 6, "--solver", "unipc", "--window", "4,auto")
    assert done.exit_code == 0, done.output
    assert "1 sample at once" in done.stdout
    (auto,) = [line.split() for line in done.stdout.splitlines() if "auto:" in line]
    if auto[1] == "sequential":
        assert auto[2:5] == ["6", "6", auto[4]]
    else:
        assert auto[1] == "window"
        assert 1 <= int(auto[2]) <= 6


def test_a_target_out_of_reach_is_a_warning_with_the_nearest(run, models):
    done = run("bench", models["image"], *FAST, "--quality", "1e-9")
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: nothing reaches the quality; this comes nearest")
    assert "ncdeploy sample" in done.stdout
    done = run("bench", models["image"], *EFFORT, "--solver", "ddpm", "--steps", 6, "--window", 4)
    assert "no recommendation" in done.stderr
    assert "ncdeploy sample" not in done.stdout


def test_deadlines_cut_runs_short_and_say_what_that_costs(run, models):
    given = ("--solver", "ddim,ddpm", "--steps", 12, "--window", 4, "--repetitions", 2, "--deadline", "60min,0.001ms")
    done = run("bench", models["image"], *given, "-o", "deadlines.svg", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    found = {(r["plan"], r["ran"], r["deadline_s"]): r for r in rows}
    assert set(found) == {(p, w, d) for p in ("ddim-12", "ddpm-12") for w in (None, 4) for d in (1e-6, 3600.0)}
    for (_, window, deadline), row in found.items():
        assert (row["complete"], row["late_s"] > 0) == ((1, False) if deadline > 1 else (0, True))
        assert row["depth"] == 1 if deadline < 1 else row["depth"] == 12 if window is None else row["depth"] < 12
        assert row["rms"] > 0.05 if deadline < 1 else row["rms"] == 0 if window is None else row["rms"] < 0.01
    assert "<svg" in Path("deadlines.svg").read_text()
    table = run("bench", models["image"], *given)
    assert table.exit_code == 0, table.output
    assert (table.stdout.count(" 100% "), table.stdout.count(" 0% ")) == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--deadline", "20"), '"200ms", "1.5s"'),
        (("--deadline", "0s"), "deadlines: got [0.0]"),
        (("--deadline", "1s", "--budget", "1s"), "--budget: is of whole runs"),
        (("--deadline", "1s", "--data", "moons"), "--data: is of whole runs"),
        (("--budget", "200"), '"200ms", "1.5s"'),
        (("--budget", "-1s"), "budget: got -1.0"),
        (("--steps", "10,x"), "--steps 10,x"),
        (("--window", "0"), "--window 0"),
        (("--solver", "unipcc"), "did you mean 'unipc'"),
        (("--window", ""), 'like "16,auto", or none alone'),
        (("--window", "none,3"), 'like "16,auto", or none alone'),
        (("--window", "none", "--tolerance", "0.1"), "--tolerance: is of parallel sampling"),
        (("--window", "4", "--tolerance", "-1"), "tolerance: got -1.0"),
        (("--solver", "ddpm", "-o", "chart.svg"), "--output: solvers that draw noise are judged by data only"),
        (("--solver", "ddpm", "--budget", "1s"), "--budget: solvers that draw noise are judged by data only"),
        (("-o", "chart.pdf"), ".svg or .png"),
        (("--data", "nothing"), "neither a known name"),
        (("--data", "moons"), "its samples have shape (2,); this model makes (1, 8, 8)"),
    ],
)
def test_bad_input_is_one_line_before_any_work(run, models, options, message):
    done = run("bench", models["image"], *options)
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_onnx_file_needs_no_pytorch(models, tmp_path):
    arguments = ["bench", str(models["image"]), *map(str, FAST)]
    code = f"import sys; sys.modules['torch'] = None; from ncdeploy_cli.main import app; app({arguments!r})"
    there = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=there)
    assert done.returncode == 0, done.stderr
    assert "ncdeploy sample" in done.stdout
