"""A folder of pictures as training data: sub-folders, where there are any, are the classes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import DependencyError, FileError, InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def read_folder(folder: Path, *, size: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, int]:
    """Pictures uint8 [N, C, H, W], labels (None without sub-folders) and the number of classes.

    All-grey folders give one channel, others three. size: side in pixels; each picture is cropped to its
    central square and resampled. Without it all pictures must have one size.
    Raises as `read_pictures` does, and FileError for a folder that cannot be listed.
    """
    files, labels, classes = _list_pictures(folder)
    return read_pictures(files, size=size), labels, classes


def read_pictures(files: Sequence[Path], *, size: int | None = None) -> NDArray[np.uint8]:
    """Pictures uint8 [N, C, H, W], as `read_folder` brings them together.

    Raises InputError for mixed sizes or a bad `size`, FileError for a picture that cannot be read, DependencyError
    without Pillow.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as e:
        raise DependencyError("reading pictures needs Pillow: pip install pillow") from e
    if size is not None and size < 1:
        raise InputError(f"size: got {size}, expected at least 1 pixel")

    pictures = []
    for file in files:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(file) as opened:
                picture = opened.convert("L" if opened.mode in ("1", "L", "LA", "I", "I;16") else "RGB")
        except Exception as e:  # Pillow's readers let SyntaxError, struct.error and others through
            reason = (str(e) or type(e).__name__).splitlines()[0][:200]
            raise FileError(f"{file}: is not a picture that can be read ({reason}); repair or remove it") from e
        pictures.append(picture if size is None else ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))
        if pictures[-1].size != pictures[0].size:
            first, this = ("{} x {}".format(*p.size) for p in (pictures[0], pictures[-1]))
            raise InputError(f"{file}: is {this} where {files[0].name} is {first}; give --size to bring all to one")
    colour = any(picture.mode == "RGB" for picture in pictures)
    stack = np.stack([np.asarray(p.convert("RGB") if colour else p) for p in pictures])
    stack = np.moveaxis(stack, -1, 1) if colour else stack[:, None]
    return np.ascontiguousarray(stack)


def _list_pictures(folder: Path) -> tuple[list[Path], NDArray[np.int64] | None, int]:
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        loose = [p for p in entries if _is_picture(p)]
        groups = [[p for p in sorted(d.rglob("*")) if _is_picture(p)] for d in entries if d.is_dir()]
    except OSError as e:
        raise FileError(f"{folder}: cannot be listed: {e}") from e
    groups = [group for group in groups if group]
    if loose and groups:
        raise InputError(f"{folder}: pictures lie both loose and in sub-folders; sub-folders are classes, use one way")
    if not loose and not groups:
        raise FileError(f"{folder}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    if loose:
        return loose, None, 0
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return [p for group in groups for p in group], labels.astype(np.int64), len(groups)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
