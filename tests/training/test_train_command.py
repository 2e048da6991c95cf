"""`ncdeploy train`: what people type, and what Ctrl-C leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ncdeploy.denoisers import load_model, load_record
from ncdeploy_cli.main import app

ROOT = Path(__file__).parents[2]


def run(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["train", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_trains_logs_and_resumes(tmp_path: Path) -> None:
    model, log = tmp_path / "model.pt", tmp_path / "log.jsonl"
    common = ("--data", "moons", "-o", model, "--log", log, "--device", "cpu")
    code, out, _ = run(*common, "--updates", 3, "--batch", 16, "--objective", "contrastive")
    assert code == 0
    assert out.startswith(f"{model}: 3 steps in ")
    assert load_model(model).info.error_curve is not None
    assert load_record(model)["config"]["contrastive"]["fraction"] == 0.02
    code, _, error = run("--resume", model)
    assert code == 1
    assert "3 steps are done and 3 are asked for in all; to train longer give more, for example --updates 6" in error
    code, _, _ = run("--resume", model, "--updates", 5, "--log", log)
    assert code == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert {"loss", "denoising", "contrastive", "lr", "norm", "rate"} <= lines[0].keys()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "--data is missing"),
        (["--data", "digits"], "--output is missing"),
        (["--data", "digits", "-o", "/nowhere/model.pt"], "does not exist"),
        (["--data", "digits", "-o", "model.pt", "--objective", "contrastiv"], "did you mean contrastive"),
        (
            ["--data", "digits", "-o", "model.pt", "--contrastive-weight", "2"],
            "weight: is of the contrastive loss; add",
        ),
        (["--data", "digits", "-o", "model.pt", "--contrast", "vp"], "contrast: is of the contrastive loss; add"),
        (["--data", "digts", "-o", "model.pt"], "did you mean digits"),
        (["--data", "moons", "-o", "model.pt", "--conditional"], "no labels"),
        (["--data", "digits", "-o", "model.pt", "--updates", "0"], "steps: got 0"),
        (["--resume", "model.pt", "--lr", "1"], "--lr: a resumed run keeps its settings"),
        (["--resume", "missing.pt"], "no such file"),
    ],
)
def test_bad_words_get_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], text: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run(*words)
    assert code == 1
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert text in error
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges_saves_its_last_sound_weights(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    common = ("--data", "moons", "-o", model, "--device", "cpu", "--batch", 16, "--updates", 20)
    code, out, error = run(*common, "--lr", "1e9", "--objective", "contrastive")
    assert (code, out, error.count("\n")) == (1, "", 1)
    step = load_record(model)["step"]
    assert step >= 1
    assert f"step {step + 1}: " in error
    assert f"{model} has the weights of step {step}" in error
    assert "--contrastive-weight" in error
    load_model(model)
    code, _, error = run(*common, "--lr", "1e9", "--objective", "contrastive", "--save-every", 1, "--force")
    assert (load_record(model)["step"], f"{model} has the weights of step {step}" in error) == (step, True)
    model.unlink()
    code, _, error = run(*common, "--objective", "contrastive", "--contrastive-weight", "1e38")
    assert code == 1
    assert not model.exists(), "nothing was learnt before the first step"
    assert "has the weights" not in error


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    command = [sys.executable, "-m", "ncdeploy_cli.main", "train", "--data", "moons", "-o", "model.pt", "--batch", "16"]
    process = subprocess.Popen(
        [*command, "--updates", "1000000", "--log", "log.jsonl", "--threads", "1", "--save-every", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not ((tmp_path / "log.jsonl").exists() and (tmp_path / "log.jsonl").stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "ncdeploy train --resume model.pt" in error
    record = load_record(tmp_path / "model.pt")
    logged = (tmp_path / "log.jsonl").read_text().splitlines()
    assert record["step"] == len(logged) >= 1
    code, _, error = run("--resume", tmp_path / "model.pt", "--updates", record["step"] + 2, "--data", "moons")
    assert code == 0, error
    assert load_record(tmp_path / "model.pt")["step"] == record["step"] + 2


def test_the_log_cannot_be_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    code, _, said = run("--data", "moons", "-o", model, "--log", tmp_path / "." / "model.pt", "--steps", 1)
    assert code == 1
    assert "--log" in said.replace("\n", " ")
    assert not model.exists()
