"""Opening a bundle: every listed file is inside it, is no link, and has the size and digest that the manifest says."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.formats.describe import check_graph
from ncdeploy.formats.filetype import MANIFEST, is_bundle
from ncdeploy.formats.manifest import DIGEST, MAX_MANIFEST, FileEntry, Manifest, PlanEntry, read_manifest
from ncdeploy.formats.onnxfile import external_data, read_onnx
from ncdeploy.formats.parts import Part, Role, read_part
from ncdeploy.formats.planfile import MAX_SIZE, decode
from ncdeploy.formats.sidecar import read_sidecar
from ncdeploy.modelinfo import METADATA_KEY, ModelInfo
from ncdeploy.sampling.plan import Plan

AGAIN = "copy the bundle again, or make it again with ncdeploy bundle"
ATTEMPTS = 10  # at a bundle that is exchanged while it is read


@dataclass(frozen=True, kw_only=True, eq=False)
class BundledPlan:
    """A plan with the window and tolerance that suit it.

    Attributes:
        plan, jacobian: as in `ncdeploy.formats.planfile.StoredPlan`
        window: nodes per sample and sweep in parallel sampling
        tolerance: of parallel sampling, see `ncdeploy.sample`
    """

    plan: Plan
    jacobian: NDArray[np.float64] | None
    window: int
    tolerance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A bundle whose files were all read and found whole.

    Attributes:
        path: the folder
        engine: model.onnx or model.plan in it
        info: what the model is
        plans: by name; the first is the one to use if none is asked for
        graphs: further ONNX graphs of the model, by name of the file
        parts: its encoder and decoder, by these words
        parity: what was compared when the bundle was made, or None
        versions: of the packages that made it
        size: bytes of all files together
    """

    path: Path
    engine: Path
    info: ModelInfo
    plans: dict[str, BundledPlan]
    graphs: dict[str, Path]
    parts: dict[Role, Part]
    parity: dict[str, Any] | None
    versions: dict[str, str]
    size: int

    def plan(self, name: str | None = None) -> BundledPlan:
        """The plan of this name, or the first. Raises InputError, listing what there is."""
        if name is None:
            return next(iter(self.plans.values()))
        if name not in self.plans:
            raise InputError(f"{self.path}: has no plan {name!a}; it has {', '.join(self.plans)}")
        return self.plans[name]


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read the manifest and the plans, and check every file of a bundle. No engine is loaded.

    A bundle that is exchanged for another one meanwhile is read again.

    Raises:
        FileError: in one line, for a folder that is no bundle, and for a bundle that breaks a rule of its format (see
            `ncdeploy.bundle`), in which any bit has changed, or that is exchanged again and again
    """
    folder = user_path(path)
    for _ in range(ATTEMPTS):
        before = _identity(folder)
        try:
            bundle = _open(path, folder)
        except FileError:
            if _identity(folder) == before:
                raise
            continue
        if _identity(folder) == before:
            return bundle
    raise FileError(f"{path}: is exchanged for another bundle faster than it can be read; try again later")


def _identity(folder: Path) -> tuple[int, int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _open(path: str | os.PathLike[str], folder: Path) -> Bundle:
    if not folder.is_dir():
        raise FileError(f"{path}: there is no such folder; expected a bundle (ncdeploy bundle)")
    if not is_bundle(folder):
        raise FileError(f"{path}: has no {MANIFEST}; expected a bundle (ncdeploy bundle)")
    data = _read(folder, MANIFEST, MAX_MANIFEST)
    if _read(folder, DIGEST, 100) != digest_line(data):
        raise FileError(f"{folder / MANIFEST}: does not have the digest that {DIGEST} says; {AGAIN}")
    manifest = read_manifest(data, str(folder / MANIFEST))
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    for name in manifest.files:
        if name.endswith(".onnx"):
            _check_external(folder, name, manifest)
    _check_engine(folder, manifest)
    for role, part in manifest.parts.items():
        if read_part(folder / part.file, role, manifest.model) != part:
            raise FileError(f"{folder / MANIFEST}: describes another {role} than {part.file} is; {AGAIN}")
    known = {manifest.engine, *(part.file for part in manifest.parts.values())}
    tops = [name for name in manifest.files if name.endswith(".onnx") and "/" not in name and name not in known]
    return Bundle(
        path=folder,
        engine=folder / manifest.engine,
        info=manifest.model,
        plans={entry.name: _plan(folder, entry, manifest.files[entry.file]) for entry in manifest.plans},
        graphs={name: folder / name for name in tops},
        parts=manifest.parts,
        parity=manifest.parity,
        versions=manifest.versions,
        size=sum(entry.bytes for entry in manifest.files.values()),
    )


def digest_line(manifest: bytes) -> bytes:
    """What manifest.sha256 holds for a manifest.json of these bytes."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def file_entry(path: Path) -> FileEntry:
    """Size and digest of a file, read piece by piece."""
    with path.open("rb") as f:
        return FileEntry(bytes=os.fstat(f.fileno()).st_size, sha256=hashlib.file_digest(f, "sha256").hexdigest())


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    size = _stat(folder, name).st_size
    if size != entry.bytes:
        raise FileError(f"{folder / name}: has {size} bytes, the manifest says {entry.bytes}; {AGAIN}")
    try:
        found = file_entry(folder / name)
    except OSError as e:
        raise FileError(f"{folder / name}: cannot be read: {e.strerror or e}; {AGAIN}") from e
    if found != entry:
        raise FileError(f"{folder / name}: has changed since the bundle was made (SHA-256 differs); {AGAIN}")


def _check_external(folder: Path, graph: str, manifest: Manifest) -> None:
    """Values that a graph keeps in other files must have been checked as the graph was."""
    base = graph.rpartition("/")[0]
    for location in sorted(external_data(folder / graph)):
        if (f"{base}/{location}" if base else location) not in manifest.files:
            raise FileError(f"{folder / graph}: has values in {location[:60]!a}, which the manifest lacks; {AGAIN}")


def _stat(folder: Path, name: str) -> os.stat_result:
    """Of a file in the bundle, every part of whose name is a folder or a file there, and no link."""
    found = None
    at = folder
    for part in name.split("/"):
        at /= part
        try:
            found = at.lstat()
        except OSError as e:
            raise FileError(f"{folder / name}: is missing ({e.strerror or e}); {AGAIN}") from e
        if stat.S_ISLNK(found.st_mode):
            raise FileError(f"{at}: is a link, and a bundle has none; {AGAIN}")
    if found is None or not stat.S_ISREG(found.st_mode):
        raise FileError(f"{folder / name}: is not a regular file; {AGAIN}")
    return found


def _read(folder: Path, name: str, most: int) -> bytes:
    size = _stat(folder, name).st_size
    if size > most:
        raise FileError(f"{folder / name}: has {size} bytes, expected at most {most}; {AGAIN}")
    try:
        with (folder / name).open("rb") as f:
            return f.read(most + 1)
    except OSError as e:
        raise FileError(f"{folder / name}: cannot be read: {e.strerror or e}; {AGAIN}") from e


def _check_engine(folder: Path, manifest: Manifest) -> None:
    """The engine must take what the manifest says, and if it describes itself, in the same words."""
    path = folder / manifest.engine
    if manifest.engine == "model.plan":
        own: ModelInfo | None = read_sidecar(path).model
    else:
        file = read_onnx(path)
        check_graph(path, file, manifest.model)
        record = file.metadata.get(METADATA_KEY)
        own = None if record is None else ModelInfo.from_json(record)
    if own is not None and own != manifest.model:
        raise FileError(f"{folder / MANIFEST}: describes another model than {manifest.engine} does; {AGAIN}")


def _plan(folder: Path, entry: PlanEntry, file: FileEntry) -> BundledPlan:
    path = folder / entry.file
    data = _read(folder, entry.file, MAX_SIZE)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise FileError(f"{path}: changed while it was read; {AGAIN}")
    stored = decode(data, str(path))
    if stored.plan.name != entry.name:
        raise FileError(f"{path}: holds the plan {stored.plan.name!a}, the manifest says {entry.name!a}; {AGAIN}")
    if entry.window > stored.plan.evaluations:
        wrong = f"{entry.name} has window {entry.window}, expected at most {stored.plan.evaluations}"
        raise FileError(f"{folder / MANIFEST}: {wrong}; {AGAIN}")
    return BundledPlan(plan=stored.plan, jacobian=stored.jacobian, window=entry.window, tolerance=entry.tolerance)
