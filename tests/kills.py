"""kill -9 at random moments of every command that writes: what was there is whole, or what is new; nothing else stays.

As a script, so many kills of each: python tests/kills.py 100 [command ...]
Commands run in forks of a process that has all packages loaded, so that the moments are those of their work.
"""

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NEXT = 10  # after so many kills the command runs to its end
TRAIN = ["train", "--data", "moons", "--network", "small", "--batch", "8", "--updates", "30", "--save-every", "1"]
SMALL = ["--max-samples", "2", "--max-window", "4"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """words: of a run that replaces `output`; whole(output) reads it to the end, and raises for what is not whole."""

    words: list[str]
    output: str
    whole: Callable[[Path], Any]


def read_model(file: Path) -> None:
    from ncdeploy.denoisers import load_model

    load_model(file)


def read_engine(file: Path) -> None:
    from ncdeploy.formats.sidecar import digest, read_sidecar

    assert read_sidecar(file).plan_sha256 == digest(file), "an engine beside the record of another"


def read_graph(file: Path) -> None:
    import onnx

    onnx.checker.check_model(onnx.load(file), full_check=True)


def read_bundle(folder: Path) -> None:
    from ncdeploy import open_bundle

    open_bundle(folder)


def read_curve(folder: Path) -> None:
    from ncdeploy.auto.latency import Latency

    (file,) = folder.glob("*.json")
    Latency.from_json(file.read_text())


def read_samples(file: Path) -> None:
    with np.load(file) as arrays:
        assert arrays["samples"].shape == (8, 2)


def read_pictures(folder: Path) -> None:
    from PIL import Image

    for file in folder.glob("[0-9]*"):
        Image.open(file).load()


COMMANDS = {
    "train": Command(words=[*TRAIN, "-o", "new.pt"], output="new.pt", whole=read_model),
    "import": Command(words=["import", "m.pt", "-o", "new.safetensors"], output="new.safetensors", whole=read_model),
    "export": Command(words=["export", "m.pt", "-o", "new.onnx"], output="new.onnx", whole=read_graph),
    "build": Command(
        words=["build", "m.onnx", "--runtime", "rtx", "--target", "sm89", *SMALL, "--rebuild", "-o", "new.plan"],
        output="new.plan", whole=read_engine,
    ),
    "bundle": Command(words=["bundle", "m.onnx", "-o", "new"], output="new", whole=read_bundle),
    "tune": Command(words=["tune", "m.onnx", "--budget", "0.3"], output="cache/ncdeploy/latency", whole=read_curve),
    "sample": Command(words=["sample", "m.onnx", "-n", "8", "-o", "new.npz"], output="new.npz", whole=read_samples),
    "pictures": Command(words=["sample", "p.onnx", "-n", "64", "-o", "new"], output="new", whole=read_pictures),
}  # fmt: skip


def start(folder: Path, words: list[str]) -> int:
    """Run a command in a child, silent, in the folder; the child's number."""
    child = os.fork()
    if child:
        return child
    try:
        from ncdeploy_cli.main import app

        os.chdir(folder)
        os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), TMPDIR=str(folder / "tmp"))
        tempfile.tempdir = None
        with open(folder.parent / "said", "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        if words[0] != "tune" and "--resume" not in words:
            words = [*words, "--force"]
        app(words)
    except SystemExit as e:
        os._exit(int(e.code or 0))
    except BaseException:
        os._exit(99)
    os._exit(0)


def run(folder: Path, words: list[str]) -> float:
    """To the end, which must be a good one; seconds."""
    begin = time.perf_counter()
    _, status = os.waitpid(start(folder, words), 0)
    assert status == 0, (folder.parent / "said").read_text()
    return time.perf_counter() - begin


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def weights(file: Path) -> str:
    from ncdeploy.denoisers import load_model, weights_digest

    return weights_digest(load_model(file).state_dict())


def make_sources(folder: Path) -> None:
    from tiny_models import IMAGES, write_mixture

    (folder / "tmp").mkdir(parents=True)
    write_mixture(folder / "p.onnx", IMAGES, np.random.default_rng(0).normal(size=(2, 1, 8, 8)))
    run(folder, [*TRAIN, "-o", "m.pt"])
    run(folder, ["export", "m.pt", "-o", "m.onnx"])


def kill(name: str, count: int, folder: Path) -> Counter[str]:
    """What was found after each kill. Raises AssertionError where something was lost, or stays."""
    command, found, rng = COMMANDS[name], Counter[str](), np.random.default_rng(count)
    output = folder / command.output
    run(folder, command.words)
    long = max(run(folder, command.words) for _ in range(2))
    there = names(folder)
    while found["killed"] < count:
        child = start(folder, command.words)
        time.sleep(float(rng.uniform(0, long)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status != signal.SIGKILL:
            found["ended before"] += 1
            long *= 0.9
            continue
        found["killed"] += 1
        command.whole(output)
        found["with temporary files"] += names(folder) != there
        if name == "train":
            found["resumed bit-exact"] += resume(folder, output)
        if not found["killed"] % NEXT:
            run(folder, command.words)
            assert names(folder) == there, names(folder) ^ there
            command.whole(output)
    return found


def resume(folder: Path, file: Path) -> int:
    """Whether there was something left to do; what it leads to is as without the kill."""
    from ncdeploy.denoisers.checkpoint import load_record

    if load_record(file)["step"] == 30:
        return 0
    run(folder, ["train", "--resume", file.name])
    assert weights(file) == weights(folder / "m.pt"), "the resumed run ended in other weights"
    return 1


def main() -> None:
    import accelerate  # noqa: F401
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    import ncdeploy.export
    import ncdeploy.report.samples
    import ncdeploy.training  # noqa: F401

    for name in sys.argv[2:] or COMMANDS:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as top:
            folder = Path(top) / "work"
            make_sources(folder)
            found = kill(name, int(sys.argv[1]), folder)
        sys.stdout.write(f"{name}: {dict(found)} in {time.perf_counter() - begin:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
