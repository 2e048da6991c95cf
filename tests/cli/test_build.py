"""`ncdeploy build` and `ncdeploy sample --engine model.plan`, on a simulated GPU and without any."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ncdeploy
import ncdeploy_cli
import simulated_gpu
from tiny_models import IMAGES, write_mixture

MEANS = np.random.default_rng(0).standard_normal((20, 1, 8, 8))
SMALL = ["--max-samples", 4, "--max-window", 8]


@pytest.fixture
def run(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from ncdeploy_cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_mixture(tmp_path / "model.onnx", IMAGES, MEANS)

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        if code:
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
        return result

    return invoke


@pytest.fixture
def device(monkeypatch):
    return simulated_gpu.install(monkeypatch)


def test_build_inspect_sample_verify(run, device, tmp_path):
    said = " ".join(run("build", "model.onnx", *SMALL).stdout.split())
    assert "model.plan: built" in said
    assert "1 to 4 rows, best at 4 and 5 to 32 rows, best at 32" in said
    assert "2 fp32" in said
    assert "agrees: max |difference|" in said
    assert "taken from the cache" in run("build", "model.onnx", "-o", "second.plan", *SMALL).stdout
    record = json.loads(run("build", "model.onnx", *SMALL, "--force", "--json").stdout)
    assert record == json.loads((tmp_path / "model.plan.json").read_text())
    assert (
        record["command"] == "ncdeploy build model.onnx -o model.plan --max-samples 4 --max-window 8 --window 8 --force"
    )
    shown = run("inspect", "model.plan").stdout
    assert "as built" in shown
    assert record["command"] in " ".join(shown.split())
    compared = json.loads(run("verify", "model.onnx", "model.plan", "--device", "cuda", "--json").stdout)
    assert (compared["ok"], "TensorRT" in compared["candidate"]) == (True, True)
    for mode in ([], ["--mode", "eager"]):
        done = run(
            "sample", "--engine", "model.plan", "-n", 6, "--window", 8, "--json", "-o", "s.npz", "--force", *mode
        )
        assert json.loads(done.stdout)["depth"] < json.loads(done.stdout)["sequential_depth"] * 2
    parallel = np.load("s.npz")["samples"]
    run("sample", "--engine", "model.onnx", "-n", 6, "-o", "t.npz")
    assert np.sqrt(np.mean((parallel - np.load("t.npz")["samples"]) ** 2)) < 2e-2
    assert device.held == 0


def test_the_layers_of_an_engine(run, device, monkeypatch, tmp_path):
    run("build", "model.onnx", *SMALL)
    shown = run("inspect", "model.plan", "--layers").stdout
    assert "ms for 32 rows" in shown
    assert "gemm" in shown
    record = json.loads(run("inspect", "model.plan", "--layers", "--rows", 3, "--json").stdout)
    assert record["layers"]["rows"] == 3
    products = [layer for layer in record["layers"]["layers"] if layer["kind"] == "gemm"]
    assert [(layer["types"], round(layer["milliseconds"], 6)) for layer in products] == [(["fp32"], 0.25)] * 2
    assert device.held == 0
    assert "takes 1 to 32" in run("inspect", "model.plan", "--layers", "--rows", 99, code=1).stderr
    assert "layers are shown of a TensorRT engine" in run("inspect", "model.onnx", "--layers", code=1).stderr
    assert "goes with --layers" in run("inspect", "model.plan", "--rows", 3, code=1).stderr
    monkeypatch.undo()  # no TensorRT, no GPU: what is recorded, and one line
    without = run("inspect", tmp_path / "model.plan", "--layers")
    assert "convolutions and matrix products" in without.stdout
    assert "fp32 2" in " ".join(without.stdout.split())
    assert without.stderr.startswith("warning: no layers: TensorRT is not installed")
    assert without.stderr.count("\n") == 1
    record = json.loads(run("inspect", tmp_path / "model.plan", "--layers", "--json").stdout)
    assert record["layers"] is None
    assert "pip install" in record["layers_missing"]


def test_ctrl_c_is_one_line_and_writes_nothing(run, device, monkeypatch, tmp_path):
    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated_gpu.compiler, "compile_graph", interrupted)
    done = run("build", "model.onnx", *SMALL, code=130)
    assert done.stderr == "error: cancelled\n"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["model.onnx"]


def test_too_little_memory_halves_the_window_and_says_so(run, device):
    run("build", "model.onnx", *SMALL)
    device.room = 4 * (2 * 256 + 4) * 4 // 2  # for 8 rows or so
    done = run("sample", "--engine", "model.plan", "-n", 4, "--window", 8, "-o", "s.npz")
    assert "out of memory" in done.stderr
    assert "going on with a window of" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.onnx", "--precision", "fp16"], "ncdeploy export model.pt --precision fp16"),
        (["model.onnx", "--device", "cpu"], "cuda or cuda:N"),
        (["model.onnx", "--window", "99"], "1 to max_window"),
        (["model.onnx", "--hardware-compatible", "all"], "ampere_plus"),
        (["model.onnx", "-o", "no/model.plan"], "does not exist"),
        (["missing.onnx"], "no such file"),
        (["engine.plan"], "is an engine already"),
    ],
)
def test_bad_input(run, device, tmp_path, arguments, said):
    (tmp_path / "engine.plan").write_bytes(b"ftrt" + bytes(20))
    assert said in run("build", *arguments, code=1).stderr
    assert device.log == []


def test_the_precision_asked_for_is_not_there(run, device):
    write_mixture(Path("half.onnx"), replace(IMAGES, precision="fp16"), MEANS)
    assert "the engine is not fp16" in run("build", "half.onnx", *SMALL, code=1).stderr
    assert not Path("half.plan").exists()


@pytest.mark.parametrize(
    ("command", "missing", "instead"),
    [
        (
            "build model.onnx --force --runtime tensorrt",
            "TensorRT is not installed",
            "ncdeploy sample --engine model.onnx",
        ),
        (
            "build model.pt --force --runtime tensorrt",
            "TensorRT is not installed",
            "ncdeploy export model.pt && ncdeploy sample",
        ),
        ("sample --engine model.plan", "TensorRT is not installed", "ncdeploy sample --engine model.onnx"),
        ("sample --engine lost.plan", "lost.plan.json is missing", "ncdeploy build model.onnx -o lost.plan"),
    ],
)
def test_without_a_gpu_one_line(run, device, monkeypatch, tmp_path, command, missing, instead):
    """In a process of its own: what is missing, what works instead, exit 1, no traceback."""
    run("build", "model.onnx", *SMALL)
    (tmp_path / "lost.plan").write_bytes(b"ftrt" + bytes(20))
    from ncdeploy.denoisers import Mixture, save_model

    save_model(tmp_path / "model.pt", Mixture(MEANS, 0.1))
    path = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (ncdeploy, ncdeploy_cli))
    done = subprocess.run(
        [sys.executable, "-c", "from ncdeploy_cli.main import main; main()", *command.split()],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert instead in done.stderr
