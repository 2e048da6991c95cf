"""`ncdeploy bench`: solvers, steps and drivers side by side on an engine, and which to take."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.bench_deadline import cut_short
from ncdeploy_cli.bench_table import table
from ncdeploy_cli.choices import BATCH_VALUES, choose_classes, choose_conditions, choose_plans
from ncdeploy_cli.outputs import Force, claim
from ncdeploy_cli.tune import tuned

if TYPE_CHECKING:
    from ncdeploy.evaluation.bench import Row
    from ncdeploy.evaluation.recommend import Recommendation
    from ncdeploy.run import Window

_WHAT, _EFFORT, _WANTED, _RUN = "What is compared", "Effort", "What is wanted", "How it is run"
_SOLVERS, _STEPS, _WINDOWS = "dpmpp_2m,unipc,heun,ddim", "8,15,30", "16,auto"


def bench(
    engine: Annotated[Path, typer.Argument(help="model.onnx, model.pt or a bundle.", show_default=False)],
    solver: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Solvers, with commas between: {options.SOLVERS}.", show_default=_SOLVERS, rich_help_panel=_WHAT
        ),
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(help="Steps, each with every solver.", show_default=_STEPS, rich_help_panel=_WHAT),
    ] = None,
    spacing: Annotated[str | None, options.spacing(_WHAT)] = None,
    shift: Annotated[float | None, options.shift(_WHAT)] = None,
    eta: Annotated[float | None, options.eta(_WHAT)] = None,
    variance: Annotated[str | None, options.variance(_WHAT)] = None,
    churn: Annotated[float | None, options.churn(_WHAT)] = None,
    order: Annotated[int | None, options.order(_WHAT)] = None,
    clip: Annotated[float | None, options.clip(_WHAT)] = None,
    raw_noise: Annotated[bool | None, options.raw_noise(_WHAT)] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="Windows of parallel sampling, beside sequential sampling; none leaves it out.",
            show_default=_WINDOWS,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Tolerance of parallel sampling.", show_default="0.001", rich_help_panel=_WHAT)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="What samples should look like: digits, moons, ..., a .csv, .npy, .npz, or a folder.",
            show_default="judged by a fine solution of the ODE",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Samples of a timed run.", rich_help_panel=_EFFORT)] = 1,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Timed runs, the median of which counts.", rich_help_panel=_EFFORT)
    ] = 5,
    judged: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=2,
            help="Samples whose fidelity and quality is measured.",
            show_default="32, or 256 with --data",
            rich_help_panel=_EFFORT,
        ),
    ] = None,
    quality: Annotated[
        float | None, typer.Option(help="Recommend the fastest that is at least this good.", rich_help_panel=_WANTED)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help='Recommend the best that takes at most this: "200ms", "1.5s".', rich_help_panel=_WANTED),
    ] = None,
    deadline: Annotated[
        list[str] | None,
        typer.Option(
            help='Instead, cut the runs short: "20ms,50ms,0.1s", and say how far their samples are from whole ones.',
            show_default=False,
            rich_help_panel=_WANTED,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A chart, .svg or .png.", rich_help_panel=_WANTED)
    ] = None,
    condition: Annotated[list[str] | None, options.condition()] = None,
    labels: Annotated[
        str | None,
        typer.Option(help='Classes: "3,3,7", "all" or "none".', show_default="none", rich_help_panel=_RUN),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Most rows in one network call.", show_default="by sample size", rich_help_panel=_RUN),
    ] = None,
    device: Annotated[str, options.device(_RUN)] = "cpu",
    threads: Annotated[int | None, options.threads(_RUN)] = None,
    trust: Annotated[bool, options.trust(_RUN)] = False,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure solvers, steps and drivers side by side, and recommend one.

    Quality is the energy distance to --data; without data the distance to a fine solution of the same ODE from the
    same noise.

    Examples:
      ncdeploy bench model.onnx --budget 200ms -o chart.svg
      ncdeploy bench model.onnx --solver ddim --steps 50 --window 16 --deadline 20ms,50ms,100ms -o deadlines.svg
    """
    from ncdeploy.backends import open_engine
    from ncdeploy.errors import InputError
    from ncdeploy.evaluation.bench import JUDGED, JUDGED_BY_DATA, runs_of
    from ncdeploy.evaluation.bench import bench as measure
    from ncdeploy.evaluation.bench_chart import SUFFIXES, check_output, write_chart
    from ncdeploy.evaluation.recommend import check_targets, recommend
    from ncdeploy.sampling.parallel import TOLERANCE

    budget_s = None if budget is None else options.seconds("--budget", budget)
    check_targets(quality=quality, budget_s=budget_s)
    limits = [] if deadline is None else [options.seconds("--deadline", part) for part in options.split(deadline)]
    judging = {"--data": data, "--quality": quality, "--budget": budget, "--samples": judged}
    for option, given in judging.items():
        if limits and given is not None:
            raise InputError(f"{option}: is of whole runs; leave it out, or --deadline")
    if output is not None:
        claim(output, *SUFFIXES, force=force)
        check_output(output)
    counts = sorted(set(options.counts("--steps", steps or [_STEPS])))
    names, widths = list(dict.fromkeys(options.split(solver or [_SOLVERS]))), _windows(window or [_WINDOWS])
    if tolerance is not None and not widths:
        raise InputError("--tolerance: is of parallel sampling, which --window none leaves out; leave it out too")
    backend = open_engine(engine, device=device, threads=threads, allow_module=trust)
    info = backend.info
    of_solvers = {
        "spacing": spacing, "shift": shift, "eta": eta, "variance": variance, "order": order, "churn": churn,
        "clip": clip, "raw_noise": raw_noise,
    }  # fmt: skip
    pairs = [(name, k) for name in names for k in counts]
    plans = [(*pair, plan) for pair, plan in zip(pairs, choose_plans(info, pairs, **of_solvers), strict=True)]
    if data is None and not limits and all(plan.stochastic for _, _, plan in plans):
        for option, value in (("--quality", quality), ("--budget", budget), ("--output", output)):
            if value is not None:
                raise InputError(f"{option}: solvers that draw noise are judged by data only; add --data, or a solver")
    if judged is None:
        judged = n if limits else JUDGED if data is None else JUDGED_BY_DATA
    classes = choose_classes(labels, max(n, judged), info)
    conditions = choose_conditions(condition, backend, max(n, judged))
    real = None if data is None else _real(data, info.shape)

    most = max(BATCH_VALUES // info.dim, 1) if rows is None else rows
    latency = tuned(engine, backend, most, threads) if "auto" in widths else None
    if limits:
        cut_short(
            backend, [plan for _, _, plan in plans], widths, limits, n=n, repetitions=repetitions,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            own={**({} if classes is None else {"labels": classes}), **conditions},
            latency=latency, max_rows=most, output=output, as_json=as_json,
        )  # fmt: skip
        return
    total = runs_of(plans, widths, repetitions, data=real is not None)
    with console.progress("measuring", total, "runs") as bar:
        found = measure(
            backend, plans, widths, n=n, repetitions=repetitions, judged=judged,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            labels=None if classes is None else classes.tolist(), conditions=conditions,
            data=real, latency=latency, max_rows=most,
            on_run=lambda name: bar.update(more=1, note=name),
        )  # fmt: skip
    backend.close()
    advice = recommend(found.rows, quality=quality, budget_s=budget_s, floor=found.floor)
    asked = {
        **_own(advice, of_solvers),
        "--tolerance": None if advice is None or advice.row.window is None else tolerance, "--labels": labels,
        "--condition": condition, "--rows": rows,
        "--device": None if device == "cpu" else device, "--threads": threads,
    }  # fmt: skip
    command = None if advice is None else _command(engine, n, advice.row, asked, trust=trust)
    if output is not None:
        write_chart(
            output, found, title=f"{engine.name} on {found.engine}", pick=None if advice is None else advice.row
        )
    if as_json:
        console.print_json(
            {**found.figures(), "recommendation": _record(advice, command), "output": output and str(output)}
        )
        return
    out = console.stdout()
    out.print(table(found, advice))
    if advice is None:
        console.warn("no recommendation: solvers that draw noise are judged with --data only")
    elif not advice.met:
        console.warn(advice.reason)
    else:
        out.print(f"recommended, {advice.reason}:")
    if command is not None:
        out.print(command)
    if output is not None:
        out.print(f"wrote {output}")


def _real(data: str, shape: tuple[int, ...]) -> Any:
    """All samples of the data, in model units; pictures are brought to the model's size."""
    import numpy as np

    from ncdeploy.errors import InputError
    from ncdeploy.training.data import load_data

    size = shape[-1] if Path(data).is_dir() and len(shape) == 3 else None
    found = load_data(data, size=size)
    if found.shape != shape:
        raise InputError(f"--data {data}: its samples have shape {found.shape}; this model makes {shape}")
    return np.concatenate([found.x, found.held_out])


def _windows(texts: list[str]) -> "list[Window]":
    from ncdeploy.errors import InputError

    parts = options.split(texts)
    if parts == ["none"]:
        return []
    fixed = [part for part in parts if part != "auto"]
    if not all(part.isdecimal() and int(part) > 0 for part in fixed):
        raise InputError(
            f'--window {",".join(parts)}: expected numbers of at least 1 and auto, like "16,auto", or none alone'
        )
    widths: list[Window] = [*sorted({int(part) for part in fixed})]
    return [*widths, "auto"] if "auto" in parts else widths


def _own(advice: "Recommendation | None", given: dict[str, Any]) -> dict[str, Any]:
    """Of the options of solvers, those that the recommended one has."""
    from ncdeploy.sampling.recipe import SOLVER_OPTIONS

    having = () if advice is None else ("spacing", "shift", "clip", *SOLVER_OPTIONS[advice.row.solver])
    own = {f"--{name}": value for name, value in given.items() if name in having}
    raw = own.pop("--raw_noise", None)
    return own if raw is None else {**own, "--raw-noise" if raw else "--cut-noise": True}


def _command(engine: Path, n: int, row: "Row", asked: dict[str, Any], *, trust: bool) -> str:
    """What to type for a row."""
    words = ["ncdeploy", "sample", str(engine), "-n", n, "--solver", row.solver, "--steps", row.steps]
    words += ["--sequential"] if row.window is None else ["--window", row.window]
    for option, value in asked.items():
        values = value if isinstance(value, list) else [value]
        words += [word for each in values if each is not None for word in (option, each) if word is not True]
    return shlex.join(map(str, [*words, *(["--trust"] if trust else [])]))


def _record(advice: "Recommendation | None", command: str | None) -> dict[str, Any] | None:
    if advice is None:
        return None
    row = advice.row
    return {
        "solver": row.solver, "steps": row.steps, "window": row.window, "quality": row.quality,
        "quality_error": row.error, "wall_s": row.wall_s, "met": advice.met, "reason": advice.reason,
        "command": command,
    }  # fmt: skip
