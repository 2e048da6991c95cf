"""A line of JSON for every step, in a file that grows."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from ncdeploy.files import user_path
from ncdeploy.training.loop import Progress


class StepLog:
    """Appends to a file. A log is not worth a run: what cannot be written is told once, and training goes on.

    after: the step that a resumed run goes on from. Steps that the file has beyond it, of a run that ended before it
           could save them, are taken again and hence cut off, as is half a line at its end; 0 leaves the file as it is
    say:   is told, in one line, why there are no further lines
    """

    def __init__(self, path: str | os.PathLike[str], *, after: int, say: Callable[[str], None]) -> None:
        self._path, self._say = user_path(path), say
        self._file: IO[str] | None = None
        try:
            if after and self._path.exists():
                _cut(self._path, after)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        except OSError as e:
            self._give_up(e)

    def write(self, progress: Progress) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(asdict(progress)) + "\n")
        except OSError as e:
            self._give_up(e)

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if self._file is not None:
            try:
                self._file.close()
            except OSError as e:
                self._give_up(e)

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # it still holds what could not be written
            if file is not None:
                file.close()
        self._say(f"{self._path}: cannot be written: {error.strerror or error}; training goes on without the log")


def _cut(path: Path, after: int) -> None:
    """Take the steps beyond `after`, and half a line, off the end of a log."""
    end = at = 0
    with path.open("rb+") as file:
        for line in file:
            at += len(line)
            if line.endswith(b"\n") and not _step(line) > after:
                end = at
        file.truncate(end)


def _step(line: bytes) -> int:
    """The step that a line tells of, 0 for any other line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return step if type(step) is int else 0
