"""Writing a folder so that a failure loses nothing: checked before the work, put in place in one step after it."""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ncdeploy.errors import FileError
from ncdeploy.files import check_folder_of, real_path, sync, temporary_beside

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # to the kernel, or to the file system


def check_folder(path: str | os.PathLike[str], *, mark: str, force: bool) -> Path:
    """Return the path with links resolved, or raise FileError if a folder could not be put there. Nothing is created.

    mark:  name of a file that tells a folder of this kind
    force: whether such a folder may be replaced; any other one with something in it is never touched
    """
    target = real_path(path)
    check_folder_of(path, target.parent)
    if target.is_dir():
        if (target / mark).is_file():
            if not force:
                raise FileError(f"{path}: exists; choose another output, or replace it with --force")
        elif any(target.iterdir()):
            raise FileError(f"{path}: is a folder with other things in it, which stay; choose another output")
    elif target.exists():
        raise FileError(f"{path}: is a file, expected the name of a folder; choose another output")
    return target


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, mark: str, force: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and move it there if the body succeeds.

    A folder that is there is exchanged for the new one in one step. A failure leaves what was there and no debris.
    Arguments and errors are those of `check_folder`.
    """
    target = check_folder(path, mark=mark, force=force)
    try:
        with temporary_beside(target, folder=True) as (temporary, _):
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in files:
                    sync(Path(folder, name))
                sync(Path(folder))
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                _exchange(temporary, target)
            else:
                temporary.replace(target)
            sync(target.parent)
    except OSError as e:
        raise FileError(f"{path}: cannot be written: {e.strerror or e}") from e


def _exchange(new: Path, old: Path) -> None:
    """Let two folders change names; in one step where the system can, so that a reader always finds one."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        if rename(_HERE, os.fsencode(new), _HERE, os.fsencode(old), _EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in _UNKNOWN:
            raise OSError(code, os.strerror(code))
    aside = new.with_name(f"{new.name}.old")
    old.replace(aside)
    try:
        new.replace(old)
    except OSError:
        aside.replace(old)
        raise
    aside.replace(new)
