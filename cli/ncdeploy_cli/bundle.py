"""`ncdeploy bundle`: an engine and its plans as one folder that is shipped."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.choices import choose_plans, describe
from ncdeploy_cli.outputs import Force, claim

if TYPE_CHECKING:
    from ncdeploy.bundle import Bundle
    from ncdeploy.modelinfo import ModelInfo
    from ncdeploy.sampling.plan import Plan

_PLANS, _CHECK = "Its plans", "What is compared"


def bundle(
    engine: Annotated[
        Path, typer.Argument(help="model.onnx, or model.plan with its model.plan.json beside it.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)],
    solver: Annotated[
        list[str] | None,
        typer.Option(
            help='Solvers of its plans, "ddim,ddpm"; the first plan is the default.',
            show_default="the model's own",
            rich_help_panel=_PLANS,
        ),
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(help='Steps of each of them, "100,1000".', show_default="the model's own", rich_help_panel=_PLANS),
    ] = None,
    schedule: Annotated[str | None, options.schedule(_PLANS)] = None,
    spacing: Annotated[str | None, options.spacing(_PLANS)] = None,
    shift: Annotated[float | None, options.shift(_PLANS)] = None,
    eta: Annotated[float | None, options.eta(_PLANS)] = None,
    variance: Annotated[str | None, options.variance(_PLANS)] = None,
    order: Annotated[int | None, options.order(_PLANS)] = None,
    clip: Annotated[float | None, options.clip(_PLANS)] = None,
    raw_noise: Annotated[bool | None, options.raw_noise(_PLANS)] = None,
    sigma_min: Annotated[
        float | None,
        typer.Option(help="Least noise level of the schedules.", show_default="the model's", rich_help_panel=_PLANS),
    ] = None,
    sigma_max: Annotated[
        float | None,
        typer.Option(help="Largest noise level of them.", show_default="the model's", rich_help_panel=_PLANS),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Nodes per sample and call, at most, for hosts that do not pick them as sample does.",
            show_default="64",
            rich_help_panel=_PLANS,
        ),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Tolerance of parallel sampling.", show_default="0.001", rich_help_panel=_PLANS)
    ] = None,
    graph: Annotated[
        list[Path] | None,
        typer.Option(help="A further ONNX graph of the model to ship, such as sampler.onnx.", show_default="none"),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="An ONNX graph that makes the model's conditions, once a sample.", show_default="none"),
    ] = None,
    decoder: Annotated[
        Path | None,
        typer.Option(help="An ONNX graph that makes of a sample what a host wants.", show_default="none"),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Run each plan in sequence and in parallel and compare, before the bundle is put in place.",
            rich_help_panel=_CHECK,
        ),
    ] = True,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="A model that the engine must agree with: model.pt.", show_default="none", rich_help_panel=_CHECK
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="the runtime's choice", rich_help_panel=_CHECK)
    ] = None,
    trust: Annotated[bool, options.trust(_CHECK, what="a reference")] = False,
    shape: options.Shape = None,
    sigma_data: options.SigmaData = None,
    num_classes: options.NumClasses = None,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Put an engine, its plans and what a host must know into one folder, with a digest of every file.

    Example:  ncdeploy bundle model.onnx --solver ddim,ddpm --steps 100,1000 -o bundle/
    """
    from ncdeploy.bundle.writer import WINDOW, engine_info, make_bundle
    from ncdeploy.sampling.parallel import TOLERANCE

    claim(output, force=force, source=engine)
    described = describe(
        engine, shape=shape, sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data, num_classes=num_classes
    )
    if described is not None:
        sigma_min = sigma_max = None  # they describe the model, whose range is the default of the schedule
    info = engine_info(engine, described)
    of_plans = {
        "schedule": schedule, "spacing": spacing, "shift": shift, "eta": eta, "variance": variance, "order": order,
        "clip": clip, "raw_noise": raw_noise, "sigma_min": sigma_min, "sigma_max": sigma_max,
    }  # fmt: skip
    plans = _choose_plans(info, options.split(solver), options.counts("--steps", steps), of_plans)
    with console.progress("opening the engine") as bar:
        made = make_bundle(
            engine,
            output,
            plans=plans,
            window=WINDOW if window is None else window,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            info=described,
            graphs=graph or (),
            encoder=encoder,
            decoder=decoder,
            verify=verify,
            reference=reference,
            threads=threads,
            allow_module=trust,
            force=force,
            on_stage=bar.stage,
        )
    if as_json:
        console.print_json(
            {"output": str(output), "bytes": made.size, "plans": list(made.plans), "parity": made.parity}
        )
        return
    _say(made, output)


def _choose_plans(info: "ModelInfo", solvers: list[str], steps: list[int], common: dict[str, Any]) -> "list[Plan]":
    """One plan for each pair of solver and steps, or the model's own."""
    from ncdeploy.errors import InputError

    if len(steps) != len(solvers):
        raise InputError(
            f"got {len(solvers)} --solver and {len(steps)} --steps; "
            "give as many of both, for example --solver ddim,ddpm --steps 100,1000"
        )
    if not solvers:
        return [info.plan(**common)]
    return choose_plans(info, list(zip(solvers, steps, strict=True)), **common)


def _say(made: "Bundle", output: Path) -> None:
    out = console.stdout()
    out.print(f"{output}: {made.size / 1e6:.2f} MB, {made.engine.name}, plans {', '.join(made.plans)}")
    if made.parity is None:
        out.print("nothing was compared")
        return
    for name, plan in made.parity["plans"].items():
        calls = f"{plan['parallel_calls']} network calls instead of {plan['sequential_calls']}"
        out.print(f"{name}: window {plan['window']}, {calls}, median rms to sequential {plan['median_rms']:.1e}")
    if "reference" in made.parity:
        out.print(f"agrees with the reference: {made.parity['reference']['summary']}")
