"""`make policy` at its smallest: every stage, with a policy that has learned next to nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("policy")
    sizes = ["--steps", "2", "--episodes", "2", "--skip-cpp"]
    done = subprocess.run(
        [sys.executable, "-m", "examples.policy", "-o", output, *sizes], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return output


def test_it_samples_in_all_three_ways(folder: Path) -> None:
    figures = json.loads((folder / "figures.json").read_text())
    assert [row["calls"] for row in figures.values()][:2] == [100, 10]
    assert 1 < figures["DDPM-100, in parallel"]["calls"] < 100
    assert (folder / "policy.png").read_bytes().startswith(b"\x89PNG")


def test_its_checkpoint_is_one_of_lerobot_and_its_bundle_acts(folder: Path) -> None:
    from ncdeploy import open_bundle, open_engine, sample
    from ncdeploy.importers import detect_format

    assert detect_format(folder / "checkpoint") == "lerobot"
    with open_engine(folder / "bundle", threads=1) as engine:
        raw = {"observation.state": np.zeros((1, 2, 2)), "observation.environment_state": np.zeros((1, 2, 2))}
        done = sample(engine, open_bundle(folder / "bundle").plan("ddim-10").plan, seeds=[0], conditions=raw)
    assert done.decoded is not None
    assert done.decoded.shape == (1, 8, 2)


def test_demonstrations_succeed_on_both_sides() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from examples.policy import task
    finally:
        sys.path.remove(str(ROOT))
    places, actions, goals = task.demonstrate(64, np.random.default_rng(0))
    assert task.succeeded(places, goals).mean() > 0.95
    middle = places[np.arange(64), np.abs(places[:, :, 0]).argmin(1), 1]
    assert 16 < (middle > 0).sum() < 48
    straight = np.linspace([-0.8, 0], [0.8, 0], 48)[None]
    assert not task.succeeded(straight, np.array([[0.8, 0.0]])).any()
    assert actions.shape == (64, task.STEPS, 2)
