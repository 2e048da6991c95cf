"""What lies where a curve is kept cannot spoil later runs: what cannot be read is measured anew."""

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ncdeploy.auto import kept
from ncdeploy.auto.latency import Latency
from ncdeploy.modelinfo import ModelInfo

INFO = ModelInfo(shape=(2,), sigma_min=0.01, sigma_max=10.0, sigma_data=1.0)
MEASURED = Latency(rows=(1, 8), seconds=(0.5, 0.75), asked=8)
HOSTILE = {
    "empty": b"",
    "bad UTF-8": b'{"rows": [1], "seconds": [1.0], "asked": 8, "\xff": 0}',
    "nested": b'{"rows": ' + b"[" * 100_000,
    "infinite rows": b'{"rows": [1, 1e999], "seconds": [1, 2], "asked": 8}',
    "infinite seconds": b'{"rows": [1, 2], "seconds": [1, 1e999], "asked": 8}',
    "a day long": b'{"rows": [1, 2], "seconds": [1, 1e7], "asked": 8}',
    "many digits": b'{"rows": [1], "seconds": [1], "asked": ' + b"9" * 5000 + b"}",
    "a list": b"[1]",
    "fields of another type": b'{"rows": 1, "seconds": {"a": 1}, "asked": null}',
    "large": b" " * (1 << 17) + MEASURED.to_json().encode(),
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the curve of an engine is kept, which `tune_again` uses."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "measure_latency", lambda *a, **k: MEASURED)
    (tmp_path / "engine").write_text("")
    return tmp_path


def tune_again(folder: Path) -> Latency:
    backend: Any = SimpleNamespace(info=INFO, name="test")
    return kept.tune(folder / "engine", backend, max_rows=8)


def where(folder: Path) -> Path:
    backend: Any = SimpleNamespace(info=INFO, name="test")
    return kept.latency_file(folder / "engine", backend, threads=None)


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_read_is_measured_and_kept_anew(file: Path, content: bytes) -> None:
    where(file).parent.mkdir(parents=True)
    where(file).write_bytes(content)
    assert tune_again(file) == MEASURED
    assert Latency.from_json(where(file).read_text()) == MEASURED


def test_a_sound_curve_is_used(file: Path) -> None:
    other = Latency(rows=(1, 8), seconds=(0.1, 0.2), asked=8)
    where(file).parent.mkdir(parents=True)
    where(file).write_text(other.to_json())
    assert tune_again(file) == other


@pytest.mark.parametrize(("days", "used"), [(29, True), (31, False), (-1, False)])
def test_an_old_curve_is_measured_anew(file: Path, days: float, used: bool) -> None:
    other = Latency(rows=(1, 8), seconds=(0.1, 0.2), asked=8)
    where(file).parent.mkdir(parents=True)
    where(file).write_text(other.to_json())
    then = time.time() - 86400 * days
    os.utime(where(file), (then, then))
    assert tune_again(file) == (other if used else MEASURED)


def test_whatever_makes_calls_take_another_time_has_a_curve_of_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(*, threads: int | None = 2, name: str = "a", engine: str = "engine", **info: Any) -> Path:
        backend: Any = SimpleNamespace(info=replace(INFO, **info), name=name)
        return kept.latency_file(file / engine, backend, threads=threads)

    (file / "other").write_text("")
    digest = {"weights_digest": "0" * 64}
    places = [
        place(), place(threads=1), place(threads=None), place(name="b"), place(engine="other"),
        place(precision="fp16"), place(**digest),
    ]  # fmt: skip
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    assert len({*places, place()}) == len(places) + 1
    assert place(**digest) == place(engine="other", **digest), "the same weights in another place are the same engine"


def test_a_pipe_or_a_cache_that_cannot_be_made_is_no_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where(file).parent.mkdir(parents=True)
    os.mkfifo(where(file))
    assert tune_again(file) == MEASURED
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert tune_again(file) == MEASURED
