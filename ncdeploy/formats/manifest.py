"""manifest.json: its fields, checked one by one when it is read. The format is at the top of the package."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ncdeploy.errors import FileError
from ncdeploy.formats.filetype import MANIFEST
from ncdeploy.formats.strictjson import parse
from ncdeploy.modelinfo import ModelInfo

FORMAT, VERSION = "ncdeploy bundle", 1
DIGEST, README, SIDECAR = "manifest.sha256", "README.md", "model.plan.json"
ENGINES = ("model.onnx", "model.plan")
MAX_MANIFEST = 64 << 20
MAX_FILES, MAX_BYTES, MAX_VALUES = 1000, 1 << 40, 1 << 28
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_PLAN_FILE = re.compile(r"plans/[A-Za-z0-9_.-]+\.ncplan")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One of `plans`; see the top of the package."""

    name: str
    file: str
    window: int
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One of `files`: size in bytes, SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json holds, without format and version."""

    engine: str
    model: ModelInfo
    plans: tuple[PlanEntry, ...]
    files: dict[str, FileEntry]
    parity: dict[str, Any] | None
    versions: dict[str, str]

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
            "model": json.loads(self.model.to_json()),
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items()]
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_manifest(data: bytes, path: str) -> Manifest:
    """The manifest in the bytes of a file, whose name errors carry. Raises FileError if it breaks a rule."""
    record = parse(data, path)
    if record.get("format") != FORMAT:
        raise FileError(f"{path}: is not the manifest of a bundle; expected one that ncdeploy bundle made")
    if not _is_int(record.get("version")) or record["version"] != VERSION:
        found = str(record.get("version"))[:20]
        raise FileError(f"{path}: has version {found}, this one reads {VERSION}; update ncdeploy")
    try:
        return _manifest(record)
    except _WrongError as e:
        raise FileError(f"{path}: {e}; copy the bundle again, or make it again with ncdeploy bundle") from e


class _WrongError(ValueError):
    """A field is not what the format says."""


def _manifest(record: dict[str, Any]) -> Manifest:
    _keys("the manifest", record, ("format", "version", "engine", "model", "plans", "files", "parity", "versions"))
    _check("engine", record["engine"], lambda v: v in ENGINES, " or ".join(ENGINES))
    _check("files", record["files"], lambda v: isinstance(v, dict) and len(v) <= MAX_FILES, "an object of files")
    _check("plans", record["plans"], lambda v: isinstance(v, list) and 1 <= len(v) <= MAX_FILES, "a list of plans")
    _check("parity", record["parity"], lambda v: v is None or isinstance(v, dict), "an object or null")
    _check("versions", record["versions"], _is_versions, "an object of texts")
    files = {name: _file(name, entry) for name, entry in record["files"].items()}
    plans = tuple(_plan(entry) for entry in record["plans"])
    needed = {record["engine"], *(plan.file for plan in plans)}
    if record["engine"] == "model.plan":
        needed.add(SIDECAR)
    for name in sorted(needed - set(files)):
        raise _WrongError(f"files: {name} is not among them")
    for what, names in (("name", [p.name for p in plans]), ("file", [p.file for p in plans])):
        if len(set(names)) < len(names):
            raise _WrongError(f"plans: two have the same {what}")
    return Manifest(
        engine=record["engine"],
        model=_model(record["model"]),
        plans=plans,
        files=files,
        parity=record["parity"],
        versions=record["versions"],
    )


def _file(name: str, entry: Any) -> FileEntry:
    if not _NAME.fullmatch(name) or len(name) > 255 or name in (MANIFEST, DIGEST):
        raise _WrongError(f"files: {name[:60]!a} is not a name inside the bundle, such as plans/ddim-100.ncplan")
    _keys(name, entry, ("bytes", "sha256"))
    _check(f"{name}: bytes", entry["bytes"], lambda v: _is_int(v) and 0 <= v <= MAX_BYTES, f"0 to {MAX_BYTES}")
    _check(f"{name}: sha256", entry["sha256"], lambda v: _matches(_SHA256, v), "64 hex digits")
    return FileEntry(**entry)


def _plan(entry: Any) -> PlanEntry:
    _keys("a plan", entry, ("name", "file", "window", "tolerance"))
    _check("a plan's name", entry["name"], lambda v: isinstance(v, str) and v, "a text")
    _check("a plan's file", entry["file"], lambda v: _matches(_PLAN_FILE, v), "plans/NAME.ncplan")
    _check("a plan's window", entry["window"], lambda v: _is_int(v) and v >= 1, "a positive integer")
    _check("a plan's tolerance", entry["tolerance"], lambda v: _is_number(v) and v >= 0, "a number, 0 or more")
    return PlanEntry(**entry | {"tolerance": float(entry["tolerance"])})


def _model(record: Any) -> ModelInfo:
    """ModelInfo checks values; the types that JSON may hold instead of them are checked here."""
    _check("model", record, lambda v: isinstance(v, dict), "an object")
    for name, (fits, expected) in _MODEL_TYPES.items():
        if name in record:
            _check(f"model: {name}", record[name], fits, expected)
    try:
        return ModelInfo.from_json(json.dumps(record))
    except FileError as e:
        raise _WrongError(f"model: {e}") from e


def _is_int(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool)


def _is_number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


def _is_numbers(v: Any) -> bool:
    return isinstance(v, list) and all(_is_number(value) for value in v)


def _is_versions(v: Any) -> bool:
    return isinstance(v, dict) and all(isinstance(value, str) for value in v.values())


def _is_shape(v: Any) -> bool:
    sizes = isinstance(v, list) and 1 <= len(v) <= 8 and all(_is_int(n) and 1 <= n <= MAX_VALUES for n in v)
    return sizes and math.prod(v) <= MAX_VALUES


def _is_curve(v: Any) -> bool:
    return v is None or (isinstance(v, dict) and set(v) == {"sigmas", "mse"} and all(map(_is_numbers, v.values())))


def _is_plan(v: Any) -> bool:
    fits = (str, int, float)
    return isinstance(v, dict) and all(isinstance(x, fits) or x is None or _is_numbers(x) for x in v.values())


_MODEL_TYPES: dict[str, tuple[Callable[[Any], object], str]] = {
    "format": (_is_int, "an integer"),
    "shape": (_is_shape, f"a list of sizes with at most {MAX_VALUES} values in all"),
    **dict.fromkeys(("sigma_min", "sigma_max", "sigma_data", "offset", "scale"), (_is_number, "a number")),
    "num_classes": (lambda v: _is_int(v) and v <= MAX_VALUES, "a number of classes"),
    **dict.fromkeys(("unconditional", "guidance"), (lambda v: isinstance(v, bool), "true or false")),
    **dict.fromkeys(("data", "weights_digest", "precision"), (lambda v: isinstance(v, str), "a text")),
    "default_plan": (_is_plan, "an object of texts, numbers and lists of numbers"),
    "mean": (lambda v: v is None or _is_numbers(v), "a list of numbers or null"),
    "error_curve": (_is_curve, 'null or {"sigmas": numbers, "mse": numbers}'),
    "versions": (_is_versions, "an object of texts"),
}


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _keys(what: str, record: Any, expected: tuple[str, ...]) -> None:
    if not isinstance(record, dict) or set(record) != set(expected):
        found = ", ".join(f"{key[:40]!a}" for key in list(record)[:10]) if isinstance(record, dict) else "no object"
        raise _WrongError(f"{what} has {found or 'nothing'}; expected {', '.join(expected)}")


def _check(what: str, value: Any, fits: Callable[[Any], object], expected: str) -> None:
    if not fits(value):
        raise _WrongError(f"{what} is {json.dumps(value)[:60]}, expected {expected}")
