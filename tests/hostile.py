"""Watching a reader of hostile files: what Python runs meanwhile, how long it takes, and what is said."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ncdeploy.errors import FileError
from ncdeploy.importers.safe_pickle import parse_pickle

EVENTS = ("os.system", "os.exec", "os.mkdir", "os.remove", "subprocess.Popen", "exec", "pickle.find_class", "socket.")
SECONDS = 5.0
_watching = False
_events: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event.startswith(EVENTS):
        _events.append(f"{event} {arguments}"[:200])


sys.addaudithook(_watch)  # Python itself reports whatever code a file makes it run


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fail if Python executes code, starts a process or unpickles in the body, or if the body takes long."""
    global _watching
    _events.clear()
    start = time.perf_counter()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not _events
    assert time.perf_counter() - start < SECONDS


def refuse(content: bytes, message: str | None = None, reader: Callable[[bytes], Any] | None = None) -> str:
    """Check that reading raises FileError in one line, in bounded time, and that Python ran nothing."""
    with nothing_runs(), pytest.raises(FileError, match=message) as error:
        (reader or (lambda data: parse_pickle(data, "net.pkl")))(content)
    assert "\n" not in str(error.value)
    return str(error.value)


class Call:
    """Pickles as a call of a function, which unpickling then makes."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made
