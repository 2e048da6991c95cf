"""Building engines/cpp in tests, under build/ so that only what changed is compiled again."""

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "engines" / "cpp"
BUILD = ROOT / "build"


@contextmanager
def alone(name: str) -> Iterator[Path]:
    """The build folder of this name, while no other test process builds there."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def run(*command: object) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(folder: Path, *options: str, source: Path = SOURCE, target: str = "all") -> None:
    """Configure and build with warnings as errors."""
    run("cmake", "-S", source, "-B", folder, *options)
    run("cmake", "--build", folder, "--parallel", "2", "--target", target)
