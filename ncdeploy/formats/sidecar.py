"""model.plan.json: what lies beside model.plan, which TensorRT and other programs read unchanged.

format               1
tensorrt             version that built the plan, "11.4.0.106"
compute_capability   of the GPU, [9, 0]
device, driver       its name; CUDA version of the driver, "13.0"
platform             "linux-x86_64"
plan_sha256          of model.plan, plan_bytes its size
onnx, onnx_sha256    name and digest of the graph it was built from
model                the record of the model (ModelInfo), with its precision
profiles             [[least, best, most], ...] rows of a call
options              of the build: tf32, version_compatible, hardware_compatible, stripped, weight_streaming ...
layers               matrix products by type, read back from the engine: {"fp16": 30}
device_memory        bytes that one execution context takes
parity               how it compared with the graph, or null
latency              [[rows, seconds], ...] of one call
command              that builds it again
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ncdeploy.errors import FileError, InputError
from ncdeploy.files import atomic_write
from ncdeploy.formats.profiles import Profile
from ncdeploy.modelinfo import ModelInfo

FORMAT = 1
HARDWARE = ("none", "same_compute_capability", "ampere_plus")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to build. hardware_compatible: one of HARDWARE; workspace: most bytes a layer may use, None for no limit;
    level: effort of the builder, 0 to 5."""

    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: str = "none"
    stripped: bool = False
    refittable: bool = False
    weight_streaming: bool = False
    workspace: int | None = None
    level: int = 3

    def __post_init__(self) -> None:
        if self.hardware_compatible not in HARDWARE:
            raise InputError(
                f"hardware_compatible: got {self.hardware_compatible!r}, expected one of {', '.join(HARDWARE)}"
            )
        if not 0 <= self.level <= 5:
            raise InputError(f"optimization level: got {self.level}, expected 0 to 5")
        if self.workspace is not None and self.workspace < 1:
            raise InputError(f"workspace: got {self.workspace} bytes, expected a positive number")


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The record; field by field at the top of this file."""

    tensorrt: str
    compute_capability: tuple[int, int]
    device: str
    driver: str
    platform: str
    plan_sha256: str
    plan_bytes: int
    onnx: str
    onnx_sha256: str
    model: ModelInfo
    profiles: tuple[Profile, ...]
    options: Options
    layers: dict[str, int]
    device_memory: int
    command: str
    parity: dict[str, Any] | None = None
    latency: tuple[tuple[int, float], ...] = field(default=())

    def to_json(self) -> str:
        """Indented JSON, for people and programs."""
        record = {"format": FORMAT, **asdict(self), "model": json.loads(self.model.to_json())}
        record["profiles"] = [[p.least, p.best, p.most] for p in self.profiles]
        return json.dumps(record, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Sidecar":
        """Read what `to_json` wrote. Raises FileError naming what is missing or wrong."""
        try:
            record = json.loads(text)
        except ValueError as e:
            raise FileError(f"is not JSON: {e}") from e
        version = record.pop("format", None) if isinstance(record, dict) else None
        if version != FORMAT:
            raise FileError(f"has format {version}, this version reads {FORMAT}; update ncdeploy or build again")
        unknown = sorted(set(record) - {f.name for f in fields(cls)})
        if unknown:
            raise FileError(f"has unknown fields {', '.join(unknown)}; update ncdeploy")
        try:
            major, minor = record["compute_capability"]
            record["compute_capability"] = int(major), int(minor)
            record["model"] = ModelInfo.from_json(json.dumps(record["model"]))
            record["profiles"] = tuple(Profile(least=a, best=b, most=c) for a, b, c in record["profiles"])
            record["options"] = Options(**record["options"])
            record["latency"] = tuple((int(rows), float(seconds)) for rows, seconds in record["latency"])
            return cls(**record)
        except (KeyError, TypeError, ValueError) as e:
            raise FileError(f"is damaged: {e}; build the engine again") from e


def sidecar_path(plan: str | os.PathLike[str]) -> Path:
    """model.plan -> model.plan.json."""
    file = Path(plan).expanduser()
    return file.with_name(file.name + ".json")


def read_sidecar(plan: str | os.PathLike[str]) -> Sidecar:
    """The record beside a plan. Raises FileError if it is missing or damaged."""
    path = sidecar_path(plan)
    try:
        return Sidecar.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise FileError(
            f"{plan}: is a TensorRT engine, and {path.name} is missing beside it, which says where it runs; copy it, "
            f"or build again: ncdeploy build model.onnx -o {plan}"
        ) from e
    except (OSError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: cannot be read: {e}") from e
    except FileError as e:
        raise FileError(f"{path}: {e}") from e


def write_sidecar(plan: str | os.PathLike[str], sidecar: Sidecar) -> None:
    """Write the record beside a plan. Raises FileError if it cannot be written."""
    with atomic_write(sidecar_path(plan)) as temporary:
        temporary.write_text(sidecar.to_json(), encoding="utf-8")


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hex. Raises FileError if it cannot be read."""
    try:
        with Path(path).expanduser().open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e
