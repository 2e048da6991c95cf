"""`ncdeploy bench`: solvers, steps and drivers side by side on an engine, and which to take."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.choices import BATCH_VALUES, choose_classes
from ncdeploy_cli.tune import tuned

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.evaluation.bench import Bench, Row
    from ncdeploy.evaluation.recommend import Recommendation
    from ncdeploy.run import Window

_WHAT, _EFFORT, _WANTED, _RUN = "What is compared", "Effort", "What is wanted", "How it is run"
_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0}


def bench(
    engine: Annotated[Path, typer.Argument(help="model.onnx, model.pt or a bundle.", show_default=False)],
    solvers: Annotated[
        str,
        typer.Option(help=f"Any of {options.SOLVERS}.", rich_help_panel=_WHAT),
    ] = "dpmpp_2m,unipc,heun,ddim",
    steps: Annotated[str, typer.Option(help="Of every solver.", rich_help_panel=_WHAT)] = "8,15,30",
    windows: Annotated[
        str,
        typer.Option(
            help="Of parallel sampling, beside sequential sampling; none leaves it out.", rich_help_panel=_WHAT
        ),
    ] = "16,auto",
    tolerance: Annotated[
        float | None, typer.Option(help="Of parallel sampling.", show_default="0.001", rich_help_panel=_WHAT)
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
        int,
        typer.Option(
            "--samples", min=1, help="Samples whose fidelity and quality is measured.", rich_help_panel=_EFFORT
        ),
    ] = 32,
    quality: Annotated[
        float | None, typer.Option(help="Recommend the fastest that is at least this good.", rich_help_panel=_WANTED)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help='Recommend the best that takes at most this: "200ms", "1.5s".', rich_help_panel=_WANTED),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A chart, .svg or .png.", rich_help_panel=_WANTED)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help='Classes: "3,3,7", "all" or "none".', show_default="none", rich_help_panel=_RUN),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Most rows in one network call.", show_default="by sample size", rich_help_panel=_RUN),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or cuda:N; for a .onnx also tensorrt, ONNX Runtime's.", rich_help_panel=_RUN)
    ] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="the runtime's choice", rich_help_panel=_RUN)
    ] = None,
    trust: Annotated[bool, options.trust(_RUN)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Measure solvers, steps and drivers side by side, and recommend one.

    Quality is the energy distance to --data; without data the distance to a fine solution of the same ODE from the
    same noise.

    Example:  ncdeploy bench model.onnx --budget 200ms -o chart.svg
    """
    from ncdeploy.backends import open_engine
    from ncdeploy.errors import InputError
    from ncdeploy.evaluation.bench import bench as measure
    from ncdeploy.evaluation.bench import runs_of
    from ncdeploy.evaluation.bench_chart import check_output, write_chart
    from ncdeploy.evaluation.recommend import check_targets, recommend
    from ncdeploy.files import check_writable
    from ncdeploy.sampling.parallel import TOLERANCE

    budget_s = None if budget is None else _seconds(budget)
    check_targets(quality=quality, budget_s=budget_s)
    counts, widths = _numbers("--steps", steps), _windows(windows)
    if output is not None:
        check_output(output)
        check_writable(output)
    if tolerance is not None and not widths:
        raise InputError("--tolerance: is of parallel sampling, which --windows none leaves out; leave it out too")
    backend = open_engine(engine, device=device, threads=threads, allow_module=trust)
    info = backend.info
    plans = [(name, k, info.plan(name, k)) for name in _names(solvers) for k in counts]
    if data is None and all(plan.stochastic for _, _, plan in plans):
        for option, value in (("--quality", quality), ("--budget", budget), ("--output", output)):
            if value is not None:
                raise InputError(f"{option}: solvers that draw noise are judged by data only; add --data, or a solver")
    classes = choose_classes(labels, max(n, judged), info)
    real = None if data is None else _real(data, info.shape)

    rows = max(BATCH_VALUES // info.dim, 1) if batch is None else batch
    latency = tuned(engine, backend, rows, threads) if "auto" in widths else None
    total = runs_of(plans, widths, repetitions, data=real is not None)
    with console.progress("measuring", total, "runs") as bar:
        found = measure(
            backend, plans, widths, n=n, repetitions=repetitions, judged=judged,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            labels=None if classes is None else classes.tolist(), data=real, latency=latency, max_rows=rows,
            on_run=lambda name: bar.update(bar.task_ids[0], advance=1, note=name),
        )  # fmt: skip
    backend.close()
    advice = recommend(found.rows, quality=quality, budget_s=budget_s, floor=found.floor)
    asked = {
        "--tolerance": None if advice is None or advice.row.window is None else tolerance, "--labels": labels,
        "--batch": batch, "--device": None if device == "cpu" else device, "--threads": threads,
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
    out.print(_table(found, advice))
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


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def _numbers(option: str, text: str) -> list[int]:
    from ncdeploy.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f'{option} {text}: expected numbers of at least 1, like "8,32"')
    return sorted({int(part) for part in parts})


def _windows(text: str) -> "list[Window]":
    from ncdeploy.errors import InputError

    parts = _names(text)
    if parts == ["none"]:
        return []
    fixed = [part for part in parts if part != "auto"]
    if not all(part.isdecimal() and int(part) > 0 for part in fixed):
        raise InputError(f'--windows {text}: expected numbers of at least 1 and auto, like "16,auto", or none alone')
    widths: list[Window] = [*sorted({int(part) for part in fixed})]
    return [*widths, "auto"] if "auto" in parts else widths


def _seconds(text: str) -> float:
    from ncdeploy.errors import InputError

    number = text.strip().rstrip("msin")
    unit = text.strip()[len(number) :]
    try:
        return float(number) * _UNITS[unit]
    except (KeyError, ValueError) as e:
        raise InputError(f'--budget {text}: expected a time with its unit, "200ms", "1.5s" or "2min"') from e


def _command(engine: Path, n: int, row: "Row", asked: dict[str, Any], *, trust: bool) -> str:
    """What to type for a row."""
    words = ["ncdeploy", "sample", "--engine", str(engine), "-n", n, "--solver", row.solver, "--steps", row.steps]
    words += ["--sequential"] if row.window is None else ["--window", row.window]
    for option, value in asked.items():
        words += [] if value is None else [option, value]
    return shlex.join(map(str, [*words, *(["--trust"] if trust else [])]))


def _record(advice: "Recommendation | None", command: str | None) -> dict[str, Any] | None:
    if advice is None:
        return None
    row = advice.row
    return {
        "solver": row.solver, "steps": row.steps, "window": row.window, "quality": row.quality, "wall_s": row.wall_s,
        "met": advice.met, "reason": advice.reason, "command": command,
    }  # fmt: skip


def _label(row: "Row") -> str:
    if row.window is None:
        return row.plan
    if row.window != "auto":
        return f" {row.driver}"
    return " auto: sequential" if row.ran is None else f" auto: window {row.ran}"


def _table(found: "Bench", advice: "Recommendation | None") -> "Table":
    from rich import box
    from rich.table import Table

    caption = f"quality of {console.samples(found.judged)}, lower is better: {found.measure}"
    if any(row.window is not None for row in found.rows):
        caption = (
            f"gain: sequential time over this one's; rms: to the sequential samples, and share beyond 0.01\n{caption}"
        )
    if found.floor is not None:
        caption += f"; of real data {found.floor:.3g}"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left",
        title=f"{found.engine}, {console.samples(found.n)} at once, median of {found.repetitions} runs",
        title_style="bold", caption=caption, caption_style="",
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    for name in ("depth", "NFE", "time", "gain", "rms", ">0.01", "quality"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        gain, low, high = row.gain
        table.add_row(
            _label(row),
            f"{row.depth:.0f}",
            f"{row.nfe:.0f}",
            console.duration(row.wall_s),
            "" if row.window is None else f"{gain:.2f} ({low:.2f}–{high:.2f})",
            "" if row.rms is None else f"{row.rms:.0e}" if row.rms else "0",
            "" if row.beyond is None else f"{row.beyond:.0%}",
            "–" if row.quality is None else f"{row.quality:.3g}",
            style="bold" if advice is not None and row is advice.row else None,
        )
    return table
