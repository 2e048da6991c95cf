"""Writing a folder so that a failure loses nothing: checked before the work, put in place in one step after it."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from ncdeploy.errors import FileError


def check_folder(path: str | os.PathLike[str], *, mark: str, force: bool) -> Path:
    """Return the path with links resolved, or raise FileError if a folder could not be put there. Nothing is created.

    mark:  name of a file that tells a folder of this kind
    force: whether such a folder may be replaced; any other one with something in it is never touched
    """
    target = Path(path).expanduser().resolve()
    parent = target.parent
    if not parent.is_dir():
        raise FileError(f"{path}: the folder {parent} does not exist; create it first, e.g. mkdir -p {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileError(f"{path}: the folder {parent} is not writable; choose another output or change its permissions")
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

    A failure leaves what was there and no debris. Arguments and errors are those of `check_folder`.
    """
    target = check_folder(path, mark=mark, force=force)
    temporary, old = (target.with_name(f".{target.name}.{secrets.token_hex(4)}") for _ in range(2))
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.replace(old)
        try:
            temporary.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        raise FileError(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
