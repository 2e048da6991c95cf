"""Nothing is left under the user's cache, and nothing sent, unless the user asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tiny_models import POINTS, write_mixture

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
import numpy as np
from ncdeploy import open_engine
open_engine(sys.argv[1])(np.ones((1, 2), np.float32), np.ones(1, np.float32))
"""


@pytest.mark.parametrize("asked", [False, True])
def test_telemetry_of_onnx_runtime_is_off_unless_asked_for(tmp_path: Path, asked: bool) -> None:
    model = write_mixture(tmp_path / "model.onnx", POINTS, np.zeros((2, 2)))
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)} | (
        {"ORT_DISABLE_TELEMETRY": "0"} if asked else {}
    )
    subprocess.run([sys.executable, "-c", RUN, str(model)], env=environment, check=True)
    left = [path for path in home.rglob("*") if path.is_file()]
    if asked:
        if not left:
            pytest.skip("this ONNX Runtime has no telemetry on this platform")
        return
    assert left == []


@pytest.mark.parametrize("name", ["cpu", "tensorrt"])
def test_the_images_say_so_themselves(name: str) -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in (ROOT / "engines" / "docker" / f"{name}.Dockerfile").read_text()
