"""Model files and a runner that the tests of the command line share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from oracle import digits
from tiny_models import IMAGES, POINTS, VECTORS, write_mixture, write_nan_below


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """image, classes (the same with 10 labels), silent (no metadata), points (2-D), vectors (5-D), nan (below 1)."""
    folder = tmp_path_factory.mktemp("models")
    means = digits().means[:100].reshape(100, 1, 8, 8)
    ring = np.array([[np.cos(t), np.sin(t)] for t in np.linspace(0, 2 * np.pi, 8, endpoint=False)])
    return {
        "image": write_mixture(folder / "image.onnx", IMAGES, means),
        "classes": write_mixture(folder / "classes.onnx", replace(IMAGES, num_classes=10), means),
        "silent": write_mixture(folder / "silent.onnx", IMAGES, means, described=False),
        "points": write_mixture(folder / "points.onnx", POINTS, ring, std=0.05),
        "vectors": write_mixture(folder / "vectors.onnx", VECTORS, np.eye(5)),
        "nan": write_nan_below(folder / "nan.onnx", IMAGES, 1.0),
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `ncdeploy` with these arguments in an empty folder."""
    from ncdeploy_cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NCDEPLOY_DEBUG", raising=False)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])
