"""Writing files so that a failure loses nothing: checked before the work, replaced in one step after it."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ncdeploy.errors import FileError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ncdeploy, else ~/.cache/ncdeploy; not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ncdeploy"


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Return the path with links resolved, or raise FileError if a file could not be written there.

    Meant to be called before hours of work rather than after them. Nothing is created.
    """
    target = Path(path).expanduser().resolve()
    parent = target.parent
    if target.is_dir():
        raise FileError(f"{path}: is a folder, expected the name of a file in it")
    if not parent.is_dir():
        raise FileError(f"{path}: the folder {parent} does not exist; create it first, e.g. mkdir -p {parent}")
    if target.exists() and not target.is_file():
        raise FileError(f"{path}: is a device or a pipe, expected a regular file that can be replaced")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileError(f"{path}: the folder {parent} is not writable; choose another output or change its permissions")
    return target


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path with the same suffix in the same folder, and move it to `path` if the body succeeds.

    A reader sees the old file or the new one, never a part; a failure leaves the old file and no debris.
    Raises FileError if the file cannot be written.
    """
    target = check_writable(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())
        temporary.replace(target)
    except OSError as e:
        raise FileError(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        temporary.unlink(missing_ok=True)
