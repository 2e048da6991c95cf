"""Shards: the samples of one run whoever draws them and however often it was killed, and never those of another."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ncdeploy.bulk.run import Source, _opened
from ncdeploy.errors import FileError
from ncdeploy.formats.conditions import fill_conditions
from ncdeploy.ports import Condition
from ncdeploy_cli.main import app
from oracle import digits
from tiny_models import IMAGES, write_mixture

ROOT = Path(__file__).resolve().parents[2]
PLAN = ("--solver", "ddpm", "--steps", 10, "--threads", 1, "--rows", 8)
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    means = digits().means[:50].reshape(-1, 1, 8, 8)
    write_mixture(Path("m.onnx"), IMAGES, means)
    write_mixture(Path("c.onnx"), replace(IMAGES, num_classes=10), means)
    return lambda *words: CliRunner().invoke(app, ["sample", *map(str, words)])


def samples(folder: Path | str, name: str = "samples") -> np.ndarray:
    return np.concatenate([np.load(file)[name] for file in sorted(Path(folder).glob("shard-*.npz"))])


def refused(done: Result) -> str:
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_shards_are_the_samples_of_one_run_and_what_is_missing_is_drawn_again(run: Run) -> None:
    words = ("c.onnx", "-n", 44, "--seed", 5, "--labels", "3,1,7", *PLAN)
    assert run(*words, "-o", "one.npz").exit_code == 0
    done = run(*words, "-o", "shards", "--shard", 16, "--json")
    assert json.loads(done.stdout)["shards"] == json.loads(done.stdout)["drawn"] == 3
    one = np.load("one.npz")
    np.testing.assert_array_equal(samples("shards"), one["samples"])
    np.testing.assert_array_equal(samples("shards", "labels"), one["labels"])
    whole = {file.name: file.read_bytes() for file in Path("shards").iterdir()}
    Path("shards/shard-00001-of-00003.npz").unlink()
    os.truncate("shards/shard-00002-of-00003.npz", 1000)
    done = run(*words, "-o", "shards", "--shard", 16, "--json")
    assert json.loads(done.stdout)["drawn"] == 2
    assert {file.name: file.read_bytes() for file in Path("shards").iterdir()} == whole
    assert "0 samples, 0 of 3 shards" in run(*words, "-o", "shards", "--shard", 16).stdout


@pytest.mark.parametrize("window", [("--window", 4), ("--window", 4, "--accept", "law")])
def test_a_shard_is_the_same_by_itself_with_a_window(run: Run, window: tuple[Any, ...]) -> None:
    for name in ("a", "b"):
        assert run("m.onnx", "-n", 20, "--shard", 10, "-o", name, *PLAN, *window).exit_code == 0
        Path(f"{name}/shard-00000-of-00002.npz").unlink(missing_ok=name == "b")
        assert run("m.onnx", "-n", 20, "--shard", 10, "-o", name, *PLAN, *window).exit_code == 0
    np.testing.assert_array_equal(samples("a"), samples("b"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("-n", 33), "whose n is 32; this has 33"),
        (("--seed", 1), "whose seed is 0; this has 1"),
        (("--steps", 9), 'whose plan is "ddpm-10"; this has "ddpm-9"'),
        (("--eta", 0.5, "--solver", "ddim"), "whose plan is"),
        (("--rows", 4), "whose rows is 8; this has 4"),
        (("--window", 4), "whose window is null; this has 4"),
        (("--engine", "c.onnx"), "whose engine is"),
    ],
)
def test_a_folder_of_another_run_is_refused(run: Run, change: tuple[Any, ...], named: str) -> None:
    words = {
        "--engine": "m.onnx",
        "-n": 32,
        "--shard": 16,
        "-o": "shards",
        **dict(zip(PLAN[::2], PLAN[1::2], strict=True)),
    }
    assert run(*sum(words.items(), ())).exit_code == 0
    before = samples("shards")
    words |= dict(zip(change[::2], change[1::2], strict=True))
    assert named in refused(run(*sum(words.items(), ())))
    np.testing.assert_array_equal(samples("shards"), before)
    if "-n" in change:
        assert run(*sum(words.items(), ()), "--force").exit_code == 0
        assert len(list(Path("shards").iterdir())) == 4
        assert len(samples("shards")) == 33


def test_what_shards_cannot_have_is_refused_before_anything_is_made(run: Run, monkeypatch: Any) -> None:
    shards = ("m.onnx", "--shard", 8, *PLAN)
    for words, why in (
        (shards, "--output: shards need a folder"),
        ((*shards, "-o", "s.npz"), "expected the name of a folder"),
        ((*shards, "-o", "s", "--parallel"), "--window auto: follows the clock"),
        ((*shards, "-o", "s", "--deadline", "1s"), "--deadline 1s: shards are drawn to their end"),
        (("m.onnx", "-o", "s.npz", "--workers", 2), "--workers: are those of --ray"),
    ):
        assert why in refused(run(*words))
    monkeypatch.setattr("ncdeploy.bulk.cluster.find_spec", lambda name: "there")
    assert "--device cuda:1: Ray gives each worker a GPU; give cuda" in refused(
        run("m.onnx", "-o", "s", "--ray", "local", "--device", "cuda:1")
    )
    monkeypatch.setattr("ncdeploy.bulk.cluster.find_spec", lambda name: None)
    assert "--ray needs Ray: pip install -c constraints.txt '.[ray]'" in refused(
        run("m.onnx", "-o", "s", "--ray", "local")
    )
    assert not Path("s").exists()
    Path("s").mkdir()
    Path("s/mine.txt").touch()
    assert "s: holds mine.txt, and no run.json" in refused(run(*shards, "-o", "s", "--force"))


def test_a_full_disk_is_one_line_and_the_run_goes_on(run: Run, monkeypatch: Any) -> None:
    write, words = np.savez_compressed, ("m.onnx", "-n", 24, "--shard", 8, "-o", "shards", *PLAN)

    def full(file: Any, **arrays: Any) -> None:
        if "00001-of" in str(file):
            Path(file).write_bytes(b"part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, **arrays)

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez_compressed", full)
        assert "shard-00001-of-00003.npz: cannot be written: No space left on device" in refused(run(*words))
    assert sorted(file.name for file in Path("shards").iterdir()) == ["run.json", "shard-00000-of-00003.npz"]
    assert "2 of 3 shards" in run(*words).stdout


def test_a_worker_that_finds_another_engine_draws_nothing(run: Run) -> None:
    source = Source.of(Path("m.onnx"), device="cpu", threads=1, mode=None, allow_module=False, info=None)
    with pytest.raises(FileError, match=r"m\.onnx: is another engine on .* than where the run was started"):
        _opened(replace(source, sha256="0" * 64))


def test_conditions_of_a_shard_are_those_of_its_samples() -> None:
    info = replace(IMAGES, conditions=tuple(Condition(name=n, dtype="float32", shape=(2,)) for n in ("a", "b")))
    found = {"a": np.arange(4, dtype=np.float32).reshape(2, 2), "b": np.arange(6, dtype=np.float32).reshape(3, 2)}
    every = fill_conditions(found, info, range(11))
    for name, values in found.items():
        np.testing.assert_array_equal(every[name], values[np.arange(11) % len(values)])
        np.testing.assert_array_equal(fill_conditions(found, info, range(5, 9))[name], every[name][5:9])


def started(*words: Any, **pipes: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ncdeploy_cli.main", "sample", *map(str, words)]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "cli")))
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, text=True, **pipes)


def until_there_are(count: int, folder: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while len(list(folder.glob("shard-*"))) < count:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow  # Ray takes seconds to start, and on a busy machine gives up
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
def test_what_was_killed_is_taken_up_by_ray_whose_workers_are_killed(run: Run) -> None:
    import psutil

    words, folder = ("m.onnx", "-n", 4000, "--shard", 40, *PLAN, "--rows", 40), Path("shards")
    with started(*words, "-o", folder, stderr=subprocess.PIPE) as process:
        try:
            until_there_are(30, folder, process)
        finally:
            process.kill()
    there = len(list(folder.glob("shard-*")))
    assert len(samples(folder)) == 40 * there < 4000
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(*words, "-o", folder, "--ray", "local", "--workers", 2, "--json", **pipes) as process:
        try:
            until_there_are(there + 4, folder, process)
            below = psutil.Process(process.pid).children(recursive=True)
            next(each for each in below if each.name().startswith("ray::draw")).kill()
            printed, said = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert json.loads(printed)["drawn"] == 100 - there
    assert run(*words, "-o", "one").exit_code == 0
    one, by_ray = ({file.name: file.read_bytes() for file in Path(name).iterdir()} for name in ("one", "shards"))
    assert by_ray == one
