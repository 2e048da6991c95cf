"""`ncdeploy sample`: draw samples from a model file, one network call after another or in parallel."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.choices import (
    Execution,
    check_guidance,
    choose_classes,
    choose_conditions,
    choose_run,
    describe,
    parse_window,
)
from ncdeploy_cli.outputs import Force, claim_samples
from ncdeploy_cli.sample_report import report
from ncdeploy_cli.sample_shards import claim_shards, sample_shards
from ncdeploy_cli.tune import tuned

if TYPE_CHECKING:
    from ncdeploy.result import Result
    from ncdeploy.sampling.result import Sweep

_PLAN, _RUN, _BULK = "Which samples", "How they are computed", "Very many samples"


def sample(
    model: Annotated[
        Path | None,
        typer.Argument(help="Model to run: model.onnx, model.pt, model.plan or a bundle.", show_default=False),
    ] = None,
    engine: Annotated[Path | None, typer.Option("--engine", "-e", help="The same, as an option.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A .png (grid, or plot of 2-D data), .npz, .npy, .csv, or a folder of PNGs: a name without suffix.",
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
    condition: Annotated[list[str] | None, options.condition(_PLAN)] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Weight of classifier-free guidance towards --labels and --condition: 1 is none, 1.5 a little.",
            show_default="none",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    plan_name: Annotated[
        str | None,
        typer.Option("--plan", help="A plan of the bundle.", show_default="its first", rich_help_panel=_PLAN),
    ] = None,
    solver: Annotated[str | None, options.solver(_PLAN)] = None,
    steps: Annotated[int | None, options.steps(_PLAN)] = None,
    schedule: Annotated[str | None, options.schedule(_PLAN)] = None,
    spacing: Annotated[str | None, options.spacing(_PLAN)] = None,
    shift: Annotated[float | None, options.shift(_PLAN)] = None,
    eta: Annotated[float | None, options.eta(_PLAN)] = None,
    variance: Annotated[str | None, options.variance(_PLAN)] = None,
    order: Annotated[int | None, options.order(_PLAN)] = None,
    clip: Annotated[float | None, options.clip(_PLAN)] = None,
    raw_noise: Annotated[bool | None, options.raw_noise(_PLAN)] = None,
    churn: Annotated[float | None, options.churn(_PLAN)] = None,
    churn_noise: Annotated[
        float | None,
        typer.Option(help="S_noise: that noise, times this.", show_default="1", rich_help_panel=_PLAN),
    ] = None,
    churn_min: Annotated[
        float | None,
        typer.Option(help="S_min: least noise level that it is added at.", show_default="0", rich_help_panel=_PLAN),
    ] = None,
    churn_max: Annotated[
        float | None,
        typer.Option(help="S_max: largest such level.", show_default="any", rich_help_panel=_PLAN),
    ] = None,
    sigma_min: Annotated[
        float | None,
        typer.Option(help="Least noise level of the schedule.", show_default="the model's", rich_help_panel=_PLAN),
    ] = None,
    sigma_max: Annotated[
        float | None,
        typer.Option(help="Largest noise level of the schedule.", show_default="the model's", rich_help_panel=_PLAN),
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
        str | None,
        typer.Option(
            help="Nodes per sample and call, or auto: what is fastest here, sequential included. Implies --parallel.",
            show_default="auto",
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
    accept: Annotated[
        str,
        typer.Option(
            help="Of --parallel: pathwise, the samples that --sequential draws, to the tolerance; or law, samples of "
            "exactly the same distribution, in fewer calls, for plans that add noise.",
            rich_help_panel=_RUN,
        ),
    ] = "pathwise",
    deadline: Annotated[
        str | None,
        typer.Option(
            help='End by then with what is known, "20ms": the time of sampling alone, without opening the model.',
            show_default="none",
            rich_help_panel=_RUN,
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="Most rows in one network call.", show_default="by sample size", rich_help_panel=_RUN),
    ] = None,
    device: Annotated[str, options.device(_RUN)] = "cpu",
    mode: Annotated[
        str | None,
        typer.Option(
            help="eager, compile or graphs (CUDA graphs) for a model.pt; graphs or eager for a .plan.",
            show_default="eager; graphs",
            rich_help_panel=_RUN,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="the runtime's choice", rich_help_panel=_RUN)
    ] = None,
    trust: Annotated[bool, options.trust(_RUN)] = False,
    shard: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write .npz files of so many samples into the folder --output. The same command goes on with what "
            "is missing there.",
            show_default="with --ray, what calls hold, 1024 or more",
            rich_help_panel=_BULK,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Draw shards by workers of Ray: local starts them here, auto takes the cluster of this machine, or "
            "HOST:PORT. Each has --threads, or 1.",
            show_default="none",
            rich_help_panel=_BULK,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of --ray: most shards at once.", show_default="all there is room for", rich_help_panel=_BULK
        ),
    ] = None,
    shape: options.Shape = None,
    sigma_data: options.SigmaData = None,
    num_classes: options.NumClasses = None,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Draw samples, in sequence or in [bold]parallel[/bold], and say what it cost.

    Example:  ncdeploy sample model.onnx --parallel -n 64 -o samples.png
    """
    from ncdeploy.backends import open_engine
    from ncdeploy.backends.graphs.run import is_graph
    from ncdeploy.backends.memory import halve_until_it_fits
    from ncdeploy.bundle import open_bundle
    from ncdeploy.errors import InputError
    from ncdeploy.formats.filetype import is_bundle
    from ncdeploy.report.samples import check_output, default_output
    from ncdeploy.run import SampleOptions
    from ncdeploy.run import sample as run_plan
    from ncdeploy.sampling.law import check_law
    from ncdeploy.sampling.parallel import TOLERANCE

    if (model is None) == (engine is None):
        raise InputError("which model? name one, once: ncdeploy sample model.onnx")
    path: Path = model or engine  # type: ignore[assignment]
    if accept not in ("pathwise", "law"):
        raise InputError(f"--accept {accept}: expected pathwise or law")
    if accept == "law" and tolerance is not None:
        raise InputError("--tolerance: acceptance in law has none, it is exact; leave it out, or --accept")
    until = None if deadline is None else options.seconds("--deadline", deadline)
    if bulk := not (shard is None and ray is None and workers is None):
        output = claim_shards(output, ray=ray, workers=workers, device=device, deadline=deadline)
    elif output is not None:
        claim_samples(output, force=force)
    of_plan = {
        "solver": solver, "steps": steps, "schedule": schedule, "spacing": spacing, "shift": shift, "eta": eta,
        "variance": variance, "order": order, "churn": churn, "churn_noise": churn_noise, "churn_min": churn_min,
        "churn_max": churn_max, "clip": clip, "raw_noise": raw_noise, "sigma_min": sigma_min, "sigma_max": sigma_max,
    }  # fmt: skip
    if is_graph(path):
        from ncdeploy_cli.sample_graph import sample_graph

        result, plan, how, output = sample_graph(
            path, output=output, n=n, seed=seed, labels=labels, guidance=guidance, condition=condition or (),
            tolerance=tolerance, rows=rows, device=device, threads=threads, force=force, plan=of_plan,
            without={"plan": plan_name, "window": window, "sequential": True if parallel is False else None,
                     "shape": shape, "sigma_data": sigma_data, "num_classes": num_classes, "mode": mode,
                     "deadline": deadline, "shard": shard, "ray": ray},
            in_law=accept == "law",
        )  # fmt: skip
        report(result, plan, how, n, output, guidance, as_json)
        return
    described = describe(
        path, shape=shape, sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data, num_classes=num_classes
    )
    if described is not None:
        of_plan["sigma_min"] = of_plan["sigma_max"] = (
            None  # they describe the model, whose range is the default of the schedule
        )
    bundle = open_bundle(path) if is_bundle(path) else None
    backend = open_engine(bundle or path, device=device, threads=threads, info=described, allow_module=trust, mode=mode)
    info = backend.info
    rows = getattr(backend, "max_rows", None) if rows is None else rows  # an engine's own limit
    shown = info if backend.decoder is None else info.decoded(backend.decoder.part.outputs[0].shape)
    if output is None:
        output = claim_samples(default_output(shown), force=force)
    if not bulk:
        check_output(output, shown)
    check_guidance(guidance, labels, info)
    classes = choose_classes(labels, n, info)
    plan, width, tolerance = choose_run(
        bundle, info, plan_name, parallel=parallel, window=parse_window(window), tolerance=tolerance, **of_plan
    )  # fmt: skip
    if accept == "law":
        check_law(plan)
        if parallel is False:
            raise InputError("--accept law: is of parallel sampling; give --parallel, or leave it out")
        parallel = True
    how = Execution.choose(
        plan, info, parallel=parallel, window=width, tolerance=tolerance, rows=rows, guided=guidance is not None
    )

    if bulk:
        sample_shards(
            path, backend, plan, how, output=output, n=n, seed=seed, shard=shard, ray=ray, workers=workers,
            labels=classes, condition=condition or (), guidance=guidance, accept=accept,
            device=device, mode=mode, threads=threads, trust=trust, described=described, force=force, as_json=as_json,
        )  # fmt: skip
        return
    conditions = {"labels": classes, **choose_conditions(condition, backend, n)}
    latency = tuned(path, backend, how.rows, threads) if how.window == "auto" else None
    with console.progress(plan.name, n * len(plan), "nodes") as bar:

        def show(sweep: "Sweep") -> None:
            bar.update(int(sweep.accepted.sum()), note=f"{sweep.calls} network calls")

        def attempt(window: Any, rows: int) -> "Result":
            return run_plan(
                backend, plan, seeds=range(seed, seed + n),
                conditions=conditions, window=window,
                tolerance=TOLERANCE if tolerance is None else tolerance,
                options=SampleOptions(
                    guidance=guidance, latency=latency, max_rows=rows, on_sweep=show,
                    like=None if accept == "law" else backend.like, acceptance=accept, deadline=until,  # type: ignore[arg-type]
                ),
            )  # fmt: skip

        result = halve_until_it_fits(
            attempt, window=how.window, samples=n, rows=how.rows, per_node=how.per_node, say=console.warn
        )
    backend.close()
    result.save(output)
    report(result, plan, how, n, output, guidance, as_json)
