"""`ncdeploy export`: model.pt to a self-describing, verified model.onnx."""

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.outputs import Force, claim

_GRAPH = "With the sampler inside"


def export(
    model: Annotated[Path, typer.Argument(help="The model.pt to export.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write.", show_default="the model's name with .onnx"),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators: 18, 19 or 20; bf16 needs 22.")] = 20,
    precision: Annotated[
        str,
        typer.Option(help="Type of convolutions and matrix products: fp32, tf32, fp16 or bf16; the rest is fp32."),
    ] = "fp32",
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(help='A layer to keep in float32, such as "network.outer" or "*.attention".', show_default="none"),
    ] = None,
    guidance: Annotated[
        bool, typer.Option("--guidance", help="Add an input of weights of classifier-free guidance, one per row.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare with PyTorch before the file is put in place.",
            rich_help_panel="Whether it is compared",
        ),
    ] = True,
    tolerance: options.Tolerance = None,
    trajectory_tolerance: options.TrajectoryTolerance = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads of the comparison.", show_default="all", rich_help_panel="Whether it is compared"
        ),
    ] = None,
    trust: Annotated[bool, options.trust()] = False,
    graph: Annotated[
        str,
        typer.Option(help="denoiser; sampler: noise in, samples out; sweep: for a host loop.", rich_help_panel=_GRAPH),
    ] = "denoiser",
    solver: Annotated[str | None, options.solver(_GRAPH)] = None,
    steps: Annotated[int | None, options.steps(_GRAPH)] = None,
    schedule: Annotated[str | None, options.schedule(_GRAPH)] = None,
    spacing: Annotated[str | None, options.spacing(_GRAPH)] = None,
    shift: Annotated[float | None, options.shift(_GRAPH)] = None,
    eta: Annotated[float | None, options.eta(_GRAPH)] = None,
    variance: Annotated[str | None, options.variance(_GRAPH)] = None,
    order: Annotated[int | None, options.order(_GRAPH)] = None,
    clip: Annotated[float | None, options.clip(_GRAPH)] = None,
    raw_noise: Annotated[bool | None, options.raw_noise(_GRAPH)] = None,
    plan_input: Annotated[
        bool,
        typer.Option(
            "--plan-input/--plan-inside",
            help="Take any plan as input, or carry this one.",
            show_default="inside",
            rich_help_panel=_GRAPH,
        ),
    ] = False,
    window: Annotated[
        int | None, typer.Option(help="Nodes per sample and call.", show_default="32, or all", rich_help_panel=_GRAPH)
    ] = None,
    sweeps: Annotated[
        int | None,
        typer.Option(help="Sweeps of a call, for sweep.", show_default="4, in law 1", rich_help_panel=_GRAPH),
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(
            help="How it accepts nodes: pathwise, or law, for plans that add noise; see sample.",
            show_default="pathwise",
            rich_help_panel=_GRAPH,
        ),
    ] = None,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a model as ONNX: one file, any batch size, a noise level per row, and a description of itself.

    The file is compared with PyTorch over all noise levels, several batch sizes and whole sampled trajectories,
    and written only if they agree. A sampler or sweep graph is also compared with the host loop on the same noise.
    """
    from ncdeploy.errors import InputError
    from ncdeploy.files import workplace

    target = claim(output or model.with_suffix(".onnx"), ".onnx", force=force, source=model)
    if not verify:
        for option, value in (
            ("--tolerance", tolerance), ("--trajectory-tolerance", trajectory_tolerance), ("--threads", threads),
        ):  # fmt: skip
            if value is not None:
                raise InputError(f"{option}: nothing is compared with --no-verify; leave one of them out")
    of_plan: dict[str, Any] = {
        "solver": solver, "steps": steps, "schedule": schedule, "spacing": spacing, "shift": shift, "eta": eta,
        "variance": variance, "order": order, "clip": clip, "raw_noise": raw_noise,
    }  # fmt: skip
    _check_graph(graph, {**of_plan, "plan_input": plan_input or None, "window": window, "accept": accept}, sweeps)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(console.progress("opening the model"))
        from ncdeploy.export import export_onnx  # first: without PyTorch it says what to install
        from ncdeploy.denoisers.checkpoint import load_model  # isort: skip

        denoiser = load_model(model, allow_module=trust)
        inside = None
        if graph != "denoiser":
            from ncdeploy.export.compose import choose_record, export_graph

            record = choose_record(
                denoiser.info.plan(**of_plan), denoiser.info, kind=graph, window=window,
                sweeps=sweeps, plan_input=plan_input, acceptance=accept or "pathwise",
            )  # fmt: skip
        folder = stack.enter_context(workplace(target))
        done = export_onnx(
            denoiser,
            target if graph == "denoiser" else folder / "model.onnx",
            opset=opset,
            precision=precision,
            keep_fp32=keep_fp32 or (),
            guidance=guidance,
            verify=verify,
            tolerance=tolerance,
            trajectory_tolerance=trajectory_tolerance,
            threads=threads,
            on_stage=bar.stage,
        )
        if graph != "denoiser":
            inside = export_graph(
                done.path, target, record, verify=verify, threads=threads, on_stage=bar.stage
            )  # fmt: skip
    written = done if inside is None else inside
    if as_json:
        parity = None if done.parity is None else done.parity.to_dict()
        facts: dict[str, Any] = {"opset": done.opset, "ir_version": done.ir_version, "graph": graph}
        facts |= {"output": str(written.path), "bytes": written.size}
        if inside is not None:
            facts |= {"plan": inside.record.plan.name, "plan_input": plan_input, "window": inside.record.window}
            facts["acceptance"] = inside.record.acceptance
            facts["agreement"] = None if inside.agreement is None else inside.agreement.to_dict()
        facts |= {"precision": precision, "low": list(done.low), "kept": list(done.kept)}
        console.print_json({**facts, "weights_digest": done.info.weights_digest, "parity": parity})
        return
    out = console.stdout()
    took = console.duration(time.perf_counter() - start)
    out.print(f"{written.path}: {written.size / 1e6:.2f} MB, opset {done.opset}, IR {done.ir_version}, in {took}")
    if done.low:
        kept = f", {len(done.kept)} kept in fp32" if done.kept else ""
        out.print(
            f"{precision}: {len(done.low)} layers{kept}; norms, softmax, noise embedding, preconditioning in fp32"
        )
    out.print("not compared with PyTorch" if done.parity is None else f"agrees with PyTorch: {done.parity.summary}")
    if inside is not None:
        out.print(inside.record.describe())
        if inside.agreement is not None:
            out.print(f"agrees with the host loop: {inside.agreement.summary}")


def _check_graph(graph: str, given: dict[str, Any], sweeps: int | None) -> None:
    """Raise InputError for a kind that there is not, and for options that would do nothing."""
    from ncdeploy.errors import InputError
    from ncdeploy.formats.graphrecord import ACCEPTANCES, KINDS

    if graph not in KINDS:
        raise InputError(f"--graph {graph}: expected one of {', '.join(KINDS)}")
    asked = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if given["accept"] not in (None, *ACCEPTANCES):
        raise InputError(f"--accept {given['accept']}: expected {' or '.join(ACCEPTANCES)}")
    if graph == "denoiser" and asked:
        raise InputError(f"{asked[0]}: a denoiser has no plan in it; add --graph sampler or sweep, or leave it out")
    if graph != "sweep" and sweeps is not None:
        raise InputError("--sweeps: is of a sweep graph; add --graph sweep, or leave it out")
