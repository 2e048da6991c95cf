"""Writing is checked before the work and happens in one step."""

import os
import stat
from pathlib import Path

import pytest

from ncdeploy.errors import FileError
from ncdeploy.files import atomic_write, check_writable


def test_a_good_place_is_accepted_and_left_alone(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "new.pt") == tmp_path / "new.pt"
    assert list(tmp_path.iterdir()) == []


def test_impossible_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(FileError, match=r"does not exist.*mkdir"):
        check_writable(tmp_path / "none" / "x.pt")
    with pytest.raises(FileError, match="device or a pipe"):
        check_writable(os.devnull)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="does not exist"):
        check_writable(tmp_path / "file" / "x.pt")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(FileError, match="not writable"):
        check_writable(tmp_path / "x.pt")


def test_success_replaces_and_failure_keeps(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def fail_halfway() -> None:
        with atomic_write(target) as path:
            path.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert target.read_text() == "old"
    with atomic_write(target) as path:
        assert path.suffix == ".txt"
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    with pytest.raises(FileError, match="cannot be written"), atomic_write(target):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_links_are_followed_and_the_umask_holds(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "out.txt")
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "link.txt") as path:
            path.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "link.txt").is_symlink()
    assert stat.S_IMODE((tmp_path / "real" / "out.txt").stat().st_mode) == 0o640
