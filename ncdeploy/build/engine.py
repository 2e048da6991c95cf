"""model.onnx -> model.plan and model.plan.json: built, read back, compared, timed, and only then put in place."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ncdeploy.backends.tensorrt import cudart
from ncdeploy.backends.tensorrt.preflight import Machine, check_compiler, check_machine, this_machine
from ncdeploy.build import compiler
from ncdeploy.build.cache import engine_file, engine_key, timing_file
from ncdeploy.build.trial import first_calls, read_back, try_engine
from ncdeploy.errors import BackendError, FileError, InputError
from ncdeploy.files import atomic_writes, check_writable, user_path, workplace
from ncdeploy.formats.describe import check_graph, describe
from ncdeploy.formats.graphrecord import GraphRecord, record_of
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.formats.profiles import Profile
from ncdeploy.formats.sidecar import (
    BuildOptions,
    Sidecar,
    digest,
    graph_digest,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)

if TYPE_CHECKING:
    pass

Compiled = tuple[bytes, dict[str, int]]  # a plan, and its matrix products by type


@dataclass(frozen=True, kw_only=True)
class Built:
    """What was written. reused: an engine of the same inputs was there already."""

    path: Path
    sidecar: Sidecar
    reused: bool


def build_engine(
    onnx: str | os.PathLike[str],
    path: str | os.PathLike[str],
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    command: str,
    runtime: str = "tensorrt",
    targets: Sequence[tuple[int, int]] = (),
    device: int = 0,
    verify: bool = True,
    reuse: bool = True,
    on_stage: Callable[[str], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Built:
    """Build the engine of an exported graph, denoiser, sweep or sampler: with TensorRT for the GPU of this machine, or
    with TensorRT for RTX on any machine for the cards of `targets`, compute capabilities, () for every RTX card.

    The types that the compiler read of the graph are compared with the graph's. A denoiser that runs here is also read
    back, compared and timed; graphs with a sampler in them are run by other programs. A sampler graph is built in the
    form that TensorRT's loops allow, see `WholeWindows`.

    Ctrl-C ends the build at TensorRT's next step, and nothing is written.

    Args:
        profiles: rows of a call; for a graph with a sampler in it, samples
        command: what the user may type to build it again, kept for messages
        verify: compare with the graph on ONNX Runtime's CPU, within what the precision allows
        reuse: take an engine of exactly the same inputs from the cache, see `cache.engine_key`; one that was never
            compared counts only where it cannot or shall not be. A cache folder that cannot be written is no error
        on_progress: called with (phase, step, steps) while TensorRT works, from its threads

    Raises:
        DependencyError: without the runtime
        BackendError: without the GPU that TensorRT needs, or if it refuses the graph or did not keep its precision
        ParityError: if the engine computes something else
        FileError: for files
        InputError: for options that TensorRT for RTX does not have
    """
    stage = on_stage or (lambda text: None)
    machine = this_machine(device, runtime)
    instead = f"ncdeploy sample --engine {onnx}"
    (check_compiler if runtime == "rtx" else check_machine)(machine, instead)
    _check_options(options, machine, targets)
    graph = user_path(onnx)
    file = read_onnx(onnx)
    info = describe(onnx, file)
    record = record_of(onnx, file.metadata)
    if record is None:
        check_graph(onnx, file, info)
    else:
        _check_sampler(onnx, record, options)
    for_this = runtime == "tensorrt" or machine.runs(targets)
    runs_here = for_this and record is None
    options = replace(options, tf32=info.precision == "tf32")
    target = check_writable(path)
    onnx_sha256 = graph_digest(graph)
    kept = engine_file(engine_key(onnx_sha256, profiles, info.precision, options, machine, targets))
    if reuse and _usable(kept, verify and runs_here):
        return Built(path=target, sidecar=_place(kept, target, command), reused=True)

    stage("building the engine")

    of_samples = [condition.name for condition in info.conditions] if record is None else []

    def compile_graph(cancelled: Callable[[], bool]) -> Compiled:
        if runtime == "tensorrt":
            cudart.set_device(device)
        return compiler.compile_graph(
            source, profiles, options, precision=info.precision, products=products, conditions=of_samples,
            runtime=runtime, targets=targets,
            timings=_writable(timing_file(machine)) if runtime == "tensorrt" else None,
            on_progress=on_progress or (lambda phase, step, steps: None), cancelled=cancelled,
        )  # fmt: skip

    with workplace(path) as folder:
        source = graph
        if record is not None and record.kind == "sampler" and not record.fixed_rows:
            source = folder / graph.name
            _with_whole_windows(graph, source)
        products = low_products(source, info.precision)
        plan, layers = _cancellable(compile_graph)
        trial = folder / graph.with_suffix(".plan").name
        trial.write_bytes(plan)
        if options.stripped:
            shutil.copy(graph, folder)
        sidecar = Sidecar(
            runtime=runtime,
            targets=tuple(targets),
            graph="denoiser" if record is None else record.kind,
            tensorrt=str(machine.tensorrt),
            compute_capability=machine.compute_capability if for_this else None,
            device=machine.device if for_this else "",
            driver=machine.driver if for_this else "",
            platform=machine.platform,
            plan_sha256=digest(trial),
            plan_bytes=len(plan),
            onnx=graph.name,
            onnx_sha256=onnx_sha256,
            model=info,
            profiles=tuple(profiles),
            options=options,
            layers=layers,
            device_memory=0,
            command=command,
        )
        if runs_here:
            cudart.set_device(device)
            stage("reading its layers back")
            layers, memory = read_back(plan, graph, sidecar, products)
            sidecar = replace(sidecar, layers=layers, device_memory=memory)
            write_sidecar(trial, sidecar)
            if runtime == "rtx":
                sidecar = replace(sidecar, first_call=first_calls(trial, sidecar, device))
            sidecar = try_engine(trial, graph, sidecar, device, verify, stage)
        write_sidecar(trial, sidecar)
        with contextlib.suppress(OSError, FileError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            _place(trial, kept, command)
        return Built(path=target, sidecar=_place(trial, target, command), reused=False)


def _check_sampler(onnx: str | os.PathLike[str], record: GraphRecord, options: BuildOptions) -> None:
    """Raise InputError for a graph with a sampler in it that no engine is built of."""
    if record.plan_input:
        raise InputError(
            f"{onnx}: takes its plan as input, of any length; for an engine, export it with its plan inside"
        )
    if options.stripped:
        raise InputError("stripped: the weights of an engine with a sampler in it cannot come from its graph")


def _check_options(options: BuildOptions, machine: Machine, targets: Sequence[tuple[int, int]]) -> None:
    """Raise InputError for what one of both runtimes does not have."""
    runtime = machine.runtime
    if runtime == "rtx" and options.stripped and machine.compute_capability is None:
        raise InputError("stripped: TensorRT for RTX builds engines without weights only on a machine with a GPU")
    if runtime == "tensorrt" and targets:
        raise InputError("target: TensorRT builds for the GPU of this machine; targets are of TensorRT for RTX (rtx)")
    if runtime == "rtx" and (options.version_compatible or options.hardware_compatible != "none"):
        raise InputError(
            "version_compatible, hardware_compatible: are options of TensorRT; an engine of TensorRT for RTX runs on "
            "the cards of its targets, and with the version that built it"
        )


def _writable(file: Path) -> Path | None:
    """The file, None if its folder cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return file if os.access(file.parent, os.W_OK) else None


def _cancellable(build: Callable[[Callable[[], bool]], Compiled]) -> Compiled:
    """build(cancelled) in a thread of its own, since Python sees no Ctrl-C while TensorRT has the main one.

    KeyboardInterrupt goes on when TensorRT has stopped, which it is asked to.
    """
    stop, ended = threading.Event(), threading.Event()
    results: list[Compiled] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(build(stop.is_set))
        except BaseException as e:  # raised again below
            failures.append(e)
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="TensorRT build")
    try:
        thread.start()
        while not ended.wait(0.2):  # not for ever: Ctrl-C may reach another thread, and is then seen between two waits
            pass
    except KeyboardInterrupt:
        stop.set()
        thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]


def _with_whole_windows(graph: Path, target: Path) -> None:
    from ncdeploy.export.passes.whole_windows import WholeWindows  # first: without onnx it says what to install
    from ncdeploy.export.values import read_apart
    import onnx  # isort: skip

    try:
        model, values = read_apart(graph)
        whole, _ = WholeWindows()(model)
        onnx.save(whole if values is None else values.placed(whole, target), target)
    except BackendError as e:
        raise FileError(f"{graph}: {e}") from e


def low_products(graph: Path, precision: str) -> list[str]:
    """Names of the graph's convolutions and matrix products of its own precision, where that is half."""
    if precision not in ("fp16", "bf16"):
        return []
    from ncdeploy.export.passes.types import half_products  # first: without onnx it says what to install
    import onnx  # isort: skip

    return half_products(onnx.load(graph, load_external_data=False), precision)


def _place(source: Path, target: Path, command: str) -> Sidecar:
    """Copy a plan and its record; the record says how to build this one."""
    sidecar = replace(read_sidecar(source), command=command)
    with atomic_writes(target, sidecar_path(target)) as (plan, record):
        shutil.copyfile(source, plan)
        record.write_text(sidecar.to_json(), encoding="utf-8")
    return sidecar


def _usable(plan: Path, verify: bool) -> bool:
    """Whether a kept engine is there, with its record, unharmed, and compared if that is wanted."""
    try:
        if not plan.is_file() or not sidecar_path(plan).is_file():
            return False
        record = read_sidecar(plan)
        return digest(plan) == record.plan_sha256 and (record.parity is not None or not verify)
    except FileError:
        return False
