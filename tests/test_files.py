"""Writing is checked before the work and happens in one step."""

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ncdeploy.errors import FileError
from ncdeploy.files import (
    atomic_write,
    atomic_writes,
    cache_folder,
    check_writable,
    held,
    read_file,
    real_path,
    user_path,
)


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


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    target.chmod(0o604)
    with atomic_write(target) as path:
        path.write_text("new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


WRITE_AND_WAIT = """
import sys, time
from ncdeploy.files import atomic_write
with atomic_write(sys.argv[1]) as path:
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(target)]
    running, killed = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        for process in (running, killed):
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        (tmp_path / ".out.txt").write_text("of the user")
        (tmp_path / ".out.12345678.txt").write_text("of the user")
        with atomic_write(target) as path:
            path.write_text("new")
        assert target.read_text() == "new"
        left = {p.name for p in tmp_path.iterdir()} - {"out.txt", ".out.txt", ".out.12345678.txt"}
        assert len(left) == 1, "of the run that still writes"
    finally:
        for process in (running, killed):
            process.kill()
            process.communicate()


def test_names_of_any_length(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 251 + ".txt")
    with atomic_write(target) as path:
        path.write_text("new")
    assert target.read_text() == "new"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    folder = cache_folder()
    assert not folder.exists()
    with pytest.raises(OSError, match="Not a directory"):
        folder.mkdir(parents=True)


def test_only_regular_files_of_a_known_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(bytes(10))
    for name, said in {"pipe": "regular", ".": "a folder", "none": "no such file", "loop": "cannot be read"}.items():
        with pytest.raises(FileError, match=f"{said}.*expected a test"):
            read_file(tmp_path / name, 10, "expected a test")
    with pytest.raises(FileError, match="regular"):
        read_file("/dev/zero", 10, "expected a test")
    with pytest.raises(FileError, match="has 10 bytes, at most 9"):
        read_file(tmp_path / "file", 9, "expected a test")
    assert read_file(tmp_path / "file", 10, "expected a test") == bytes(10)


def test_paths_that_name_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", "~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(FileError):
            real_path(path)
    with pytest.raises(FileError, match="~nobody-of-this-name is nobody's home"):
        user_path("~nobody-of-this-name/x")


def test_files_that_belong_together_are_moved_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a.plan", tmp_path / "a.plan.json"
    with atomic_writes(first, second) as (one, two):
        one.write_text("1")
        two.write_text("1")
        assert list(tmp_path.glob("a*")) == []
    with pytest.raises(FileError, match=r"a\.plan: .*nothing was written"), atomic_writes(first, second) as (one, _):
        one.write_text("2")
    assert (first.read_text(), second.read_text()) == ("1", "1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.plan", "a.plan.json"]


WRITE_PAIR = """
from ncdeploy.files import atomic_writes
with atomic_writes("a", "b") as (one, two):
    one.write_text("x")
    two.write_text("x")
    print("written", flush=True)
"""


def test_two_processes_never_move_their_files_together_between_each_other(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # as a process has it that is moving its files
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_PAIR], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            assert not (tmp_path / "a").exists()
        finally:
            os.close(folder)
        assert process.wait(60) == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "x"


def test_what_another_process_holds_or_writes_is_told(tmp_path: Path) -> None:
    target = tmp_path / ("a-long-name-of-a-run-" * 4 + "1.txt")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, str(target)], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(FileError, match="is being written by another run; wait"), held(target):
            pass
        with held(target.with_name(target.name.replace("1", "2"))), held(tmp_path / "folder", folder=True):
            assert len(list(tmp_path.iterdir())) == 3
        process.kill()
        process.wait()
        with held(target):
            assert len(list(tmp_path.iterdir())) == 1, "what the killed run left is gone"
        assert list(tmp_path.iterdir()) == []
        with held(tmp_path / "none" / "x"):
            pass
    finally:
        process.kill()
        process.communicate()
