""".npy arrays and .npz archives of them: plain values, whose sizes are known before memory is taken for them."""

import math
import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import FileError
from ncdeploy.files import regular_file
from ncdeploy.formats.archive import check_archive, is_archive

EXPECTED = "expected a .npy or .npz file of plain numbers"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name, or that of an .npy under the name "".

    Raises FileError, in one line, for a file that is missing or damaged, holds Python objects, or claims more values
    than it has.
    """
    file = regular_file(path, EXPECTED)
    try:
        if not is_archive(file):
            with file.open("rb") as f:
                return {"": _read(f, file.stat().st_size)}
        check_archive(file, compressed=True)
        arrays = {}
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as content:
                    arrays[entry.filename.removesuffix(".npy")] = _read(content, entry.file_size)
        return arrays
    except FileError as e:
        raise FileError(f"{path}: {e}; {EXPECTED}") from e
    except Exception as e:  # NumPy evaluates the header as Python's literals, which fail in a dozen ways
        reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        raise FileError(f"{path}: is damaged ({reason}); {EXPECTED}") from e


def _read(f: IO[bytes], size: int) -> NDArray[Any]:
    version = np.lib.format.read_magic(f)
    if version not in _HEADERS:
        raise FileError(f"has an array of version {version}")
    shape, fortran, dtype = _HEADERS[version](f)
    if dtype.hasobject or dtype.names:
        raise FileError("holds Python objects or records")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or f.tell() + count * dtype.itemsize != size:
        raise FileError(f"an array of {len(shape)} axes and {count} values has {size} bytes; it is cut or damaged")
    return np.ndarray(shape, dtype, f.read(), order="F" if fortran else "C")
