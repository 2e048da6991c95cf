"""model.plan.json: what lies beside model.plan, which TensorRT and other programs read unchanged."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ncdeploy.errors import FileError, InputError
from ncdeploy.files import atomic_write, read_file, real_path, regular_file, user_path
from ncdeploy.formats.graphrecord import KINDS
from ncdeploy.formats.onnxfile import external_data
from ncdeploy.formats.profiles import Profile
from ncdeploy.modelinfo import MODEL, ModelInfo
from ncdeploy.records import Kind, about, check, parse, read, read_format
from ncdeploy.records.fields import is_integer
from ncdeploy.records.kinds import (
    BYTES,
    COUNTS,
    FLAG,
    OBJECT,
    TEXT,
    integer,
    is_number,
    list_of,
    nullable,
    object_of,
    one_of,
)

FORMAT = 1
MOST_BYTES = 1 << 26
HARDWARE = ("none", "same_compute_capability", "ampere_plus")
RUNTIMES = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
RTX_TARGETS = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))  # that an engine of TensorRT for RTX can be built for
EVERY_RTX = ((8, 0), (8, 6), (8, 9), (12, 0))  # where one without targets runs, and on later ones


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build."""

    tf32: bool = field(default=False, metadata=about(FLAG, "whether float32 products may round to 10 bits"))
    version_compatible: bool = field(default=False, metadata=about(FLAG, "whether later TensorRT versions run it"))
    hardware_compatible: str = field(default="none", metadata=about(one_of(*HARDWARE), "other GPUs that run it"))
    stripped: bool = field(default=False, metadata=about(FLAG, "whether it was built without weights"))
    refittable: bool = field(default=False, metadata=about(FLAG, "whether weights can be exchanged"))
    weight_streaming: bool = field(default=False, metadata=about(FLAG, "whether weights may stay on the host"))
    workspace: int | None = field(
        default=None, metadata=about(nullable(integer(1)), "most bytes a layer may use, null for no limit")
    )
    level: int = field(default=3, metadata=about(integer(0, 5), "effort of the builder"))

    def __post_init__(self) -> None:
        check(self)


PROFILES = Kind(
    words="a list of [least, best, most] rows",
    fits=lambda v: isinstance(v, list | tuple) and all(isinstance(p, Profile) or _is_triple(p) for p in v),
    read=lambda v: tuple(Profile(least=a, best=b, most=c) for a, b, c in v),
)
LATENCY = Kind(
    words="a list of [rows, seconds]",
    fits=lambda v: isinstance(v, list | tuple) and all(_is_timing(pair) for pair in v),
    read=lambda v: tuple((rows, float(seconds)) for rows, seconds in v),
)
CAPABILITY = list_of(integer(0), "two integers such as [9, 0]", 2, 2)
TARGETS = Kind(
    words="a list of compute capabilities such as [[8, 6], [12, 0]]",
    fits=lambda v: isinstance(v, list | tuple) and all(map(CAPABILITY.fits, v)),
    read=lambda v: tuple((major, minor) for major, minor in v),
)
FIRST_CALL = Kind(
    words="[seconds, seconds]",
    fits=lambda v: isinstance(v, list | tuple) and len(v) == 2 and all(map(is_number, v)),
    read=lambda v: (float(v[0]), float(v[1])),
)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The record of an engine."""

    tensorrt: str = field(metadata=about(TEXT, 'version that built the engine, "11.4.0.106"'))
    compute_capability: tuple[int, int] | None = field(
        metadata=about(nullable(CAPABILITY), "of the GPU, null where it was built without one")
    )
    device: str = field(metadata=about(TEXT, "name of the GPU"))
    driver: str = field(metadata=about(TEXT, 'CUDA version of its driver, "13.0"'))
    platform: str = field(metadata=about(TEXT, '"linux-x86_64"'))
    plan_sha256: str = field(metadata=about(TEXT, "of model.plan"))
    plan_bytes: int = field(metadata=about(BYTES, "size of model.plan"))
    onnx: str = field(metadata=about(TEXT, "name of the graph it was built from"))
    onnx_sha256: str = field(metadata=about(TEXT, "of that graph"))
    model: ModelInfo = field(metadata=about(MODEL, "what the model is, with the precision of the engine"))
    profiles: tuple[Profile, ...] = field(metadata=about(PROFILES, "rows of a call that it is tuned for"))
    options: BuildOptions = field(metadata=about(object_of(BuildOptions, "options of the build"), "how it was built"))
    layers: dict[str, int] = field(
        metadata=about(
            COUNTS,
            "matrix products by type, read back from the engine, or without a GPU from what the compiler read of the "
            'graph: {"fp16": 30}',
        )
    )
    device_memory: int = field(
        metadata=about(BYTES, "bytes that one execution context takes, 0 if built without a GPU")
    )
    command: str = field(metadata=about(TEXT, "that builds it again"))
    parity: dict[str, Any] | None = field(
        default=None, metadata=about(nullable(OBJECT), "how it compared with the graph")
    )
    latency: tuple[tuple[int, float], ...] = field(default=(), metadata=about(LATENCY, "seconds of one call by rows"))
    graph: str = field(default="denoiser", metadata=about(one_of(*KINDS), "what kind of graph it was built from"))
    runtime: str = field(
        default="tensorrt", metadata=about(one_of(*RUNTIMES), '"tensorrt", or "rtx", which is TensorRT for RTX')
    )
    targets: tuple[tuple[int, int], ...] = field(
        default=(), metadata=about(TARGETS, "of TensorRT for RTX, compute capabilities; none is every RTX card")
    )
    first_call: tuple[float, float] | None = field(
        default=None,
        metadata=about(
            nullable(FIRST_CALL), "of TensorRT for RTX, seconds without and with the kernels compiled before"
        ),
    )

    def __post_init__(self) -> None:
        if not self.profiles:
            raise InputError("profiles: got none, expected at least one")
        if Path(self.onnx).name != self.onnx:
            raise InputError(f"onnx: got {self.onnx!r}, expected the name of a file in the same folder")

    @property
    def engine(self) -> str:
        """What runs it, "TensorRT for RTX 1.7.1.116"."""
        return f"{RUNTIMES[self.runtime]} {self.tensorrt}"

    @property
    def cards(self) -> str:
        """The GPUs it is for, in words."""
        if self.runtime == "rtx":
            return describe_targets(self.targets)
        major, minor = self.compute_capability or (0, 0)
        return f"compute capability {major}.{minor} ({self.device})"

    def to_json(self) -> str:
        """Indented JSON, for people and programs. What only some engines have is left out of the others' records."""
        record = {"format": FORMAT, **asdict(self), "model": self.model.to_record()}
        record["profiles"] = [[p.least, p.best, p.most] for p in self.profiles]
        requires = []
        if self.runtime == "rtx":
            requires += ["runtime", "targets"]
        else:
            for name in ("runtime", "targets", "first_call"):
                del record[name]
        if self.graph != "denoiser":
            requires += ["graph"]
        else:
            del record["graph"]
        if requires:
            record["requires"] = requires
        return json.dumps(record, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str = "model.plan.json") -> "Sidecar":
        """Read what `to_json` wrote; errors carry the path. Raises FileError naming what is missing or wrong."""
        record = parse(text, path)
        read_format(path, "format", FORMAT, record)
        try:
            return read(cls, record)
        except InputError as e:
            raise FileError(f"{path}: is damaged: {e}; build the engine again") from e


def _is_triple(v: Any) -> bool:
    return isinstance(v, list) and len(v) == 3 and all(map(is_integer, v))


def _is_timing(v: Any) -> bool:
    return isinstance(v, list | tuple) and len(v) == 2 and is_integer(v[0]) and is_number(v[1])


def parse_targets(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Compute capabilities of "sm86", "sm120" ...; () for "any" or no name, which is every RTX card.

    Raises InputError for one that TensorRT for RTX does not build for.
    """
    known = {f"sm{major}{minor}": (major, minor) for major, minor in RTX_TARGETS}
    wrong = [name for name in names if name not in known and (name != "any" or len(names) > 1)]
    if wrong:
        raise InputError(f"target: got {wrong[0]}, expected any alone, or some of {', '.join(known)}")
    return tuple(sorted({known[name] for name in names if name != "any"}))


def describe_targets(targets: Sequence[tuple[int, int]]) -> str:
    """The cards that an engine of TensorRT for RTX is for, in words."""
    names = [f"{major}.{minor}" for major, minor in targets or EVERY_RTX]
    if targets:
        return f"cards of compute capability {', '.join(names)}"
    return f"RTX cards of compute capability {', '.join(names)} and later"


def sidecar_path(plan: str | os.PathLike[str]) -> Path:
    """model.plan -> model.plan.json."""
    file = user_path(plan)
    return file.with_name(file.name + ".json")


def read_sidecar(plan: str | os.PathLike[str]) -> Sidecar:
    """The record beside a plan. Raises FileError if it is missing or damaged."""
    path = sidecar_path(plan)
    if not path.exists():
        raise FileError(
            f"{plan}: is a TensorRT engine, and {path.name} is missing beside it, which says where it runs; copy it, "
            f"or build again: ncdeploy build model.onnx -o {plan}"
        )
    data = read_file(path, MOST_BYTES, "expected the record of an engine")
    try:
        return Sidecar.from_json(data.decode(), str(path))
    except UnicodeDecodeError as e:
        raise FileError(f"{path}: is no text: {e}; build the engine again") from e


def write_sidecar(plan: str | os.PathLike[str], sidecar: Sidecar) -> None:
    """Write the record beside a plan. Raises FileError if it cannot be written."""
    with atomic_write(sidecar_path(plan)) as temporary:
        temporary.write_text(sidecar.to_json(), encoding="utf-8")


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hex. Raises FileError if it cannot be read."""
    try:
        with regular_file(path, "expected a model").open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e


def graph_files(path: str | os.PathLike[str]) -> list[Path]:
    """An ONNX file, and those beside it that it has values in. Raises FileError as `external_data` does."""
    file = real_path(path)
    return [file, *(file.parent / name for name in sorted(external_data(file)))]


def graph_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of an ONNX file, and of the files that it has values in, if any. Raises FileError as above."""
    parts = [digest(file) for file in graph_files(path)]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
