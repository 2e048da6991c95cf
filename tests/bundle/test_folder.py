"""A folder is replaced in one step: whoever reads meanwhile finds the old one or the new one, whole."""

import ctypes
import errno
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ncdeploy.bundle.folder import atomic_folder
from ncdeploy.errors import FileError

MARK = "mark"


def write(target: Path, text: str) -> None:
    with atomic_folder(target, mark=MARK, force=True) as folder:
        (folder / MARK).write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)


def without_exchange(number: int) -> SimpleNamespace:
    """A C library whose system does not know how to exchange."""

    def renameat2(*arguments: object) -> int:
        ctypes.set_errno(number)
        return -1

    return SimpleNamespace(renameat2=renameat2)


@pytest.mark.parametrize("library", [None, without_exchange(errno.EINVAL), SimpleNamespace()])
def test_replaced_with_its_mode_and_without_debris(
    tmp_path: Path, library: SimpleNamespace | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    write(target, "old")
    target.chmod(0o750)
    if library is not None:
        monkeypatch.setattr(ctypes, "CDLL", lambda *a, **k: library)
    write(target, "new")
    assert (target / "inner" / "file").read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_with_one_other_thing_in_it_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write(target, "new")  # an empty one is as good as none
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(FileError, match="a folder with other things in it, which stay"):
        write(tmp_path / "mine", "new")
    assert (tmp_path / "mine" / "letter").read_text() == "dear"


def test_a_failure_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    write(target, "old")
    monkeypatch.setattr(ctypes, "CDLL", lambda *a, **k: without_exchange(errno.EACCES))
    with pytest.raises(FileError, match="Permission denied"):
        write(target, "new")
    assert (target / MARK).read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_readers_always_find_a_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write(target, "0")
    stop, wrong = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            folder = os.open(target, os.O_RDONLY)
            try:
                texts = []
                for name in (MARK, "inner/file"):
                    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
                    texts.append(os.read(descriptor, 10))
                    os.close(descriptor)
            except FileNotFoundError:
                continue  # replaced and removed since it was opened
            finally:
                os.close(folder)
            if texts[0] != texts[1]:
                wrong.append(str(texts))

    def look() -> None:
        while not stop.is_set():
            if not target.exists():
                wrong.append("none")

    readers = [threading.Thread(target=f) for f in (read, look)]
    for reader in readers:
        reader.start()
    try:
        for i in range(1, 60):
            write(target, str(i))
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
