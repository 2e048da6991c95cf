"""What a model file is, by its content: names lie, and a clear refusal beats a runtime's stack trace."""

import os
import zipfile
from enum import Enum
from pathlib import Path

from ncdeploy.errors import FileError
from ncdeploy.files import user_path
from ncdeploy.formats.onnxfile import is_onnx


class Kind(Enum):
    """Whose file an engine is, and how such files begin where that alone tells.

    Whoever asks for a kind matches every one, ending in assert_never: the type checker lists what a new one needs.
    """

    TORCH = ("torch",)
    ONNX = ("onnx",)
    TENSORRT = ("tensorrt", b"ftrt", b"vtrt", b"ptrt", b"trtf", b"trtp")

    def __init__(self, name: str, *magics: bytes) -> None:
        self.magics = magics


ENGINE_SUFFIXES = (".plan", ".engine", ".trt")  # of TensorRT, whatever is inside
EXPECTED = "expected a model.pt or .safetensors (ncdeploy train, import), a model.onnx (export) or a bundle"
MANIFEST = "manifest.json"


def detect(path: str | os.PathLike[str]) -> Kind:
    """Which runtime's file this is.

    Raises FileError, in one line, for a file that is missing, a folder, unreadable, empty, truncated or foreign.
    """
    file = user_path(path)
    head = read_head(path, 9)
    if head[8:] == b"{" and head[4:8] == bytes(4):  # safetensors: a length of 8 bytes, then JSON
        return Kind.TORCH
    if head.startswith(b"PK"):
        return _zip_kind(path, file)
    for kind in Kind:
        if head.startswith(kind.magics):
            return kind
    if file.suffix in ENGINE_SUFFIXES:
        return Kind.TENSORRT
    if head.startswith(b"\x80"):
        raise FileError(f"{path}: is a bare Python pickle, which can run code, so it was not opened; {EXPECTED}")
    if is_onnx(file):
        return Kind.ONNX
    raise FileError(f"{path}: is not a model file; {EXPECTED}")


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder with the manifest of a bundle; `ncdeploy.open_bundle` says whether it is a good one."""
    return (user_path(path) / MANIFEST).is_file()


def read_head(path: str | os.PathLike[str], size: int = 8) -> bytes:
    """The first bytes of a regular, readable, non-empty file; FileError otherwise."""
    file = user_path(path)
    if file.is_dir():
        raise FileError(f"{path}: is a folder; {EXPECTED}")
    if not file.exists():
        raise FileError(f"{path}: there is no such file; {EXPECTED}")
    if not file.is_file():
        raise FileError(f"{path}: is not a regular file; {EXPECTED}")
    try:
        with file.open("rb") as f:
            head = f.read(size)
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e
    if not head:
        raise FileError(f"{path}: is empty; {EXPECTED}")
    return head


def _zip_kind(path: str | os.PathLike[str], file: Path) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as e:
        raise FileError(f"{path}: is truncated or damaged; copy or make it again") from e
    if any(name.endswith("/data.pkl") for name in names):
        return Kind.TORCH
    if names and all(name.endswith(".npy") for name in names):
        raise FileError(f"{path}: is an archive of NumPy arrays, not a model; {EXPECTED}")
    raise FileError(f"{path}: is a zip archive, not a model; {EXPECTED}")
