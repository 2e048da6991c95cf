"""A few kills of every command that writes; `tests/kills.py` does more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kills


@pytest.mark.slow
@pytest.mark.parametrize("name", kills.COMMANDS)
def test_what_is_killed_leaves_the_old_or_the_new(name: str) -> None:
    if name == "build":
        pytest.importorskip("tensorrt_rtx")
    root = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (root, root / "cli", root / "tests")))
    done = subprocess.run(
        [sys.executable, kills.__file__, "10", name], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: ")
