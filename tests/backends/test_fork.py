"""An engine that came along with a fork says so, where a runtime would wait for threads that stayed behind."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncdeploy import open_engine
from ncdeploy.denoisers import build, default_config, save_model
from tiny_models import POINTS, write_mixture


def engines(folder: Path) -> dict[str, Path]:
    save_model(folder / "model.pt", build(default_config((2,), network={"width": 8, "blocks": 1})))
    return {"model.pt": folder / "model.pt", "model.onnx": write_mixture(folder / "m.onnx", POINTS, np.zeros((2, 2)))}


@pytest.mark.parametrize("name", ["model.pt", "model.onnx"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_spawn(name: str, tmp_path: Path) -> None:
    engine: Any = open_engine(engines(tmp_path)[name])
    x, sigma = np.ones((1, 2), np.float32), np.ones(1, np.float32)
    engine(x, sigma)
    child = os.fork()
    if child == 0:
        try:
            engine(x, sigma)
        except BaseException as e:
            (tmp_path / "said").write_text(f"{type(e).__name__}: {e}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert "BackendError" in (tmp_path / "said").read_text()
    assert "spawn" in (tmp_path / "said").read_text()
    engine(x, sigma)
