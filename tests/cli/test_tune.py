import json
from pathlib import Path

import pytest

from ncdeploy.auto.latency import Latency


def _kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "ncdeploy" / "latency").glob("*.json"))


def test_sample_measures_at_first_use_and_keeps_the_curve(run, models, tmp_path):
    done = run("sample", "-e", models["image"], "-n", 2, "--parallel", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["auto"] is True
    assert (record["window"] is None) == (record["nfe"] == 12)
    (kept,) = _kept(tmp_path)
    # A curve under which a batch costs nothing must now decide.
    known = Latency.from_json(kept.read_text())
    free = Latency(rows=known.rows, seconds=tuple(1.0 + 1e-6 * r for r in known.rows), asked=known.asked)
    kept.write_text(free.to_json())
    done = run("sample", "-e", models["image"], "-n", 2, "--parallel", "--force")
    assert "x faster than sequential" in done.stdout
    assert "residual" in done.stdout


def test_tune_measures_anew(run, models, tmp_path):
    done = run("tune", models["image"], "--rows", 8, "--budget", 0.2, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == [1, 2, 3, 4, 6, 8]
    (kept,) = _kept(tmp_path)
    kept.write_text("damaged")
    assert run("sample", "-e", models["image"], "-n", 1, "--parallel", "--rows", 8).exit_code == 0
    Latency.from_json(kept.read_text())
    table = run("tune", models["image"], "--rows", 4, "--budget", 0.2)
    assert "beside a row alone" in table.stdout
    assert "kept for --window auto" in table.stdout
    assert "larger batches" not in table.stdout
    cut = run("tune", models["image"], "--rows", 1 << 24, "--budget", 0.1)
    assert f"up to {1 << 24} rows, would take longer than --budget allows" in cut.stdout


def test_a_cache_that_cannot_be_written_is_no_error(run, models, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    done = run("sample", "-e", models["image"], "-n", 1, "--parallel")
    assert done.exit_code == 0, done.output


def test_a_model_that_names_code_is_measured_with_trust_alone(run, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    importers = pytest.importorskip("ncdeploy.importers")
    (tmp_path / "own_net.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x, t):\n        return 0 * x\n\n"
        "def make():\n    net = Net()\n    net.w = torch.nn.Parameter(torch.ones(1))\n    return net\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pt")
    done = run("import", "own_net:make", "--weights", "w.pt", "--predicts", "eps", "--noise", "step",
               "--schedule", "linear",
               "--shape", "2", "-o", "own.pt")  # fmt: skip
    assert done.exit_code == 0, (done.output, importers)
    refused = run("tune", "own.pt", "--rows", 2, "--budget", 0.1)
    assert (refused.exit_code, "--trust" in refused.stderr) == (1, True)
    assert run("tune", "own.pt", "--rows", 2, "--budget", 0.1, "--trust").exit_code == 0


def test_tune_refuses_what_is_no_model(run, tmp_path):
    (tmp_path / "x.onnx").write_text("nothing")
    done = run("tune", "x.onnx")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
