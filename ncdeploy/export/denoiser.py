"""model.onnx: the denoiser as one ONNX file that says what it is, written only if it agrees with PyTorch."""

import copy
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.checkpoint import package_versions, weights_digest
from ncdeploy.errors import BackendError, DependencyError, FileError, InputError, ParityError, install
from ncdeploy.export.graph import DEFAULT_OPSET, check_opset, require_onnx, trace, write
from ncdeploy.export.guidance import GuidedDenoiser
from ncdeploy.files import workplace
from ncdeploy.modelinfo import METADATA_KEY, PRECISIONS, ModelInfo
from ncdeploy.parity import LIMITS, ParityReport, check_tolerances, compare

if TYPE_CHECKING:
    import onnx

    from ncdeploy.export.values import Values


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written. parity is None only if verification was switched off; size in bytes.

    Attributes:
        low, kept: layers whose convolutions and matrix products are in half precision, and those that keep_fp32 spared
    """

    path: Path
    size: int
    opset: int
    ir_version: int
    info: ModelInfo
    parity: ParityReport | None
    low: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def export_onnx(
    denoiser: Denoiser,
    path: str | os.PathLike[str],
    *,
    opset: int = DEFAULT_OPSET,
    precision: str = "fp32",
    keep_fp32: Sequence[str] = (),
    guidance: bool = False,
    verify: bool = True,
    tolerance: float | None = None,
    trajectory_tolerance: float | None = None,
    threads: int | None = None,
    most: int | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Export:
    """Write the denoiser to `path` as ONNX and check it against PyTorch before the file appears there.

    The denoiser is left as it is. An earlier file at `path` is replaced only on success.

    Args:
        opset: 18, 19 or 20; a bf16 graph is declared as 22
        precision: fp32; tf32, the same graph with leave to use TensorFloat-32 where it runs; fp16 or bf16, see
            `ncdeploy.export.passes.lower`, with inputs and output in float32
        keep_fp32: patterns of layers that stay float32 in fp16 and bf16
        guidance: add an input of weights of classifier-free guidance, see `ncdeploy.export.guidance`
        verify: compare with PyTorch, see `ncdeploy.parity.compare`, whose tolerances the next two are. In fp16 and bf16
            each operator's rounding is emulated, for a CPU has no such kernels
        threads: CPU threads of the comparison
        most: bytes of one file, in the exported precision, None = 2 GiB; weights of a larger model go into a file
            beside it, see `ncdeploy.export.values`
        on_stage: called with a few words as each stage begins

    Raises:
        ParityError: when the graph disagrees with PyTorch, naming the layers to keep in float32 where that is the cause
        BackendError: when it cannot be exported
        FileError: when the file cannot be written
        DependencyError: when a package is missing
        InputError: for guidance of a model without classes or without an unconditional one, and for values of precision
            and keep_fp32 that do not exist
    """
    stage = on_stage or (lambda text: None)
    check_opset(opset)
    require_onnx()
    from ncdeploy.export.passes import Pass, types
    from ncdeploy.export.passes.lower import Lower
    from ncdeploy.export.values import MAX_BYTES, Values, graph_file, size_of

    if precision not in PRECISIONS:
        raise InputError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if keep_fp32 and precision not in types.LOW:
        raise InputError(f"keep_fp32: nothing but float32 is in a graph of precision {precision}")
    if verify:
        check_tolerances(tolerance, trajectory_tolerance)
        _require_onnxruntime()
    if precision == "tf32":  # a CPU computes it in float32
        tolerance = LIMITS["fp32"][0] if tolerance is None else tolerance
        trajectory_tolerance = LIMITS["fp32"][1] if trajectory_tolerance is None else trajectory_tolerance
    model = _in_float32(denoiser)
    if guidance:
        model = GuidedDenoiser(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    values = Values() if size > (MAX_BYTES if most is None else most) else None
    passes: list[Pass] = []
    if precision in types.LOW:
        passes.append(Lower(precision=precision, keep=tuple(keep_fp32), values=values))
    versions = {**denoiser.info.versions, **package_versions(), "onnx": importlib.metadata.version("onnx")}
    digest = weights_digest(denoiser.state_dict())
    info = replace(model.info, weights_digest=digest, versions=versions, precision=precision)

    with graph_file(path) as temporary:
        stage("tracing the network")
        graph = traced = trace(model, opset=opset, values=values)
        for change in passes:
            graph, _ = change(graph)
        low, kept = types.layers(graph) if precision in types.LOW else ((), ())
        write(graph, {METADATA_KEY: info.to_json()}, temporary, values=values, beside=path, most=most)
        parity = None
        if verify:
            stage("comparing with PyTorch")

            def agreement(candidate: Path) -> ParityReport:
                return _compare(model, candidate, tolerance, trajectory_tolerance, threads)

            if precision in types.LOW:
                parity, advice = _verify_low(path, traced, graph, info, keep_fp32, agreement, threads, stage, values)
            else:
                parity, advice = agreement(temporary), ""
            if not parity.ok:
                raise ParityError(f"{path}: not written, it disagrees with PyTorch: {parity.summary}{advice}")
        written = size_of(temporary)
    return Export(
        path=Path(path),
        size=written,
        opset=max(imported.version for imported in graph.opset_import if not imported.domain),
        ir_version=graph.ir_version,
        info=info,
        parity=parity,
        low=low,
        kept=kept,
    )


def _in_float32(denoiser: Denoiser) -> Denoiser:
    """A copy on the CPU, in eval mode, its weights in float32; tables that are not weights keep their precision. It
    shares those tensors that need no change, since a large model is not copied lightly."""
    tensors = [*denoiser.parameters(), *denoiser.buffers()]
    shared = {id(t): t for t in tensors if t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64)}
    model = copy.deepcopy(denoiser, shared).cpu().eval()
    weights = {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model


def _compare(
    model: Denoiser, path: Path, tolerance: float | None, trajectory_tolerance: float | None, threads: int | None
) -> ParityReport:
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

    reference = TorchBackend(model, threads=threads)
    try:
        candidate = OnnxRuntimeBackend(path, threads=threads)
    except FileError as e:
        raise BackendError(f"the exported file cannot be opened again: {e}") from e
    try:
        return compare(reference, candidate, tolerance=tolerance, trajectory_tolerance=trajectory_tolerance)
    finally:
        candidate.close()


def _verify_low(
    path: str | os.PathLike[str],
    traced: "onnx.ModelProto",
    lowered: "onnx.ModelProto",
    info: ModelInfo,
    keep: Sequence[str],
    agreement: Callable[[Path], ParityReport],
    threads: int | None,
    stage: Callable[[str], None],
    values: "Values | None",
) -> tuple[ParityReport, str]:
    """Compare a graph in half precision, its rounding emulated; where it disagrees, say what to keep in float32.

    path: of what is exported, beside which there is room for such a graph
    """
    from ncdeploy.export.passes.emulate import Emulate
    from ncdeploy.export.sensitivity import layers_to_keep

    with workplace(path) as folder:
        emulated = folder / "emulated.onnx"

        def compare_emulated(graph: "onnx.ModelProto") -> ParityReport:
            write(Emulate()(graph)[0], {METADATA_KEY: info.to_json()}, emulated, values=values)
            report = agreement(emulated)
            return replace(report, candidate=f"{report.candidate}, rounding to {info.precision} emulated")

        report = compare_emulated(lowered)
        if report.ok or values is not None:  # the search runs graphs in memory, where such a model is too large
            return report, ""
        layers = layers_to_keep(
            traced, info, info.precision, keep, lambda graph: compare_emulated(graph).ok,
            threads=threads, on_stage=stage,
        )  # fmt: skip
    if not layers:
        return report, f"; no choice of layers in float32 cures that, use another precision than {info.precision}"
    return report, "; it agrees with " + " ".join(f"--keep-fp32 {layer}" for layer in [*keep, *layers])


def _require_onnxruntime() -> None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as e:
        raise DependencyError(
            f"verifying the export needs ONNX Runtime: {install('cpu')}, or export with --no-verify"
        ) from e
