"""How long a user waits before anything happens: the help, and a sampling command before its first network call."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CLI = [sys.executable, "-m", "ncdeploy_cli.main"]


def table(model: Path, repetitions: int = 9) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| command | seconds | measured |"
    yield "| --- | --- | --- |"
    yield f"| ncdeploy --help | {_median(_help, repetitions)} | whole process |"
    yield f"| ncdeploy sample --engine {model.name} | {_median(lambda: _cold(model), repetitions)} | without sampling |"


def _help() -> float:
    start = time.perf_counter()
    subprocess.run([*CLI, "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


def _cold(model: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [*CLI, "sample", "--engine", str(model), "-n", "4", "--json", "-o", f"{folder}/samples.npz"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return time.perf_counter() - start - float(json.loads(done.stdout)["wall_s"])


def _median(measure: Callable[[], float], repetitions: int) -> str:
    values = [measure() for _ in range(repetitions)]
    return f"{np.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"
