"""manifest.json: its fields, checked one by one when it is read. The format is at the top of the package."""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from ncdeploy.errors import FileError, InputError
from ncdeploy.formats.filetype import MANIFEST
from ncdeploy.formats.parts import Part, Role
from ncdeploy.modelinfo import MODEL, ModelInfo
from ncdeploy.records import Kind, about, parse, read, read_format
from ncdeploy.records.kinds import (
    BYTES,
    NAME,
    NOT_NEGATIVE,
    OBJECT,
    SHA256,
    TEXTS,
    integer,
    list_of,
    matching,
    nullable,
    object_of,
    one_of,
)

FORMAT, VERSION = "ncdeploy bundle", 1
DIGEST, README, SIDECAR = "manifest.sha256", "README.md", "model.plan.json"
ENGINES = ("model.onnx", "model.plan")
MAX_MANIFEST = 64 << 20
MAX_FILES = 1000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_KINDS = re.compile(r"README\.md|model\.plan(\.json)?|[^/]+\.(onnx|data|bin)|plans/[^/]+\.ncplan")
_PLAN_FILE = re.compile(r"plans/[A-Za-z0-9_.-]+\.ncplan")


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One of `plans`."""

    name: str = field(metadata=about(NAME, "as in the plan file; unique"))
    file: str = field(metadata=about(matching(_PLAN_FILE, "plans/NAME.ncplan"), "in the bundle; unique"))
    window: int = field(metadata=about(integer(1), "nodes per sample and sweep, at most the plan's evaluations"))
    tolerance: float = field(metadata=about(NOT_NEGATIVE, "of parallel sampling"))


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One of `files`."""

    bytes: int = field(metadata=about(BYTES, "size"))
    sha256: str = field(metadata=about(SHA256, "digest of the content"))


_PLANS = list_of(object_of(PlanEntry, "a plan"), "a list of at least one plan", 1, MAX_FILES)
_PART = nullable(object_of(Part, "the record of a graph"))
_FILES = Kind(
    words=f"an object of at most {MAX_FILES} files",
    fits=lambda v: isinstance(v, dict) and len(v) <= MAX_FILES,
    read=lambda v: {name: _file(name, entry) for name, entry in v.items()},
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json holds, without format and version."""

    engine: str = field(metadata=about(one_of(*ENGINES), "the file that evaluates the denoiser"))
    model: ModelInfo = field(metadata=about(MODEL, "what the model is, as in the metadata of its ONNX file"))
    plans: tuple[PlanEntry, ...] = field(metadata=about(_PLANS, "the first is the default"))
    files: dict[str, FileEntry] = field(
        metadata=about(_FILES, "every file of the bundle but the two manifest files, by its name")
    )
    parity: dict[str, Any] | None = field(
        metadata=about(nullable(OBJECT), "what was compared when the bundle was made, or null")
    )
    versions: dict[str, str] = field(metadata=about(TEXTS, "packages that made the bundle"))
    encoder: Part | None = field(
        default=None, metadata=about(_PART, "makes conditions of what a host has, once a sample")
    )
    decoder: Part | None = field(
        default=None, metadata=about(_PART, "makes of a sample what a host wants, once a sample")
    )

    def __post_init__(self) -> None:
        needed = {self.engine, *(plan.file for plan in self.plans)}
        if self.engine == "model.plan":
            needed.add(SIDECAR)
        needed.update(part.file for part in self.parts.values())
        for name in sorted(needed - set(self.files)):
            raise InputError(f"files: {name} is not among them")
        for what, names in (("name", [p.name for p in self.plans]), ("file", [p.file for p in self.plans])):
            if len(set(names)) < len(names):
                raise InputError(f"plans: two have the same {what}")

    @property
    def parts(self) -> dict[Role, Part]:
        """The encoder and the decoder, where there are any."""
        both: dict[Role, Part | None] = {"encoder": self.encoder, "decoder": self.decoder}
        return {role: part for role, part in both.items() if part is not None}

    def to_bytes(self) -> bytes:
        """The file: one line for each key."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "engine": self.engine,
            "plans": [asdict(plan) for plan in self.plans],
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "parity": self.parity,
            "versions": self.versions,
            **{str(role): asdict(part) for role, part in self.parts.items()},
            "model": self.model.to_record(),
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items()]
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_manifest(data: bytes, path: str) -> Manifest:
    """The manifest in the bytes of a file, whose name errors carry. Raises FileError if it breaks a rule."""
    record = parse(data, path)
    if record.get("format") != FORMAT:
        raise FileError(f"{path}: is not the manifest of a bundle; expected one that ncdeploy bundle made")
    read_format(path, "version", VERSION, record)
    try:
        return read(Manifest, record)
    except InputError as e:
        raise FileError(f"{path}: {e}; copy the bundle again, or make it again with ncdeploy bundle") from e


def _file(name: str, entry: Any) -> FileEntry:
    if not _NAME.fullmatch(name) or len(name) > 255 or name in (MANIFEST, DIGEST):
        raise InputError(f"{name[:60]!a} is not a name inside the bundle, such as plans/ddim-100.ncplan")
    if not _KINDS.fullmatch(name):
        raise InputError(f"{name} is no graph, its weights, engine, plan or README.md, which is all a bundle holds")
    try:
        return read(FileEntry, entry)
    except InputError as e:
        raise InputError(f"{name}: {e}") from e
