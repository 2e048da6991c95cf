"""`ncdeploy build`: a model to a TensorRT engine of this machine, or of RTX cards anywhere."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.choices import DEFAULT_WINDOW
from ncdeploy_cli.outputs import Force, claim

if TYPE_CHECKING:
    from ncdeploy.build.engine import Built

_SUFFIXES = (".plan", ".engine")
_SIZE, _ENGINE = "What it is built for", "What kind of engine"


def build(
    model: Annotated[
        Path, typer.Argument(help="model.onnx, or model.pt to export; sampler.onnx or sweep.onnx.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.", show_default="the model's with .plan")
    ] = None,
    max_samples: Annotated[int, typer.Option(min=1, help="Most samples at once.", rich_help_panel=_SIZE)] = 16,
    max_window: Annotated[
        int | None,
        typer.Option(
            min=1, help="Largest window of parallel sampling; 1 for none.", show_default="64", rich_help_panel=_SIZE
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="The window it is tuned for.",
            show_default=f"{DEFAULT_WINDOW}, or the largest",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Precision for a model.pt: fp32, tf32, fp16 or bf16; a .onnx has one.", show_default="fp32"),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            help="tensorrt, for the GPU of this machine; rtx, for RTX cards, which needs no GPU; or auto, what is here."
        ),
    ] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="With rtx: the cards it is for, sm75, sm80, sm86, sm89, sm120, sm121; may be repeated.",
            show_default="any",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="The GPU: cuda or cuda:N.")] = "cuda",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Runs on later versions of TensorRT.", rich_help_panel=_ENGINE)
    ] = False,
    hardware_compatible: Annotated[
        str,
        typer.Option(
            help="Other GPUs it runs on: none, same_compute_capability or ampere_plus.", rich_help_panel=_ENGINE
        ),
    ] = "none",
    strip: Annotated[
        bool,
        typer.Option(
            "--strip", help="Leave the weights out; the .onnx beside it supplies them.", rich_help_panel=_ENGINE
        ),
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Other weights can be put into it.", rich_help_panel=_ENGINE)
    ] = False,
    weight_streaming: Annotated[
        bool,
        typer.Option(
            "--weight-streaming",
            help="Weights may stay in host memory where the GPU's is short.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, help="Effort of the builder.", rich_help_panel=_ENGINE)
    ] = 3,
    workspace: Annotated[
        int | None,
        typer.Option(min=1, help="Most MiB a layer may use.", show_default="no limit", rich_help_panel=_ENGINE),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare the engine with the graph.")] = True,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build even if an engine of the same inputs is in the cache.")
    ] = False,
    trust: Annotated[bool, options.trust()] = False,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the engine's record as one JSON object.")] = False,
) -> None:
    """Build a TensorRT engine for the GPU of this machine, read its types back, compare it with the graph, time it.

    With --runtime rtx an engine of TensorRT for RTX, for all RTX cards or those of --target. That needs no GPU; only
    on a machine with such a card is it compared with the graph and timed.

    Beside model.plan lies model.plan.json, which says where it runs. Kernel timings and engines are kept in the
    user's cache folder, so building the same again takes no time.
    """  # fmt: skip
    from ncdeploy.backends.tensorrt.preflight import check_compiler, check_machine, choose_runtime, this_machine
    from ncdeploy.errors import InputError
    from ncdeploy.formats.filetype import Kind, detect
    from ncdeploy.formats.graphrecord import GRAPH_KEY
    from ncdeploy.formats.onnxfile import read_onnx
    from ncdeploy.formats.profiles import profiles_for
    from ncdeploy.formats.sidecar import RUNTIMES, BuildOptions, parse_targets

    written = model.with_suffix(".plan") if output is None else claim(output, *_SUFFIXES, force=force)
    match detect(model):
        case Kind.TORCH:
            to_export = True
        case Kind.ONNX:
            to_export = False
        case Kind.TENSORRT:
            raise InputError(f"{model}: is an engine already; give the model.onnx or model.pt it comes from")
        case unknown:
            assert_never(unknown)
    if precision is not None and not to_export:
        raise InputError(
            f"--precision: {model} has its own; ncdeploy export model.pt --precision {precision} changes it"
        )
    if output is None:
        claim(written, *_SUFFIXES, force=force)
    kind_of_device, _, number = device.partition(":")
    if kind_of_device != "cuda" or (number and not number.isdecimal()):
        raise InputError(f"--device {device}: an engine is built on cuda or cuda:N")
    if runtime not in ("auto", *RUNTIMES):
        raise InputError(f"--runtime {runtime}: expected auto, {' or '.join(RUNTIMES)}")
    targets = parse_targets(target or ())
    gpu = int(number or 0)
    chosen = choose_runtime(gpu) if runtime == "auto" else runtime
    if target and chosen != "rtx":
        raise InputError(f"--target {target[0]}: is of --runtime rtx; TensorRT builds for the GPU of this machine")
    has_sampler = not to_export and GRAPH_KEY in read_onnx(model).metadata
    if has_sampler:
        for option, value in (("--max-window", max_window), ("--window", window)):
            if value is not None:
                raise InputError(f"{option}: the graph {model} has its window inside; leave it out")
        max_window = 1
    most = 64 if max_window is None else max_window
    tuned = min(DEFAULT_WINDOW, most) if window is None else window
    profiles = profiles_for(max_samples, most, tuned)
    sizes = ["--max-samples", str(max_samples)]
    sizes += [] if has_sampler else ["--max-window", str(most), "--window", str(tuned)]
    settings = BuildOptions(
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        stripped=strip,
        refittable=refit,
        weight_streaming=weight_streaming,
        workspace=None if workspace is None else workspace << 20,
        level=optimization_level,
    )
    exported = claim(written.with_suffix(".onnx"), ".onnx", force=force) if to_export else model
    instead = f"ncdeploy sample --engine {exported}"
    (check_compiler if chosen == "rtx" else check_machine)(
        this_machine(gpu, chosen), f"ncdeploy export {model} && {instead}" if to_export else instead
    )
    with console.progress("starting", 1) as bar:
        if to_export:
            from ncdeploy.export import export_onnx  # first: without PyTorch it says what to install
            from ncdeploy.denoisers.checkpoint import load_model  # isort: skip

            export_onnx(
                load_model(model, allow_module=trust), exported, precision=precision or "fp32", on_stage=bar.stage
            )  # fmt: skip
        from ncdeploy.build.engine import build_engine

        built = build_engine(
            exported, written, profiles, settings, runtime=chosen, targets=targets,
            command=_command(model, written, sizes, chosen, target or ()),
            device=gpu, verify=verify, reuse=not rebuild, on_stage=bar.stage,
            on_progress=lambda phase, step, steps: bar.update(step, what=phase, total=steps),
        )  # fmt: skip
    if as_json:
        console.stdout().print(built.sidecar.to_json(), end="", markup=False)
    else:
        _report(built)


def _command(model: Path, output: Path, sizes: Sequence[str], runtime: str, targets: Sequence[str]) -> str:
    kind = ["--runtime", "rtx", *(part for target in targets for part in ("--target", target))]
    return shlex.join(
        ["ncdeploy", "build", str(model), "-o", str(output), *sizes, "--force", *(kind if runtime == "rtx" else [])]
    )


def _report(built: "Built") -> None:
    record, out = built.sidecar, console.stdout()
    how = "taken from the cache" if built.reused else "built"
    unit = "rows" if record.graph == "denoiser" else "samples"
    rows = " and ".join(f"{p.least} to {p.most} {unit}, best at {p.best}" for p in record.profiles)
    layers = ", ".join(f"{count} {name}" for name, count in record.layers.items())
    out.print(f"{built.path}: {how}, {record.plan_bytes / 1e6:.2f} MB, {record.engine} for {record.cards}")
    memory = f"; {record.device_memory / 1e6:.1f} MB a context" if record.device_memory else ""
    out.print(f"{rows}; convolutions and matrix products: {layers}{memory}")
    if record.latency:
        out.print("one call: " + ", ".join(f"{n} rows {seconds * 1e3:.2f} ms" for n, seconds in record.latency))
    if record.first_call is not None:
        cold, warm = record.first_call
        out.print(f"the first call: {cold:.2f} s, {warm:.2f} s with the kernels that the one before compiled")
    if record.parity is not None:
        out.print(f"agrees: {record.parity['summary']}")
    elif record.latency:
        out.print("not compared with the graph")
    elif record.graph != "denoiser":
        out.print(f"a {record.graph} graph: not compared or timed, since other programs run it")
    else:
        out.print(
            "not compared with the graph, since it does not run here; where it does: "
            f"ncdeploy verify {record.onnx} {built.path.name} --device cuda"
        )
