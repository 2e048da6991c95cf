"""A log holds every step once, and is not worth a run."""

import json
from pathlib import Path

import pytest

from ncdeploy.training import Progress, StepLog


def step(number: int) -> Progress:
    return Progress(step=number, steps=9, loss=0.5, denoising=0.5, contrastive=None, lr=0.1, norm=1.0, rate=2.0)


def write(path: Path, numbers: range, *, after: int = 0) -> list[str]:
    told: list[str] = []
    with StepLog(path, after=after, say=told.append) as log:
        for number in numbers:
            log.write(step(number))
    return told


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_takes_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert write(path, range(1, 7)) == []
    with path.open("a") as f:
        f.write('{"step": 7, "los')  # killed in the midst of a line; saved after step 4
    assert write(path, range(5, 10), after=4) == []
    assert steps(path) == list(range(1, 10))
    assert write(path, range(1, 3)) == [], "another run"
    assert steps(path) == [*range(1, 10), 1, 2]


def test_other_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('my notes\n[1]\n{"step": "5"}\n')
    before = path.read_text()
    write(path, range(2, 3), after=1)
    assert path.read_text().startswith(before)


@pytest.mark.parametrize("disk", ["/dev/full", "/proc/nowhere"])
def test_a_full_disk_is_told_once_and_stops_nothing(disk: str) -> None:
    told = write(Path(disk), range(1, 5))
    assert len(told) == 1
    assert "goes on without the log" in told[0]
