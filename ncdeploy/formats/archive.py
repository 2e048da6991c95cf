"""Zip archives, in which PyTorch and NumPy keep arrays: what they hold is no larger than the file, and unharmed.

Neither of the two looks at the checksums that stand beside every entry.
"""

import zipfile
import zlib
from pathlib import Path

from ncdeploy.errors import FileError

SMALL = 64 << 20  # bytes that a compressed archive may always hold
RATIO = 50  # beyond, at most so many for one of the file; zlib makes up to 1000 of zeros
_PIECE = 1 << 20


def is_archive(file: Path) -> bool:
    """Whether a file begins as a zip archive does, sound or not. Raises OSError where it cannot be read."""
    with file.open("rb") as f:
        return f.read(2) == b"PK"


def check_archive(file: Path, *, compressed: bool = False) -> list[str]:
    """The names in an archive whose entries all have the checksums that it says; memory is taken for one piece of them.

    compressed: whether entries may be; then together they hold at most RATIO times the file, or SMALL bytes

    Raises FileError, which does not name the file, for one that is truncated, damaged or encrypted, holds an entry
    twice, or claims to hold more than it can.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size = file.stat().st_size
            held = max(SMALL, RATIO * size) if compressed else size
            wanted = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if compressed else (zipfile.ZIP_STORED,)
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise FileError("holds an entry twice; nobody who saves a model does that, so it was not opened")
            if any(entry.compress_type not in wanted or entry.flag_bits & 1 for entry in entries):
                raise FileError("holds compressed or encrypted entries, so it was not opened; save it again")
            if sum(entry.file_size for entry in entries) > held:
                raise FileError("claims to hold more than fits into it, so it was not opened; copy or make it again")
            for entry in entries:
                with archive.open(entry) as content:
                    while content.read(_PIECE):
                        pass  # at its end the checksum is compared
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as e:
        raise FileError(
            f"truncated or damaged, cannot be read ({(str(e) or type(e).__name__).splitlines()[0][:200]})"
        ) from e
    return names
