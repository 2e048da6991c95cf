"""What a file or a bundle holds, for `ncdeploy inspect`: needs no runtime but, for model.pt, PyTorch."""

import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from ncdeploy.backends.tensorrt.layers import Layer
from ncdeploy.bundle import open_bundle
from ncdeploy.errors import DependencyError, FileError, install
from ncdeploy.files import user_path
from ncdeploy.formats.arrays import read_arrays
from ncdeploy.formats.filetype import Kind, detect, is_bundle, read_head
from ncdeploy.formats.graphrecord import GRAPH_KEY, record_of
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.formats.parts import PART_OF
from ncdeploy.formats.sidecar import digest, graph_files, read_sidecar
from ncdeploy.modelinfo import METADATA_KEY, ModelInfo
from ncdeploy.ports import Port
from ncdeploy.sampling.errorcurve import ErrorCurve


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a file says of itself.

    Attributes:
        kind: "model.pt", "model.safetensors", "model.onnx", "sampler.onnx", "sweep.onnx", "encoder.onnx",
            "decoder.onnx", "model.plan", "samples" or "bundle"
        size: bytes, of a bundle those of all its files
        info: the model's record; None for samples and for ONNX files of other origin
        parameters: number of floating-point weights and tables
        details: of the kind: opset, operators, inputs ...; config and training record; arrays; plans and parity
    """

    kind: str
    size: int
    info: ModelInfo | None = None
    parameters: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """The layers of an engine in calls of so many rows."""

    rows: int
    layers: tuple[Layer, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def time_layers(path: str | os.PathLike[str], rows: int | None = None) -> LayerTimes:
    """Run a TensorRT engine here and time each of its layers.

    rows: of a call; None = what the engine was tuned for

    Raises what opening the engine raises without TensorRT or a GPU (see `TensorRTBackend`), InputError for more rows
    than it takes.
    """
    from ncdeploy.backends.tensorrt.backend import TensorRTBackend

    engine = TensorRTBackend(path)
    try:
        rows = engine.sidecar.profiles[-1].best if rows is None else rows
        return LayerTimes(rows=rows, layers=engine.layers(rows))
    finally:
        engine.close()


def inspect_file(path: str | os.PathLike[str], *, allow_module: bool = False) -> Inspection:
    """Look into model.pt, model.safetensors, model.onnx, model.plan, an .npz of samples or a bundle, which is checked.

    Args:
        allow_module: whether a model.pt may name Python code that makes its network, which is then imported and run

    Raises:
        FileError: for anything else
        DependencyError: for model.pt without PyTorch
    """
    file = user_path(path)
    if is_bundle(path):
        return _bundle(path)
    if read_head(path).startswith(b"PK") and _is_npz(file):
        return _npz(path, file)
    match detect(path):
        case Kind.ONNX:
            return _onnx(path, file)
        case Kind.TORCH:
            return _torch(path, file, allow_module)
        case Kind.TENSORRT:
            return _plan(path, file)
        case unknown:
            assert_never(unknown)


def _bundle(path: str | os.PathLike[str]) -> Inspection:
    bundle = open_bundle(path)
    plans = {
        name: {"evaluations": p.plan.evaluations, "window": p.window, "tolerance": p.tolerance}
        for name, p in bundle.plans.items()
    }
    details = {"engine": bundle.engine.name, "plans": plans, "graphs": list(bundle.graphs), "parity": bundle.parity}
    for role, part in bundle.parts.items():
        takes, gives = (", ".join(value.describe() for value in each) for each in (part.inputs, part.outputs))
        details[role] = f"{takes} -> {gives}"
    parameters = read_onnx(bundle.engine).parameters if bundle.engine.suffix == ".onnx" else None
    return Inspection(
        kind="bundle", size=bundle.size, info=bundle.info, parameters=parameters,
        details={**details, "made with": bundle.versions},
    )  # fmt: skip


def summarize_curve(curve: ErrorCurve | None) -> str:
    """A denoising-error curve in one line: rms error per dimension at five of its levels."""
    if curve is None:
        return "not measured; the parallel sampler estimates it"
    sigmas = np.asarray(curve.sigmas)
    at = np.unique(np.linspace(0, sigmas.size - 1, 5).round().astype(int))
    points = ", ".join(f"{curve.mse[i] ** 0.5:.3g} at sigma {sigmas[i]:.3g}" for i in at)
    return f"rms {points} ({sigmas.size} levels)"


def _onnx(path: str | os.PathLike[str], file: Path) -> Inspection:
    onnx = read_onnx(path)
    info = None
    if METADATA_KEY in onnx.metadata:
        try:
            info = ModelInfo.from_json(onnx.metadata[METADATA_KEY])
        except FileError as e:
            raise FileError(f"{path}: {e}") from e
    details = {
        "opset": onnx.opset,
        "ir_version": onnx.ir_version,
        "producer": onnx.producer,
        "inputs": [_port(port) for port in onnx.inputs],
        "outputs": [_port(port) for port in onnx.outputs],
        "operators": onnx.operators,
        "other_metadata": sorted(set(onnx.metadata) - {METADATA_KEY, GRAPH_KEY, PART_OF}),
    }
    graph = record_of(path, onnx.metadata)
    if graph is not None:
        details = {"graph": graph.describe(), **details}
    kind = "model" if graph is None else graph.kind
    if PART_OF in onnx.metadata:
        kind = "decoder" if [port.name for port in onnx.inputs] == ["x"] else "encoder"
        details = {"of the model with the weights": onnx.metadata[PART_OF], **details}
    return Inspection(
        kind=f"{kind}.onnx", size=sum(part.stat().st_size for part in graph_files(file)), info=info,
        parameters=onnx.parameters, details=details,
    )  # fmt: skip


def _plan(path: str | os.PathLike[str], file: Path) -> Inspection:
    """From the record beside the engine; neither TensorRT nor a GPU is needed."""
    record = read_sidecar(path)
    rows = [f"{p.least} to {p.most}, best at {p.best}" for p in record.profiles]
    details = {
        "engine": record.engine,
        "for": record.cards,
        "platform": record.platform,
        "rows of a call": rows,
        "convolutions and matrix products": record.layers,
        "device_memory": record.device_memory,
        "options": {name: value for name, value in asdict(record.options).items() if value not in (False, None)},
        "built from": record.onnx,
        "agreed with it": None if record.parity is None else record.parity.get("summary"),
        "seconds of the first call": record.first_call and "{:.2f}, then {:.2f}".format(*record.first_call),
        "seconds of a call": {str(n): seconds for n, seconds in record.latency},
        "digest": "as built" if digest(file) == record.plan_sha256 else "CHANGED since it was built: it will not load",
        "build again": record.command,
    }
    return Inspection(kind="model.plan", size=file.stat().st_size, info=record.model, details=details)


def _port(port: Port) -> str:
    return f"{port.name} {port.dtype} ({', '.join(str(axis or '?') for axis in port.shape)})"


def _torch(path: str | os.PathLike[str], file: Path, allow_module: bool) -> Inspection:
    try:
        from ncdeploy.denoisers.checkpoint import load_checkpoint
        from ncdeploy.denoisers.safetensors_file import is_safetensors
    except ImportError as e:
        raise DependencyError(f"{path}: is a PyTorch model; to look inside: {install('torch')}") from e
    denoiser, record, _ = load_checkpoint(path, allow_module=allow_module)
    count = sum(t.numel() for t in denoiser.state_dict().values() if t.is_floating_point())
    details = {"config": denoiser.config, "record": record}
    kind = "model.safetensors" if is_safetensors(file) else "model.pt"
    return Inspection(
        kind=kind, size=file.stat().st_size, info=denoiser.info, parameters=count, details=details
    )  # fmt: skip


def _is_npz(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _npz(path: str | os.PathLike[str], file: Path) -> Inspection:
    arrays: dict[str, Any] = {}
    for name, array in read_arrays(path).items():
        arrays[name] = {"dtype": str(array.dtype), "shape": list(array.shape)}
        if array.size and array.dtype.kind in "fiu":
            with np.errstate(over="ignore", invalid="ignore"):  # values that are infinite, or have no sum
                arrays[name] |= {"min": float(array.min()), "max": float(array.max()), "mean": float(array.mean())}
    return Inspection(kind="samples", size=file.stat().st_size, details={"arrays": arrays})
