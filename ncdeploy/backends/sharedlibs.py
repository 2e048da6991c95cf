"""Which shared libraries a library needs, and which of them this machine lacks; of 64-bit ELF files, so on Linux.

The loader stops at the first one that is missing; whoever has to install them wants all their names.
"""

import ctypes
import itertools
import os
import struct
from pathlib import Path
from typing import BinaryIO

LOAD, DYNAMIC = 1, 2  # types of program headers
END, NEEDED, STRINGS = 0, 1, 5  # tags of the dynamic section
MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian


def needed(path: str | os.PathLike[str]) -> list[str]:
    """The sonames that an ELF file asks the loader for; none for any other file, or a damaged one."""
    with Path(path).open("rb") as f:
        try:
            return _needed(f)
        except (struct.error, StopIteration):
            return []


def missing(path: str | os.PathLike[str]) -> list[str]:
    """Those of them that the loader does not find. They are loaded, which is how one learns it."""
    lost = []
    for name in needed(path):
        try:
            ctypes.CDLL(name)
        except OSError:
            lost.append(name)
    return lost


def _needed(f: BinaryIO) -> list[str]:
    header = f.read(64)
    if not header.startswith(MAGIC):
        return []
    table, size, count = struct.unpack_from("<Q14xHH", header, 32)
    headers = _at(f, table, size * count)
    # Type, flags, offset in the file, address, unused, size in the file.
    segments = [struct.unpack_from("<IIQQQQ", headers, i * size) for i in range(count)]
    _, _, offset, _, _, length = next(s for s in segments if s[0] == DYNAMIC)
    entries = list(itertools.takewhile(lambda e: e[0] != END, struct.iter_unpack("<qQ", _at(f, offset, length))))
    strings = next(value for tag, value in entries if tag == STRINGS)
    start = next(s[2] - s[3] for s in segments if s[0] == LOAD and s[3] <= strings < s[3] + s[5]) + strings
    return [_at(f, start + value, 256).split(b"\0", 1)[0].decode() for tag, value in entries if tag == NEEDED]


def _at(f: BinaryIO, offset: int, size: int) -> bytes:
    f.seek(offset)
    return f.read(size)
