"""Files read within bounds, and written so that a failure loses nothing: checked before the work, replaced in one step
after it.

Until it is whole, a new file is a temporary one beside its target, locked by its writer. What a killed run left behind
has no lock any more, and the next one that writes there removes it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ncdeploy.errors import FileError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ncdeploy, else ~/.cache/ncdeploy; not created here.

    For a user without a home, as services and containers have, a place where nothing can be made, and nothing is kept.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "ncdeploy"
    except RuntimeError:
        return Path(os.devnull) / "ncdeploy"


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path, `~` resolved. Raises FileError for the `~` of somebody without a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise FileError(f"{path}: {Path(path).parts[0]} is nobody's home here; give the path without it") from e


def real_path(path: str | os.PathLike[str]) -> Path:
    """The path, `~` and links resolved. Raises FileError for what names no file: a link to itself; a zero in it."""
    try:
        return user_path(path).resolve()
    except (OSError, ValueError, RuntimeError) as e:
        raise FileError(f"{path}: is not the name of a file: {e}") from e


def regular_file(path: str | os.PathLike[str], expected: str) -> Path:
    """The path, `~` resolved, of a file that can be read to its end: none that is missing, a folder, pipe or device.

    Raises FileError, which says what was expected.
    """
    file = user_path(path)
    try:
        mode = file.stat().st_mode
    except FileNotFoundError as e:
        raise FileError(f"{path}: there is no such file; {expected}") from e
    except (OSError, ValueError) as e:  # a link to itself; a zero in the name
        raise FileError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}; {expected}") from e
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise FileError(f"{path}: is {kind}; {expected}")
    return file


def read_file(path: str | os.PathLike[str], most: int, expected: str) -> bytes:
    """The bytes of a regular file of at most `most`. Raises FileError."""
    file = regular_file(path, expected)
    try:
        with file.open("rb") as f:
            data = f.read(most + 1)
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}; {expected}") from e
    if len(data) > most:
        raise FileError(f"{path}: has {file.stat().st_size} bytes, at most {most} are read; {expected}")
    return data


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Return the path with links resolved, or raise FileError if a file could not be written there.

    Meant to be called before hours of work rather than after them. Nothing is created.
    """
    target = real_path(path)
    parent = target.parent
    if target.is_dir():
        raise FileError(f"{path}: is a folder, expected the name of a file in it")
    check_folder_of(path, parent)
    if target.exists() and not target.is_file():
        raise FileError(f"{path}: is a device or a pipe, expected a regular file that can be replaced")
    return target


def check_folder_of(path: str | os.PathLike[str], parent: Path) -> None:
    """Raise FileError unless something can be made in the folder `parent`, in which `path` is."""
    if not parent.is_dir():
        raise FileError(f"{path}: the folder {parent} does not exist; create it first, e.g. mkdir -p {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileError(f"{path}: the folder {parent} is not writable; choose another output or change its permissions")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary file of the same suffix in the same folder, and move it to `path` if the body succeeds.

    A reader sees the old file or the new one, never a part, whenever the power fails; a failure leaves the old file and
    no debris. The new file has the mode of the old one, or what the umask says. Raises FileError if the file cannot be
    written.
    """
    with atomic_writes(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def atomic_writes(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """As `atomic_write`, for files of one folder that belong together.

    All are on the disk before the first is moved, and nobody else moves several there meanwhile: of two processes that
    write the same names, one has all of them in the end.
    """
    targets = [check_writable(path) for path in paths]
    folder = targets[0].parent
    try:
        with contextlib.ExitStack() as stack:
            made = [(target, *stack.enter_context(temporary_beside(target))) for target in targets]
            yield [temporary for _, temporary, _ in made]
            for target, _, lock in made:
                if not os.fstat(lock).st_size:
                    raise OSError("nothing was written")
                with contextlib.suppress(OSError):  # no old file, or one of somebody else
                    os.fchmod(lock, stat.S_IMODE(target.stat().st_mode))
                os.fsync(lock)
            with _alone_in(folder) if len(made) > 1 else contextlib.nullcontext():
                for target, temporary, _ in made:
                    temporary.replace(target)
            sync(folder)
    except OSError as e:
        raise FileError(f"{paths[0]}: cannot be written: {e.strerror or e}") from e


@contextlib.contextmanager
def workplace(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path`, for what it is made of: gone afterwards, or with the next one there if this
    process is killed. Raises FileError for what cannot be written in it."""
    try:
        with temporary_beside(real_path(path), folder=True) as (folder, _):
            yield folder
    except OSError as e:
        raise FileError(f"{path}: cannot be written: {e.strerror or e}") from e


@contextlib.contextmanager
def held(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[None]:
    """Keep `path` for this process while the body runs: see `temporary_beside`, of which nothing is used but the lock.

    Raises FileError if another process holds it, or writes it now. Where none can be made or locked, nothing is kept.
    """
    target = real_path(path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError), _alone_in(target.parent):
            if _sweep(target, folder):
                raise FileError(f"{path}: is being written by another run; wait for its end, or choose another output")
            stack.enter_context(temporary_beside(target, folder=folder))
        yield


@contextlib.contextmanager
def temporary_beside(target: Path, *, folder: bool = False) -> Iterator[tuple[Path, int]]:
    """Make a file or folder beside `target` under a name of its own, locked while the body runs and gone after it.

    Yields its path and the descriptor that holds the lock. Those of killed runs are removed.
    """
    _sweep(target, folder)
    stem, suffix = _stem(target, folder)
    while True:
        temporary = target.with_name(f".{stem}.{secrets.token_hex(4)}.tmp{suffix}")
        if folder:
            temporary.mkdir()
        lock = os.open(temporary, _FOLDER if folder else _NEW, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is(temporary, lock):
                continue  # swept by another run before it was locked
            yield temporary, lock
            return
        finally:
            _remove(temporary)
            os.close(lock)


_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def sync(path: Path) -> None:
    """Bring what a folder or file holds to the disk; where a file system cannot, that is no error."""
    descriptor = os.open(path, _ANY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _stem(target: Path, folder: bool) -> tuple[str, str]:
    """How names of temporary files and folders for a target begin and end."""
    stem, suffix = (target.name, "") if folder else (target.stem, target.suffix)
    if len(os.fsencode(target.name)) > 200:  # names have at most 255 bytes
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()
    return stem, suffix


def _sweep(target: Path, folder: bool) -> bool:
    """Remove the temporary files and folders that no process has locked; whether there are others."""
    stem, suffix = map(re.escape, _stem(target, folder))
    pattern, locked = re.compile(rf"\.{stem}\.[0-9a-f]{{8}}\.tmp{suffix}"), False
    for path in [target.with_name(name) for name in os.listdir(target.parent) if pattern.fullmatch(name)]:
        try:
            with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _remove(path)
        except BlockingIOError:
            locked = True
        except OSError:
            continue
    return locked


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    descriptor = os.open(path, _ANY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _alone_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """For the moment of a few names: one process at a time."""
    return _locked(folder, fcntl.LOCK_EX)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _is(path: Path, descriptor: int) -> bool:
    """Whether the path still names what was opened."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
