"""`ncdeploy bundle`: an engine and its plans as one folder that is shipped."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.choices import describe

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
            help="Solver of a plan; repeat it, each with its --steps. The first is the default.",
            show_default="the model's own",
            rich_help_panel=_PLANS,
        ),
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(help="Steps of the solver before it.", rich_help_panel=_PLANS)
    ] = None,
    schedule: Annotated[str | None, options.schedule(_PLANS)] = None,
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
        float | None, typer.Option(help="Of parallel sampling.", show_default="0.001", rich_help_panel=_PLANS)
    ] = None,
    graph: Annotated[
        list[Path] | None,
        typer.Option(help="A further ONNX graph of the model to ship, such as sampler.onnx.", show_default="none"),
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
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put an engine, its plans and what a host must know into one folder, with a digest of every file.

    Example:  ncdeploy bundle model.onnx --solver ddim --steps 100 --solver ddpm --steps 1000 -o bundle/
    """
    from ncdeploy.bundle.writer import WINDOW, engine_info, make_bundle
    from ncdeploy.sampling.parallel import TOLERANCE

    described = describe(
        engine, shape=shape, sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data, num_classes=num_classes
    )
    if described is not None:
        sigma_min = sigma_max = None  # they describe the model, whose range is the default of the schedule
    info = engine_info(engine, described)
    plans = _choose_plans(info, solver, steps, {"schedule": schedule, "sigma_min": sigma_min, "sigma_max": sigma_max})
    with console.stderr().status("opening the engine") as status:
        made = make_bundle(
            engine,
            output,
            plans=plans,
            window=WINDOW if window is None else window,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            info=described,
            graphs=graph or (),
            verify=verify,
            reference=reference,
            threads=threads,
            allow_module=trust,
            force=force,
            on_stage=status.update,
        )
    if as_json:
        console.print_json(
            {"output": str(output), "bytes": made.size, "plans": list(made.plans), "parity": made.parity}
        )
        return
    _say(made, output)


def _choose_plans(
    info: "ModelInfo", solvers: list[str] | None, steps: list[int] | None, common: dict[str, Any]
) -> "list[Plan]":
    """One plan for each pair of solver and steps, or the model's own."""
    from ncdeploy.errors import InputError

    if len(steps or ()) != len(solvers or ()):
        raise InputError(
            f"got {len(solvers or ())} --solver and {len(steps or ())} --steps; "
            "give them in pairs, for example --solver ddim --steps 100 --solver ddpm --steps 1000"
        )
    if not solvers or not steps:
        return [info.plan(**common)]
    return [info.plan(name, count, **common) for name, count in zip(solvers, steps, strict=True)]


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
