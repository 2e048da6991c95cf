"""sampler.onnx and sweep.onnx: a denoiser graph with the sampler around it, written only if it samples like the host.

A pass a step: the plan becomes tables, `sampler_graph` or `sweep_graph` puts nodes around the denoiser's, the records
go into the metadata, the whole is checked, and its samples are compared with those of `sample` on the same noise.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ncdeploy.errors import DependencyError, InputError, ParityError, install

try:
    import onnx
except ImportError as e:
    raise DependencyError(f"exporting needs onnx and onnxscript: {install('torch')}") from e

from ncdeploy.backends.graphs.tables import plan_tables
from ncdeploy.export.graph import write
from ncdeploy.export.sampler import sampler_graph
from ncdeploy.export.sweep import sweep_graph
from ncdeploy.export.values import graph_file, read_apart, size_of
from ncdeploy.files import real_path
from ncdeploy.formats.describe import check_graph, describe
from ncdeploy.formats.graphrecord import GRAPH_KEY, GraphRecord
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.modelinfo import METADATA_KEY, ModelInfo
from ncdeploy.parity.agreement import Agreement, agreement
from ncdeploy.sampling.parallel import ERROR_FLOOR
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.window import WindowTables

WINDOW = 32
SWEEPS = 4
OWN = (  # what graphs take and return beside what every model has
    "tolerance", "max_sweeps", "D", "before", "base", "known", "stop", "samples", "sweeps", "residual", "evaluations",
    "x_new", "D_new", "log_uniform", "theta", "accepted", "kept", "rejected", "rejections", "rejection_odds",
)  # fmt: skip
INPUT_REACH = 8  # of a graph that takes its plan as input: enough for every solver here


@dataclass(frozen=True, kw_only=True)
class GraphExport:
    """What was written. agreement is None only if verification was switched off; size in bytes."""

    path: Path
    size: int
    opset: int
    ir_version: int
    info: ModelInfo
    record: GraphRecord
    agreement: Agreement | None


def export_graph(
    denoiser: str | os.PathLike[str],
    path: str | os.PathLike[str],
    record: GraphRecord,
    *,
    verify: bool = True,
    threads: int | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> GraphExport:
    """Write the graph that `record` describes (see `choose_record`) around the denoiser graph in a file.

    An earlier file at `path` is replaced only on success.

    Args:
        denoiser: what `export_onnx` wrote
        verify: compare samples with those of the host loop from the same noise, see `ncdeploy.parity.agreement`
        threads: CPU threads of the comparison
        on_stage: called with a few words as each stage begins

    Raises:
        ParityError: when the samples differ
        BackendError: for a network that cannot be put into a graph or does not fit into one file
        FileError: for a file that cannot be read or written or is no denoiser
        InputError: if both files are the same
    """
    stage = on_stage or (lambda text: None)
    if real_path(path) == real_path(denoiser):
        raise InputError(f"{path}: is the denoiser itself; choose another name")
    file = read_onnx(denoiser)
    info = describe(denoiser, file)
    check_graph(denoiser, file, info)
    with graph_file(path) as temporary:
        stage(f"composing the {record.kind} graph")
        graph, values = read_apart(denoiser)
        model = compose(graph, info, record)
        records = {METADATA_KEY: info.to_json(), GRAPH_KEY: record.to_json()}
        write(model, records, temporary, values=values, beside=path)
        found = None
        if verify:
            stage("comparing with the host loop")
            found = agreement(denoiser, temporary, threads=threads)
            if not found.ok:
                raise ParityError(f"{path}: not written, it disagrees with the host loop: {found.summary}")
        size = size_of(temporary)
    opset = max(imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx"))
    return GraphExport(
        path=Path(path), size=size, opset=opset, ir_version=model.ir_version, info=info, record=record,
        agreement=found,
    )  # fmt: skip


def choose_record(
    plan: Plan,
    info: ModelInfo,
    *,
    kind: str,
    window: int | None = None,
    sweeps: int | None = None,
    plan_input: bool = False,
    acceptance: str = "pathwise",
) -> GraphRecord:
    """What a graph is to be.

    kind:       "sampler" or "sweep"
    plan:       goes into the graph, or, with plan_input, only serves to verify it
    window:     evaluated nodes in a window; None = 32, or all there are
    sweeps:     of one call of a sweep graph; None = 4, or 1 in law
    acceptance: "pathwise" or "law", for plans whose rows all add noise

    Raises InputError for values that do not fit, and for a condition with the name of an input that graphs have.
    """
    info.check_clip(plan)
    clash = next((c.name for c in info.conditions if c.name in OWN or c.name.startswith("plan_")), None)
    if clash is not None:
        raise InputError(f"condition {clash}: sweep and sampler graphs have a {clash} of their own; name it otherwise")
    window = min(WINDOW, plan.evaluations) if window is None else window
    if not 1 <= window <= plan.evaluations:
        raise InputError(f"window: got {window}; plan {plan.name} has {plan.evaluations} evaluations, so 1 to that")
    if sweeps is None:
        sweeps = 1 if acceptance == "law" else SWEEPS
    if kind == "sweep" and not 1 <= sweeps <= window:
        raise InputError(f"sweeps: got {sweeps}, expected 1 to the window's {window} nodes")
    span = WindowTables(plan, window, None, info.dim, ERROR_FLOOR, np, np.float32, None).span
    return GraphRecord(
        kind=kind, plan=plan, plan_input=plan_input, window=window, span=span,
        reach=max(INPUT_REACH, plan.reach) if plan_input else plan.reach,
        sweeps=sweeps if kind == "sweep" else 0, error_floor=ERROR_FLOOR,
        acceptance=acceptance,
    )  # fmt: skip


def compose(denoiser: onnx.ModelProto, info: ModelInfo, record: GraphRecord) -> onnx.ModelProto:
    """The model that `record` describes, around the graph of a denoiser. Raises BackendError if it cannot be."""
    tables = plan_tables(
        record.plan, info, window=record.window, error_floor=record.error_floor, span=record.span, reach=record.reach
    )
    build = sampler_graph if record.kind == "sampler" else sweep_graph
    return onnx.helper.make_model(
        build(denoiser.graph, info, record, tables),
        opset_imports=list(denoiser.opset_import),
        functions=list(denoiser.functions),
        ir_version=denoiser.ir_version,
        producer_name=denoiser.producer_name,
        producer_version=denoiser.producer_version,
    )
