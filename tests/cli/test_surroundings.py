"""A user without a home, a cache that cannot be written, a terminal of ASCII: every command works, or says one line."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from ncdeploy_cli.main import app

ROOT = Path(__file__).parents[2]
HOME = "~/file"
# What is named ~ for each command: what it reads, and what it writes. A command that is not listed fails below.
OF_HOME = {
    "train": [
        ["--data", HOME, "-o", "m.pt"], ["--data", "digits", "-o", HOME + ".pt"], ["--resume", HOME],
        ["--data", "digits", "--init-from", HOME, "-o", "m.pt"], ["--data", "digits", "--log", HOME, "-o", "m.pt"],
    ],
    "import": [
        [HOME, "-o", "m.pt"], ["m.pt", "-o", HOME + ".pt"],
        *([HOME, "-o", "m.pt", "--format", kind] for kind in ("diffusers", "edm", "ncdeploy")),
        [HOME, "-o", "m.pt", "--format", "guided-diffusion", "--image-size", "8", "--num-heads", "2"],
    ],
    "export": [[HOME, "-o", "m.onnx"], ["m.pt", "-o", HOME + ".onnx"]],
    "build": [[HOME, "-o", "m.plan"], ["m.onnx", "-o", HOME + ".plan"]],
    "verify": [[HOME, "image.onnx"], ["image.onnx", HOME], ["image.onnx", HOME, "--layers"]],
    "check": [[HOME], ["image.onnx", "--data", HOME + ".npy"]],
    "bundle": [[HOME, "-o", "b"], ["image.onnx", "-o", HOME], ["image.onnx", "-o", "b", "--reference", HOME]],
    "triton": [[HOME, "-o", "r"], ["b", "-o", HOME]],
    "sample": [[HOME], ["image.onnx", "-o", HOME], ["image.onnx", "-o", HOME + ".npz"]],
    "serve": [[HOME, "--port", 0], ["image.onnx", "--port", 0, "--token-file", HOME]],
    "denoise": [[HOME, "a.npy", "-o", "b.npy"], ["image.onnx", HOME + ".npy", "-o", "b.npy"],
                ["image.onnx", "a.npy", "-o", HOME + ".npy"]],
    "tune": [[HOME]],
    "demo": [["-o", HOME]],
    "evaluate": [[HOME, "--data", "digits"], ["image.onnx", "--data", "digits", "-o", HOME + ".html"]],
    "bench": [[HOME], ["image.onnx", "-o", HOME + ".svg"]],
    "inspect": [[HOME]],
    "doctor": [],
}  # fmt: skip


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user id without an entry in passwd, as containers and services run under."""

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)


@pytest.mark.parametrize("name", sorted(c.name for c in app.registered_commands))
def test_a_file_of_nobodys_home_is_refused_in_one_line(run, models, no_home, tmp_path, name):
    os.symlink(models["image"], "image.onnx")
    assert name != "triton" or run("bundle", "image.onnx", "-o", "b", "--no-verify").exit_code == 0
    for words in OF_HOME[name]:
        done = run(name, *words)
        assert (done.exit_code, done.stdout) == (1, ""), (words, done.exception)
        assert done.stderr.startswith("error: "), words
        assert "~" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"image.onnx", "b", "cache"}


@pytest.mark.parametrize("cache", [None, "/dev/null", "file"])
def test_commands_go_on_without_a_cache(run, models, no_home, monkeypatch, cache):
    Path("file").touch()
    if cache is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    for words in (
        ["tune", models["vectors"], "--rows", 4, "--budget", 0.1],
        ["sample", models["vectors"], "-n", 2, "--parallel"],
        ["sample", models["points"], "-n", 2],
        ["bundle", models["image"], "-o", "b"],
        ["sample", "b", "-n", 2, "--parallel", "-o", "s.npz"],
        ["bench", models["image"], "--solver", "euler", "--steps", 2, "--samples", 2, "--repetitions", 1],
        ["inspect", models["image"]],
        ["doctor"],
    ):
        done = run(*words)
        assert (done.exit_code, done.stderr) == (0, ""), (words, done.exception)


def test_a_terminal_of_ascii(models, tmp_path):
    """In a process of its own, whose output has the encoding; file names are UTF-8 with LC_ALL=C as well."""
    code = (
        "import sys\n"
        "from ncdeploy_cli.main import app\n"
        "assert sys.stdout.encoding == 'ascii'\n"
        "model, samples, bundle, missing = sys.argv[1:]\n"
        "for words in (['inspect', model], ['sample', model, '-n', '2', '-o', samples], ['inspect', samples],\n"
        "    ['tune', model, '--budget', '0.1'], ['bundle', model, '-o', bundle], ['triton', bundle, '-o', 'models'],\n"
        "    ['verify', model, model], ['train', '--help'], ['--help'], ['doctor']):\n"
        "    assert not app(words, standalone_mode=False), words\n"
        "app(['inspect', missing])\n"
    )
    os.symlink(models["vectors"], tmp_path / "é.onnx")
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]), "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C", "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "é.onnx", "ü.npz", "ö", "è.onnx"],
        capture_output=True, env=environment, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(b"error: \\xe8.onnx: there is no such file"), done.stderr
    assert b"Traceback" not in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"é.onnx", "ü.npz", "ö", "models", "cache"}
