"""`ncdeploy build`: a model to a TensorRT engine of this machine."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.choices import DEFAULT_WINDOW
from ncdeploy_cli.outputs import Force, claim

if TYPE_CHECKING:
    from ncdeploy.build.engine import Built

_SUFFIXES = (".plan", ".engine")
_SIZE, _ENGINE = "What it is built for", "What kind of engine"


def build(
    model: Annotated[Path, typer.Argument(help="model.onnx, or model.pt to export first.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.", show_default="the model's with .plan")
    ] = None,
    max_samples: Annotated[int, typer.Option(min=1, help="Most samples at once.", rich_help_panel=_SIZE)] = 16,
    max_window: Annotated[
        int, typer.Option(min=1, help="Largest window of parallel sampling; 1 for none.", rich_help_panel=_SIZE)
    ] = 64,
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

    Beside model.plan lies model.plan.json, which says where it runs. Kernel timings and engines are kept in the
    user's cache folder, so building the same again takes no time.
    """  # fmt: skip
    from ncdeploy.backends.tensorrt.preflight import check_machine, this_machine
    from ncdeploy.errors import InputError
    from ncdeploy.formats.filetype import Kind, detect
    from ncdeploy.formats.profiles import profiles_for
    from ncdeploy.formats.sidecar import BuildOptions

    target = model.with_suffix(".plan") if output is None else claim(output, *_SUFFIXES, force=force)
    kind = detect(model)
    if kind is not Kind.ONNX and kind is not Kind.TORCH:
        raise InputError(f"{model}: is an engine already; give the model.onnx or model.pt it comes from")
    if kind is Kind.ONNX and precision is not None:
        raise InputError(
            f"--precision: {model} has its own; ncdeploy export model.pt --precision {precision} changes it"
        )
    if output is None:
        claim(target, *_SUFFIXES, force=force)
    kind_of_device, _, number = device.partition(":")
    if kind_of_device != "cuda" or (number and not number.isdecimal()):
        raise InputError(f"--device {device}: an engine is built on cuda or cuda:N")
    tuned = min(DEFAULT_WINDOW, max_window) if window is None else window
    profiles = profiles_for(max_samples, max_window, tuned)
    settings = BuildOptions(
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        stripped=strip,
        refittable=refit,
        weight_streaming=weight_streaming,
        workspace=None if workspace is None else workspace << 20,
        level=optimization_level,
    )
    exported = claim(target.with_suffix(".onnx"), ".onnx", force=force) if kind is Kind.TORCH else model
    instead = f"ncdeploy sample --engine {exported}"
    check_machine(
        this_machine(int(number or 0)), f"ncdeploy export {model} && {instead}" if kind is Kind.TORCH else instead
    )
    with console.progress("starting", 1) as bar:
        if kind is Kind.TORCH:
            from ncdeploy.export import export_onnx  # first: without PyTorch it says what to install
            from ncdeploy.denoisers.checkpoint import load_model  # isort: skip

            export_onnx(
                load_model(model, allow_module=trust), exported, precision=precision or "fp32", on_stage=bar.stage
            )  # fmt: skip
        from ncdeploy.build.engine import build_engine

        built = build_engine(
            exported, target, profiles, settings, command=_command(model, target, max_samples, max_window, tuned),
            device=int(number or 0), verify=verify, reuse=not rebuild, on_stage=bar.stage,
            on_progress=lambda phase, step, steps: bar.update(step, what=phase, total=steps),
        )  # fmt: skip
    if as_json:
        console.stdout().print(built.sidecar.to_json(), end="", markup=False)
    else:
        _report(built)


def _command(model: Path, target: Path, max_samples: int, max_window: int, window: int) -> str:
    sizes = ["--max-samples", str(max_samples), "--max-window", str(max_window), "--window", str(window), "--force"]
    return shlex.join(["ncdeploy", "build", str(model), "-o", str(target), *sizes])


def _report(built: "Built") -> None:
    record, out = built.sidecar, console.stdout()
    how = "taken from the cache" if built.reused else "built"
    rows = " and ".join(f"{p.least} to {p.most} rows, best at {p.best}" for p in record.profiles)
    layers = ", ".join(f"{count} {name}" for name, count in record.layers.items())
    out.print(f"{built.path}: {how}, {record.plan_bytes / 1e6:.2f} MB, TensorRT {record.tensorrt} on {record.device}")
    out.print(f"{rows}; convolutions and matrix products: {layers}; {record.device_memory / 1e6:.1f} MB a context")
    out.print("not compared with the graph" if record.parity is None else f"agrees: {record.parity['summary']}")
    out.print("one call: " + ", ".join(f"{n} rows {seconds * 1e3:.2f} ms" for n, seconds in record.latency))
