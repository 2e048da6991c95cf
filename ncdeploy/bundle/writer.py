"""Making a bundle: copied, checked and read back in a temporary folder, and put in place when it is whole."""

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np

from ncdeploy.backends import Backend, open_engine
from ncdeploy.backends.parts import PartEngine
from ncdeploy.bundle.check import check_plans, check_reference, check_samples
from ncdeploy.bundle.folder import atomic_folder, check_folder
from ncdeploy.bundle.readme import readme
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.formats.bundle import Bundle, BundledPlan, digest_line, file_entry, open_bundle
from ncdeploy.formats.describe import check_graph, describe
from ncdeploy.formats.filetype import MANIFEST, Kind, detect
from ncdeploy.formats.manifest import DIGEST, README, SIDECAR, Manifest, PlanEntry
from ncdeploy.formats.onnxfile import external_data, read_onnx
from ncdeploy.formats.parts import ROLES, Part, Role, read_part
from ncdeploy.formats.planfile import encode
from ncdeploy.formats.sidecar import read_sidecar, sidecar_path
from ncdeploy.modelinfo import METADATA_KEY, ModelInfo
from ncdeploy.sampling.parallel import TOLERANCE
from ncdeploy.sampling.plan import Plan
from ncdeploy.version import __version__

WINDOW = 64
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def make_bundle(
    engine: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    plans: Sequence[Plan],
    window: int = WINDOW,
    tolerance: float = TOLERANCE,
    info: ModelInfo | None = None,
    graphs: Sequence[str | os.PathLike[str]] = (),
    encoder: str | os.PathLike[str] | None = None,
    decoder: str | os.PathLike[str] | None = None,
    verify: bool = True,
    reference: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    allow_module: bool = False,
    force: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> Bundle:
    """Write a bundle to the folder `output`, see `ncdeploy.bundle`, and return it opened.

    Args:
        engine: model.onnx, or model.plan with its model.plan.json beside it
        plans: at least one, the default first; their names become those of files
        window: nodes per sample and sweep in parallel sampling, at most; no plan has more than its evaluations
        tolerance: of parallel sampling, see `ncdeploy.sample`
        info: what the model is, for an ONNX file that does not say so itself
        graphs: further ONNX graphs of the model, copied under their names
        encoder: ONNX graphs that run once a sample before and after it, see `ncdeploy.formats.parts`
        decoder: ONNX graphs that run once a sample before and after it, see `ncdeploy.formats.parts`
        verify: run each plan in sequence and in parallel, and encoder and decoder on samples together and one by one,
            before the bundle is put in place, and record how they compare
        reference: a model that the engine must agree with, see `ncdeploy.parity.compare`; threads and allow_module are
            those of `ncdeploy.open_engine`
        force: replace a bundle that is there; a folder with other things in it never is
        on_stage: called with a few words as each stage begins

    Raises:
        FileError: for files that are not what they should be and an output that cannot be written
        InputError: for plans and options that do not fit
        ParityError: if a comparison fails, and what `ncdeploy.open_engine` raises
    """
    stage = on_stage or (lambda text: None)
    check_folder(output, mark=MANIFEST, force=force)
    for option, value in (("reference", reference), ("threads", threads)):
        if value is not None and not verify:
            raise InputError(f"{option}: nothing is compared without verification; leave one of them out")
    if allow_module and reference is None:
        raise InputError("trust: is about the code of a reference, and there is none; leave it out")
    kind = _kind(engine)
    model = engine_info(engine, info)
    stored = _suited(plans, model, window, tolerance)
    copies = _copies(engine, kind, graphs, model)
    name = next(iter(copies))
    parts: dict[Role, Part] = {}
    for role, path in zip(ROLES, (encoder, decoder), strict=True):
        if path is not None:
            parts[role] = read_part(path, role, model)
            if parts[role].file in copies:
                raise InputError(f"graph {parts[role].file}: there is a file of this name in the bundle; rename it")
            copies[parts[role].file] = Path(path)

    with atomic_folder(output, mark=MANIFEST, force=force) as folder:
        stage("copying")
        for target, source in (copies | _values(copies)).items():
            _copy(source, folder / target)
        parity = None
        if verify:
            backend = open_engine(folder / name, threads=threads, info=info)
            try:
                parity = _verify(backend, stored, reference, threads, allow_module, stage)
                for role, part in parts.items():
                    stage(f"running the {role}")
                    with PartEngine(folder / part.file, part, model, threads=threads) as graph:
                        parity[role] = check_samples(graph)
            finally:
                backend.close()
        stage("writing")
        (folder / "plans").mkdir()
        for plan in stored.values():
            (folder / _file(plan.plan)).write_bytes(encode(plan.plan, plan.jacobian))
        (folder / README).write_text(readme(name, model, stored, list(copies)[1:], parts), encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = Manifest(
            engine=name,
            model=model,
            plans=tuple(
                PlanEntry(name=plan, file=_file(s.plan), window=s.window, tolerance=s.tolerance)
                for plan, s in stored.items()
            ),
            files={path.relative_to(folder).as_posix(): file_entry(path) for path in files},
            parity=parity,
            versions=_versions(),
            encoder=parts.get("encoder"),
            decoder=parts.get("decoder"),
        ).to_bytes()
        (folder / MANIFEST).write_bytes(manifest)
        (folder / DIGEST).write_bytes(digest_line(manifest))
        open_bundle(folder)
    return open_bundle(output)


def _kind(engine: str | os.PathLike[str]) -> Literal[Kind.ONNX, Kind.TENSORRT]:
    kind = detect(engine)
    if kind is Kind.TORCH:
        raise FileError(f"{engine}: is a PyTorch model, expected model.onnx or model.plan; see ncdeploy export")
    return kind


def engine_info(engine: str | os.PathLike[str], info: ModelInfo | None = None) -> ModelInfo:
    """What the engine says of itself: an ONNX file in its metadata, a plan of TensorRT in the file beside it.

    info, and errors: as for `make_bundle`
    """
    match _kind(engine):
        case Kind.ONNX:
            file = read_onnx(engine)
            model = describe(engine, file, info)
            check_graph(engine, file, model)
            return model
        case Kind.TENSORRT:
            if info is not None:
                raise InputError(f"{engine} describes itself; leave out the options that describe the model")
            record = read_sidecar(engine)
            if record.graph != "denoiser":
                raise FileError(
                    f"{engine}: is the engine of a {record.graph} graph; the engine of a bundle is a denoiser"
                )
            return record.model
        case unknown:
            assert_never(unknown)


def _suited(plans: Sequence[Plan], model: ModelInfo, window: int, tolerance: float) -> dict[str, BundledPlan]:
    """The plans by name, each with its window and the model's scalar Jacobian at its nodes."""
    if not plans:
        raise InputError("plans: got none; a bundle needs at least one, for example make_plan('ddim', 100)")
    if window < 1:
        raise InputError(f"window: got {window}, expected at least 1 node")
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"tolerance: got {tolerance}, expected 0 or more")
    stored: dict[str, BundledPlan] = {}
    for plan in plans:
        model.check_clip(plan)
        if not NAME.fullmatch(plan.name):
            raise InputError(f"plan {plan.name!a}: a bundle names a file so; expected letters, digits, _ . and -")
        if plan.name in stored:
            raise InputError(f"plan {plan.name}: given twice; plans of a bundle need different names")
        jacobian = None
        if model.error_curve is not None:
            jacobian = np.where(plan.evaluated, model.error_curve.jacobian(plan.sigmas), 0.0)
        stored[plan.name] = BundledPlan(
            plan=plan, jacobian=jacobian, window=min(window, plan.evaluations), tolerance=tolerance
        )
    return stored


def _copies(
    engine: str | os.PathLike[str],
    kind: Literal[Kind.ONNX, Kind.TENSORRT],
    graphs: Sequence[str | os.PathLike[str]],
    model: ModelInfo,
) -> dict[str, Path]:
    """What is copied, by its name in the bundle; the engine is first."""
    match kind:
        case Kind.ONNX:
            copies = {"model.onnx": Path(engine)}
        case Kind.TENSORRT:
            copies = {"model.plan": Path(engine), SIDECAR: sidecar_path(engine)}
        case unknown:
            assert_never(unknown)
    for graph in map(Path, graphs):
        if detect(graph) is not Kind.ONNX:
            raise FileError(f"{graph}: is not an ONNX graph; expected one of ncdeploy export")
        if not (NAME.fullmatch(graph.name) and graph.suffix == ".onnx"):
            raise InputError(f"graph {graph.name!a}: expected a name of letters, digits, _ and -, ending in .onnx")
        if graph.name in copies or graph.name == "model.onnx":
            raise InputError(f"graph {graph.name}: there is a file of this name in the bundle; rename it")
        record = read_onnx(graph).metadata.get(METADATA_KEY)
        own = model if record is None else ModelInfo.from_json(record)
        if (own.shape, own.weights_digest) != (model.shape, model.weights_digest):
            raise InputError(f"graph {graph}: is of another model than {engine}; export both from the same model.pt")
        copies[graph.name] = graph
    return copies


def _values(copies: dict[str, Path]) -> dict[str, Path]:
    """Files that the graphs have values in, by their names in the bundle."""
    values: dict[str, Path] = {}
    for graph in (source for target, source in copies.items() if target.endswith(".onnx")):
        for name in sorted(external_data(graph)):
            if not NAME.fullmatch(name) or name in (MANIFEST, DIGEST, README):
                raise InputError(
                    f"graph {graph}: has values in {name[:60]!a}; expected a file beside it, of a plain name"
                )
            if name in copies or values.setdefault(name, graph.parent / name) != graph.parent / name:
                raise InputError(f"graph {graph}: has values in {name}, and the bundle has another file of this name")
    return values


def _verify(
    engine: Backend,
    plans: dict[str, BundledPlan],
    reference: str | os.PathLike[str] | None,
    threads: int | None,
    allow_module: bool,
    stage: Callable[[str], None],
) -> dict[str, Any]:
    parity: dict[str, Any] = {"engine": engine.name}
    if reference is not None:
        stage(f"comparing with {Path(reference).name}")
        parity["reference"] = check_reference(reference, engine, threads=threads, allow_module=allow_module)
    stage("sampling each plan in sequence and in parallel")
    return parity | {"plans": check_plans(engine, plans)}


def _file(plan: Plan) -> str:
    return f"plans/{plan.name}.ncplan"


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(user_path(source), target)
    except OSError as e:
        raise FileError(f"{source}: cannot be copied: {e.strerror or e}") from e


def _versions() -> dict[str, str]:
    names = {"ncdeploy": __version__, "python": platform.python_version()}
    for package in ("numpy", "onnxruntime", "tensorrt"):
        try:
            names[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return names
