"""`ncdeploy sample`: draw samples from a model file, one network call after another or in parallel."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console
from ncdeploy_cli.choices import (
    DEFAULT_WINDOW,
    Execution,
    check_guidance,
    choose_classes,
    choose_plan,
    describe,
    outside_training,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.sampling.plan import Plan
    from ncdeploy.sampling.result import Result, Sweep

_PLAN, _RUN, _FILE = "Which samples", "How they are computed", "A file that does not describe its model"


def sample(
    engine: Annotated[Path, typer.Option("--engine", "-e", help="Model to run: model.onnx or model.pt.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A .png (grid, or plot of 2-D data), .npz, .npy, or a folder of PNGs: no suffix, or ending in /.",
            show_default="samples.png, or samples.npz",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.", rich_help_panel=_PLAN)] = 64,
    seed: Annotated[
        int, typer.Option(min=0, help="Sample i starts from seed + i, whatever the batch.", rich_help_panel=_PLAN)
    ] = 0,
    labels: Annotated[
        str | None,
        typer.Option(
            help='Classes, repeated to fill n: "3,3,7", "all" or "none".',
            show_default="none",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Weight of classifier-free guidance towards --labels: 1 is none, 1.5 a little.",
            show_default="none",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="ddpm, ddim, euler, heun, dpmpp_2m, dpmpp_2m_sde, unipc or ipndm.",
            show_default="the model's own",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the solver.", show_default="the model's own", rich_help_panel=_PLAN)
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Noise levels: karras, exponential, ddpm or cosine.",
            show_default="the solver's usual",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(help="Noise of ddim, 0 (none) to 1.", show_default="0", rich_help_panel=_PLAN),
    ] = None,
    sigma_min: Annotated[
        float | None,
        typer.Option(help="Least noise level of the schedule.", show_default="the model's", rich_help_panel=_PLAN),
    ] = None,
    sigma_max: Annotated[
        float | None,
        typer.Option(help="Largest noise level of it.", show_default="the model's", rich_help_panel=_PLAN),
    ] = None,
    parallel: Annotated[
        bool | None,
        typer.Option(
            "--parallel/--sequential",
            help="Many nodes of the plan in one network call, or one after another.",
            show_default="sequential",
            rich_help_panel=_RUN,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Nodes per sample and call; implies --parallel.",
            show_default=f"{DEFAULT_WINDOW}, or all",
            rich_help_panel=_RUN,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Change, relative to the noise level, at which a node is done; 0 gives the sequential samples.",
            show_default="0.001",
            rich_help_panel=_RUN,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Most rows in one network call.", show_default="by sample size", rich_help_panel=_RUN),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", rich_help_panel=_RUN)] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="the runtime's choice", rich_help_panel=_RUN)
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run the Python code that a model imported from module:function names.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    shape: Annotated[
        str | None,
        typer.Option(help='Shape of a sample, "3,64,64".', show_default="the graph's", rich_help_panel=_FILE),
    ] = None,
    sigma_data: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the training data; give --sigma-min and --sigma-max too.", rich_help_panel=_FILE
        ),
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Number of classes.", rich_help_panel=_FILE)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Draw samples, in sequence or in [bold]parallel[/bold], and say what it cost.

    Example:  ncdeploy sample --engine model.onnx --parallel -n 64 -o samples.png
    """
    from ncdeploy.backends import open_engine
    from ncdeploy.drawing import images
    from ncdeploy.sampling.sample import TOLERANCE
    from ncdeploy.sampling.sample import sample as run_plan

    described = describe(
        engine, shape=shape, sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data, num_classes=num_classes
    )
    if described is not None:
        sigma_min = sigma_max = None  # they describe the model, whose range is the default of the schedule
    backend = open_engine(engine, device=device, threads=threads, info=described, allow_module=trust)
    info = backend.info
    output = output or ("samples.png" if len(info.shape) == 3 or info.shape == (2,) else "samples.npz")
    images.check_output(output, info)
    check_guidance(guidance, labels, info)
    classes = choose_classes(labels, n, info)
    plan = choose_plan(
        info, solver=solver, steps=steps, schedule=schedule, eta=eta, sigma_min=sigma_min, sigma_max=sigma_max
    )
    how = Execution.choose(
        plan, info, parallel=parallel, window=window, tolerance=tolerance, batch=batch, guided=guidance is not None
    )
    warning = outside_training(plan, info)
    if warning:
        console.warn(warning)

    with console.progress(plan.name, n * len(plan), "nodes") as bar:

        def show(sweep: "Sweep") -> None:
            bar.update(bar.task_ids[0], completed=int(sweep.accepted.sum()), note=f"{sweep.calls} network calls")

        result = run_plan(
            backend, plan, shape=info.shape, seeds=range(seed, seed + n),
            labels=None if classes is None else classes.tolist(), guidance=guidance, window=how.window,
            tolerance=TOLERANCE if tolerance is None else tolerance, error_curve=info.error_curve,
            max_rows=how.rows, on_sweep=show,
        )  # fmt: skip
    backend.close()
    images.save_samples(output, result.samples, info, labels=classes)
    if json:
        console.print_json({**_record(result, plan, how, n, output), "guidance": guidance})
    else:
        console.stdout().print(_summary(result, plan, how, n))
        console.stdout().print(f"wrote {output}")


def _record(result: "Result", plan: "Plan", how: Execution, n: int, output: str) -> dict[str, Any]:
    """What --json prints; sweeps are a mean over samples, residual the largest of them."""
    name, _, steps = plan.name.rpartition("-")
    return {
        "n": n,
        "solver": name,
        "steps": int(steps),
        "window": how.window,
        "depth": result.depth,
        "nfe": result.nfe,
        "sweeps": float(result.sweeps.mean()),
        "residual": float(result.residual.max()),
        "wall_s": result.wall_s,
        "engine_s": result.engine_s,
        "sequential_depth": how.sequential_depth(plan, n),
        "sequential_nfe": how.sequential_nfe(plan),
        "output": output,
    }


def _summary(result: "Result", plan: "Plan", how: Execution, n: int) -> "Table":
    from rich.table import Table

    mode = "sequential" if how.window is None else f"parallel, window {how.window}"
    table = Table(box=None, title=f"{n} samples, {plan.name}, {mode}", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("this run", justify="right")
    rows = [
        ("depth", f"{result.depth}", f"{how.sequential_depth(plan, n)}", "network calls, one after another"),
        ("NFE", f"{result.nfe:.1f}", f"{how.sequential_nfe(plan)}", "evaluations per sample"),
        ("wall time", console.duration(result.wall_s), "", f"{console.duration(result.engine_s)} of it in the network"),
    ]
    if how.window is None:
        for name, this, _, note in rows:
            table.add_row(name, this, note)
        return table
    table.add_column("sequential", justify="right")
    residual = ("residual", f"{result.residual.max():.1e}", "", "largest accepted, relative to the noise level")
    for row in [*rows, residual]:
        table.add_row(*row)
    return table
