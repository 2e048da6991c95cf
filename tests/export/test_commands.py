"""`ncdeploy export`, `verify`, `inspect` and `doctor`, as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ncdeploy.doctor.diagnosis
import ncdeploy_cli
from ncdeploy.denoisers import Mixture, load_model, save_model
from ncdeploy.doctor.diagnosis import Diagnosis, Finding
from tiny_models import IMAGES, write_mixture

MEANS = np.random.default_rng(0).standard_normal((20, 1, 8, 8)).astype(np.float32)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run `ncdeploy` in an empty folder; on failure, the one line on stderr must be all there is."""
    from ncdeploy_cli.main import app

    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        if code:
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
        return result

    return invoke


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """model.pt; right.onnx, the same without metadata, and wrong.onnx, a little different."""
    folder = tmp_path_factory.mktemp("files")
    save_model(folder / "model.pt", Mixture(MEANS, 0.1), record={"steps": 12})
    write_mixture(folder / "right.onnx", IMAGES, MEANS, described=False)
    write_mixture(folder / "wrong.onnx", IMAGES, MEANS * 1.01, described=False)
    return folder


def test_export_verify_inspect(run, files, tmp_path):
    (tmp_path / "model.pt").write_bytes((files / "model.pt").read_bytes())
    record = json.loads(run("export", "model.pt", "--threads", 1, "--json").stdout)
    assert record["parity"]["ok"] is True
    assert record["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert record["weights_digest"] == load_model("model.pt").info.weights_digest
    assert "they agree" in run("verify", "model.pt", "model.onnx", "--threads", 1).stdout
    text = run("inspect", "model.onnx").stdout
    for wanted in ("1 x 8 x 8", "opset", "dpmpp_2m-25", record["weights_digest"][:40], "MatMul"):
        assert wanted in text
    assert "labels int64" not in text
    assert json.loads(run("inspect", "model.pt", "--json").stdout)["details"]["record"] == {"steps": 12}


def test_verify_exits_1_on_disagreement(run, files):
    said = run("verify", files / "model.pt", files / "wrong.onnx", "--threads", 1, code=1).stderr
    assert "worst at sigma" in said
    report = json.loads(run("verify", files / "model.pt", files / "wrong.onnx", "--json", code=1).stdout)
    assert report["ok"] is False
    assert report["max_abs"] > 1e-3
    run("verify", files / "model.pt", files / "wrong.onnx", "--tolerance", 1, "--trajectory-tolerance", 1)


def test_verify_of_files_that_do_not_describe_themselves(run, files):
    right = files / "right.onnx"
    run("verify", files / "model.pt", right, "--threads", 1)
    assert "--sigma-min" in run("verify", right, right, code=1).stderr
    assert "--sigma-max" in run("verify", right, right, "--sigma-min", 0.1, code=1).stderr
    flags = ["--sigma-min", 0.02, "--sigma-max", 80, "--sigma-data", 0.5]
    run("verify", right, right, *flags)
    assert "describes itself" in run("verify", files / "model.pt", files / "model.pt", *flags, code=1).stderr
    assert "3,64,64" in run("verify", right, right, *flags, "--shape", "8x8", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "missing.pt"], "no such file"),
        (["export", "{files}/model.pt", "-o", "no/model.onnx"], "does not exist"),
        (["export", "{files}/model.pt", "-o", "."], "expected a name that ends in .onnx"),
        (["export", "{files}/model.pt", "-o", "{files}/model.pt"], "expected a name that ends in .onnx"),
        (["export", "{files}/model.pt", "-o", "x.onnx", "--opset", "23"], "18, 19, 20"),
        (["export", "{files}/model.pt", "-o", "x.onnx", "--no-verify", "--tolerance", "1"], "--no-verify"),
        (["export", "{files}/model.pt", "-o", "x.onnx", "--tolerance", "-1"], "tolerance"),
        (["export", "{files}/right.onnx", "-o", "x.onnx"], "not a model file"),
        (["verify", "{files}/model.pt", "missing.onnx"], "no such file"),
        (["verify", "{files}/model.pt", "{files}/right.onnx", "--device", "tpu"], "cuda:N"),
        (["inspect", "missing.onnx"], "no such file"),
        (["inspect", "."], "is a folder"),
    ],
)
def test_bad_input(run, files, tmp_path, arguments, said):
    assert said in run(*[a.format(files=files) for a in arguments], code=1).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["export model.pt", "verify model.pt model.pt", "inspect model.pt"])
def test_without_torch_the_line_to_install_it(files, command):
    code = f"import sys; sys.modules['torch'] = None; sys.argv = {['ncdeploy', *command.split()]}\n"
    code += "from ncdeploy_cli.main import main\nmain()"
    path = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (ncdeploy, ncdeploy_cli))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=files, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "pip install -c constraints.txt '.[torch]' in ncdeploy's checkout" in done.stderr
    assert done.stderr.count("\n") == 1


def test_doctor(run, monkeypatch):
    assert json.loads(run("doctor", "--json").stdout)["usable"] is True
    assert "onnxruntime" in run("doctor").stdout
    finding = Finding(name="onnxruntime", status="absent", detail="not installed", remedy="pip install something")
    monkeypatch.setattr(ncdeploy.doctor.diagnosis, "diagnose", lambda: Diagnosis(findings=(finding,), usable=False))
    result = run("doctor", code=1)
    assert "pip install something" in result.stdout
