"""A small bundle that the tests of this folder share, and copies of it to damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bundle_files import INFO, PLANS
from ncdeploy import Bundle, open_bundle
from ncdeploy.bundle import make_bundle
from tiny_models import write_mixture


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("model") / "m.onnx", INFO, np.eye(5))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Bundle:
    return make_bundle(model, tmp_path_factory.mktemp("bundle") / "b", plans=PLANS, window=16)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    assert list(open_bundle(folder).plans) == [plan.name for plan in PLANS]
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `ncdeploy` with these arguments in an empty folder."""
    from ncdeploy_cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCDEPLOY_DEBUG", raising=False)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])
