"""No room for an output, at whatever byte of it: one line, exit 1, the old output whole and nothing else left.

A limit on the size of files stands for a full disk: writing fails in the same places, in whatever library writes.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ncdeploy_cli.main import app

TRAIN = ["--data", "moons", "--network", "small", "--batch", 8, "--updates", 2]
# What is written, and what to type before -o, on real inputs
WRITE = {
    "train": (["n.pt"], TRAIN),
    "import": (["n.pt", "n.safetensors"], ["m.pt"]),
    "export": (["n.onnx"], ["m.pt"]),
    "build": (
        ["n.plan"],
        ["m.onnx", "--runtime", "rtx", "--target", "sm89", "--max-samples", 2, "--max-window", 2, "--rebuild"],
    ),
    "bundle": (["n"], ["m.onnx", "--no-verify"]),
    "triton": (["repository"], ["b"]),
    "sample": (["s.npz", "s.npy", "s.csv", "s.png"], ["m.onnx", "-n", 20]),
    "denoise": (["n.npy"], ["m.onnx", "noisy.npy", "--sigma", 1]),
    "evaluate": (
        ["n.html"],
        ["m.onnx", "--data", "moons", "--points", 20, "--samples", 20, "--steps", 4, "--window", 2],
    ),
    "bench": (["n.svg"], ["m.onnx", "--solver", "ddim", "--steps", "2", "--samples", 20, "--repetitions", 1]),
}


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files grow to so many bytes and no further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("name", list(WRITE))
def test_no_room(run, tmp_path, name):
    assert run("train", *TRAIN, "-o", "m.pt").exit_code == 0
    assert run("export", "m.pt", "-o", "m.onnx").exit_code == 0
    np.save("noisy.npy", np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32))
    if name == "triton":
        assert run("bundle", "m.onnx", "-o", "b", "--no-verify").exit_code == 0
    outputs, words = WRITE[name]
    for output in outputs:
        typed = [name, *words, "-o", output, "--force"]
        done = run(*typed)
        assert done.exit_code == 0, done.stderr
        there = files(tmp_path)
        (largest,) = sorted((len(data) for file, data in there.items() if file.startswith(output)), reverse=True)[:1]
        for size in (0, largest // 2):
            with room(size):
                done = run(*typed)
            assert done.exit_code == 1, (output, size)
            last = done.stderr.splitlines()[-1]
            assert last.startswith("error: ")
            assert "File too large" in last
            assert "Traceback" not in done.stderr
            assert files(tmp_path) == there


def test_every_writer_is_tried():
    with_outputs = {command.name for command in app.registered_commands if "output" in command.callback.__annotations__}
    assert with_outputs - set(WRITE) == {"demo"}, "which writes with the others' functions"
