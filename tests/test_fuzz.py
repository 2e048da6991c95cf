"""Every reader, given what it was not made for, reads it or says in one line why not: no traceback, no hang."""

import os
from pathlib import Path

import numpy as np
import pytest

import fuzz

COUNT = 150
FEWER = {"guided": 50, "checkpoint": 50}  # of those that build a network for every input


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_every_reader_reads_or_refuses_in_one_line(name: str) -> None:
    found = fuzz.run(name, FEWER.get(name, COUNT))
    assert set(found) <= {"read", "refused"}, found
    assert found["refused"], "inputs that are all read test nothing"


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_no_reader_waits_for_a_pipe_or_takes_a_folder(name: str, tmp_path: Path) -> None:
    target = fuzz.TARGETS[name]
    file = target.make(tmp_path)
    file.unlink()
    with fuzz.limits(fuzz.SECONDS):
        os.mkfifo(file)
        with pytest.raises(fuzz.NcdeployError) as error:
            target.read(file)
        assert "\n" not in str(error.value)
        file.unlink()
        file.mkdir()
        with pytest.raises(fuzz.NcdeployError) as error:
            target.read(file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", fuzz.FLIPPED)
def test_no_bit_that_turns_over_changes_what_is_read(name: str) -> None:
    found = fuzz.flips(name, 60)
    assert set(found) <= {"refused", "the same"}, found
    assert found["refused"] > 30


def test_what_a_reader_does_wrong_is_told(tmp_path: Path) -> None:
    def read(file: Path) -> None:
        if file.stat().st_size % 2:
            raise ZeroDivisionError
        raise fuzz.NcdeployError("two\nlines")

    def make(folder: Path) -> Path:
        (folder / "a").write_bytes(bytes(100))
        return folder / "a"

    target = fuzz.Target(make=make, read=read)
    for content in (b"1", b"22"):
        with pytest.raises((ZeroDivisionError, AssertionError)):
            fuzz.try_input(target, make(tmp_path), content)


def test_fields_are_changed_one_by_one() -> None:
    rng = np.random.default_rng(0)
    tree = {"a": [1, {"b": 2.0}], "c": "text"}
    changed = [fuzz.changed_value(tree, rng) for _ in range(50)]
    assert tree == {"a": [1, {"b": 2.0}], "c": "text"}
    assert sum(value != tree for value in changed) > 45
