"""model.onnx: the denoiser as one ONNX file that says what it is, written only if it agrees with PyTorch."""

import copy
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.checkpoint import package_versions, weights_digest
from ncdeploy.errors import BackendError, DependencyError, FileError, ParityError
from ncdeploy.export.graph import DEFAULT_OPSET, MAX_BYTES, check_opset, require_onnx, trace
from ncdeploy.export.guidance import GuidedDenoiser
from ncdeploy.files import atomic_write
from ncdeploy.modelinfo import METADATA_KEY, ModelInfo
from ncdeploy.parity import TOLERANCE, TRAJECTORY_TOLERANCE, ParityReport, check_tolerances, compare

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written. parity is None only if verification was switched off; size in bytes."""

    path: Path
    size: int
    opset: int
    ir_version: int
    info: ModelInfo
    parity: ParityReport | None


def export_onnx(
    denoiser: Denoiser,
    path: str | os.PathLike[str],
    *,
    opset: int = DEFAULT_OPSET,
    guidance: bool = False,
    verify: bool = True,
    tolerance: float = TOLERANCE,
    trajectory_tolerance: float = TRAJECTORY_TOLERANCE,
    threads: int | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Export:
    """Write the denoiser to `path` as ONNX, in float32, and check it against PyTorch before the file appears there.

    opset:                18, 19 or 20
    guidance:             add an input of weights of classifier-free guidance, see `ncdeploy.export.guidance`
    verify:               compare with PyTorch, see `ncdeploy.parity.compare`, whose tolerances the next two are
    threads:              CPU threads of the comparison
    on_stage:             called with a few words as each stage begins

    The denoiser is left as it is. An earlier file at `path` is replaced only on success.

    Raises ParityError when the graph disagrees with PyTorch, BackendError when it cannot be exported or does not
    fit into one file, FileError when the file cannot be written, DependencyError when a package is missing,
    InputError for guidance of a model without classes or without an unconditional one.
    """
    stage = on_stage or (lambda text: None)
    check_opset(opset)
    require_onnx()
    if verify:
        check_tolerances(tolerance, trajectory_tolerance)
        _require_onnxruntime()
    model = _in_float32(denoiser)
    if guidance:
        model = GuidedDenoiser(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > MAX_BYTES:
        raise BackendError(f"the model has {size / 2**30:.1f} GiB of weights; one ONNX file holds less than 2 GiB")
    versions = {**denoiser.info.versions, **package_versions(), "onnx": importlib.metadata.version("onnx")}
    info = replace(model.info, weights_digest=weights_digest(denoiser.state_dict()), versions=versions)

    with atomic_write(path) as temporary:
        stage("tracing the network")
        graph = trace(model, opset=opset)
        _write(graph, info, temporary)
        parity = None
        if verify:
            stage("comparing with PyTorch")
            parity = _verify(model, temporary, path, tolerance, trajectory_tolerance, threads)
        written = temporary.stat().st_size
    return Export(
        path=Path(path), size=written, opset=opset, ir_version=graph.ir_version, info=info, parity=parity
    )  # fmt: skip


def _in_float32(denoiser: Denoiser) -> Denoiser:
    """A copy on the CPU, in eval mode, its weights in float32; tables that are not weights keep their precision."""
    model = copy.deepcopy(denoiser).cpu().eval()
    weights = {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model


def _write(graph: "onnx.ModelProto", info: ModelInfo, path: Path) -> None:
    """Add the record, check the whole model, write one file."""
    import onnx

    onnx.helper.set_model_props(graph, {METADATA_KEY: info.to_json()})
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as e:  # checker and shape inference raise unrelated types
        raise BackendError(f"the exported graph is not valid ONNX: {str(e).strip().splitlines()[0]}") from e
    try:
        path.write_bytes(graph.SerializeToString())
    except ValueError as e:
        raise BackendError(f"the graph does not fit into one ONNX file of 2 GiB: {e}") from e


def _verify(
    model: Denoiser,
    written: Path,
    path: str | os.PathLike[str],
    tolerance: float,
    trajectory_tolerance: float,
    threads: int | None,
) -> ParityReport:
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

    reference = TorchBackend(model, threads=threads)
    try:
        candidate = OnnxRuntimeBackend(written, threads=threads)
    except FileError as e:
        raise BackendError(f"the exported file cannot be opened again: {e}") from e
    try:
        report = compare(reference, candidate, tolerance=tolerance, trajectory_tolerance=trajectory_tolerance)
    finally:
        candidate.close()
    if not report.ok:
        raise ParityError(f"{path}: not written, it disagrees with PyTorch: {report.summary}")
    return report


def _require_onnxruntime() -> None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as e:
        raise DependencyError(
            "verifying the export needs ONNX Runtime: pip install 'ncdeploy[cpu]', or export with --no-verify"
        ) from e
