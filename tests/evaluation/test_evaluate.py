"""`ncdeploy evaluate`: one model against another, on the command line, with and without PyTorch."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ncdeploy import Condition
from ncdeploy.backends import open_engine
from ncdeploy.errors import InputError
from ncdeploy.evaluation.budget import Budget
from ncdeploy.evaluation.evaluate import STAGES, Evaluation, Settings, _plan, evaluate
from ncdeploy_cli.main import app
from oracle import GaussianMixture
from test_boundaries import HEAVY, run_without
from tiny_models import POINTS, VECTORS, write_mixture

QUICK = ("--points", "8", "--samples", "32", "--steps", "40", "--window", "16", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """points.csv, around three centres; right.onnx knows them, wrong.onnx has them elsewhere."""
    path = tmp_path_factory.mktemp("evaluate")
    centres = np.array([[1.0, 1.0], [-1.0, 0.5], [0.0, -1.5]])
    rng = np.random.default_rng(0)
    points = centres[rng.integers(3, size=400)] + 0.1 * rng.standard_normal((400, 2))
    np.savetxt(path / "points.csv", points, delimiter=",", header="x,y", comments="")
    model_units = (centres - points.mean()) / points.std()  # what a table is brought to
    write_mixture(path / "right.onnx", POINTS, model_units, std=0.1 / float(points.std()))
    write_mixture(path / "wrong.onnx", POINTS, 0.5 * model_units, std=0.3)
    return path


def run(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["evaluate", *args])
    return result.exit_code, result.stdout, result.stderr


def test_the_better_model_is_better_in_every_figure(folder: Path) -> None:
    page = folder / "models.html"
    code, out, err = run(
        str(folder / "right.onnx"), str(folder / "wrong.onnx"), "--data", str(folder / "points.csv"), "--json",
        "-o", str(page), "--jitter", "0.09", *QUICK,
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    right, wrong = record["models"]
    assert (right["name"], wrong["name"]) == ("right.onnx", "wrong.onnx")
    assert right["likelihood"]["nats"] + 1 < wrong["likelihood"]["nats"]
    assert right["classification"]["log_loss"] + 0.05 < wrong["classification"]["log_loss"]
    assert right["visited"]["visited"] < 0.5 * wrong["visited"]["visited"]
    assert right["quality"]["energy_floor"] == wrong["quality"]["energy_floor"]
    for one, other in zip(right["quality"]["runs"], wrong["quality"]["runs"], strict=True):
        assert one["energy"] < 0.5 * other["energy"]
    html = page.read_text(encoding="utf-8")
    assert html.count("right.onnx") > 5
    assert "right.onnx: AUC of the energy alone" in html
    levels = right["classification"]["levels"]
    assert all(f"{level['energy_area']:.3f}" in html for level in levels)
    assert html.count("<picture") == 4, "two charts, and the samples of two models"
    assert not re.search(r"\b(nan|inf)\b", html)


def test_the_table_names_every_figure(folder: Path) -> None:
    code, out, _ = run(str(folder / "right.onnx"), "--data", str(folder / "points.csv"), *QUICK, "--contrast", "vp")
    assert code == 0
    for words in ("-log p of held-out", "bits per", "noise", "visited", "energy distance", "ddpm-40"):
        assert words in out


def test_a_machine_without_torch_evaluates(folder: Path) -> None:
    argv = ["ncdeploy", "evaluate", str(folder / "right.onnx"), "--data", str(folder / "points.csv"), "--json", *QUICK]
    missing = tuple(name for name in HEAVY if name != "onnxruntime")
    done = run_without(missing, f"sys.argv = {argv!r}\nfrom ncdeploy_cli.main import main\nmain()")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["likelihood"]["points"] == 8


def test_likelihood_is_the_exact_one(folder: Path) -> None:
    """In model units in nats; bits per dimension in the units of the data."""
    rng = np.random.default_rng(1)
    means = np.array([[1.0, 1.0], [-1.0, 0.5]])
    data = (means[rng.integers(2, size=300)] + 0.3 * rng.standard_normal((300, 2))).astype(np.float32)
    model = write_mixture(folder / "two.onnx", replace(POINTS, scale=4.0), means, std=0.3)
    settings = Settings(points=40, samples=4, steps=8, window=4, budget=Budget(repeats=4, levels=32))
    *stages, found = evaluate(open_engine(model, threads=1), data[:200], data[200:], settings)
    assert stages == list(STAGES)
    assert isinstance(found, Evaluation)
    exact = -GaussianMixture(means, 0.3).log_prob(data[200:240]).mean()
    assert found.likelihood.nats == pytest.approx(exact, abs=4 * found.likelihood.estimate_error)
    assert found.likelihood.estimate_error < 0.03
    assert found.likelihood.bits_per_dim == pytest.approx(found.likelihood.nats / 2 / np.log(2) + 2)


class Around:
    """Data around what was observed, with its exact denoiser."""

    name = "around"
    like = None
    info = replace(POINTS, conditions=(Condition(name="obs", dtype="float32", shape=(2,)),))

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(
        self,
        x: Any,
        sigma: Any,
        labels: Any = None,
        guidance: Any = None,
        *,
        conditions: Any = None,
        sample: Any = None,
    ) -> Any:
        mean, square = conditions["obs"][sample], sigma[:, None] ** 2
        return ((self.std**2 * x + square * mean) / (self.std**2 + square)).astype(np.float32)

    def close(self) -> None:
        pass


def test_likelihood_given_conditions_is_the_exact_one() -> None:
    rng = np.random.default_rng(1)
    obs = rng.standard_normal((300, 2)).astype(np.float32)
    data = (obs + 0.3 * rng.standard_normal((300, 2))).astype(np.float32)
    settings = Settings(points=30, samples=40, steps=20, window=4, budget=Budget(repeats=4, levels=32))
    engine: Any = Around(0.3)

    def measured(given: Any) -> Evaluation:
        *_, found = evaluate(engine, data[:200], data[200:], settings, conditions={"obs": given})
        assert isinstance(found, Evaluation)
        return found

    found, moved = measured(obs[200:]), measured(np.roll(obs[200:], 1, axis=0))
    exact = -GaussianMixture(np.zeros((1, 2)), 0.3).log_prob(data[200:230] - obs[200:230]).mean()
    assert found.likelihood.nats == pytest.approx(exact, abs=4 * found.likelihood.estimate_error)
    assert moved.likelihood.nats > found.likelihood.nats + 5
    assert moved.classification.log_loss > found.classification.log_loss + 0.1
    np.testing.assert_allclose(found.quality.samples, obs[200:240], atol=5 * 0.3)
    for given, said in (({}, "obs is missing"), ({"obs": obs}, r"obs: got \(300, 2\); expected \(100, 2\)")):
        with pytest.raises(InputError, match=said):
            list(evaluate(engine, data[:200], data[200:], settings, conditions=given))


def test_conditions_lie_beside_the_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    obs = rng.standard_normal((60, 2)).astype(np.float32)
    np.savez(folder / "seen.npz", x=obs + 0.3 * rng.standard_normal((60, 2)), obs=obs)
    np.save(folder / "obs.npy", obs)
    monkeypatch.setattr("ncdeploy.open_engine", lambda *_, **__: Around(0.3))
    data = ["--data", str(folder / "seen.npz"), "--json", "--points", "8", "--samples", "8", "--steps", "8", *QUICK[4:]]
    code, named, err = run("a.pt", "b.pt", *data)
    assert code == 0, err
    code, given, err = run("a.pt", "b.pt", *data, "--condition", f"obs={folder / 'obs.npy'}")
    assert code == 0, err
    assert json.loads(named) == json.loads(given)
    code, _, err = run("a.pt", *data, "--condition", "obs", "--condition", f"goal={folder / 'obs.npy'}")
    assert code == 1
    assert "got 'goal'; this model takes obs" in err


def test_plans_stay_inside_what_the_model_knows() -> None:
    assert _plan(POINTS, "ddpm", 1000).name == "ddpm-1000"
    narrow = replace(POINTS, sigma_min=0.05, sigma_max=20.0)
    for solver, steps in (("ddpm", 50), ("dpmpp_2m", 25)):
        plan = _plan(narrow, solver, steps)
        asked = plan.sigmas[plan.evaluated]
        assert (asked.min(), asked.max()) == pytest.approx((0.05, 20.0))
        assert plan.evaluations == steps


def test_bad_requests(folder: Path) -> None:
    model, data = str(folder / "right.onnx"), str(folder / "points.csv")
    for args, words in (
        ([model, "--data", "digits", *QUICK], "right.onnx takes (2,)"),
        ([model, "--data", data, "-o", "page.txt"], "ends in .html"),
        ([model, "--data", data, "--contrast", "vq"], "ve or vp"),
        ([model, "--data", data, "--points", "1"], "points: got 1"),
        ([model, "--data", data, "--jitter", "-1"], "jitter: got -1.0, expected 0 or more"),
        ([model, "--data", data, "--bandwidth", "0"], "bandwidth: got 0.0, expected above 0"),
    ):
        code, _, err = run(*args)
        assert code == 1
        assert words in " ".join(err.split())
    with pytest.raises(InputError, match="tolerances"):
        Settings(tolerances=())


def test_every_model_is_opened_and_checked_before_any_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def spy(*_: object, name: str, **__: object) -> list[str]:
        measured.append(name)
        return []

    monkeypatch.setattr("ncdeploy.evaluation.evaluate.evaluate", spy)
    write_mixture(folder / "wide.onnx", VECTORS, np.eye(5))
    good, data = str(folder / "right.onnx"), str(folder / "points.csv")
    for other, words in (("missing.onnx", "no such file"), ("wide.onnx", "wide.onnx takes (5,)")):
        code, _, err = run(good, str(folder / other), "--data", data)
        assert code == 1
        assert words in err
        assert measured == []
    run(good, str(folder / "wrong.onnx"), "--data", data)
    assert measured == ["right.onnx", "wrong.onnx"]


def test_help_tells_the_real_defaults() -> None:
    from typer.main import get_command

    options = {p.name: p for p in get_command(app).commands["evaluate"].params}
    for name in ("points", "samples", "steps", "window", "contrast"):
        assert options[name].show_default == str(getattr(Settings(), name))
