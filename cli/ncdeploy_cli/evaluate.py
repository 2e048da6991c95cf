"""`ncdeploy evaluate`: how good are these models, and which is better?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.outputs import Force, claim

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.evaluation.evaluate import Evaluation


def _effort(text: str, default: str) -> Any:
    return typer.Option(help=text, show_default=default, rich_help_panel="Effort")


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(help="model.pt, model.onnx or a bundle, one or several.", show_default=False)
    ],
    data: Annotated[str, typer.Option(help="What `train` takes: a name, a table or a folder.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write an HTML page with plots here, for example models.html.")
    ] = None,
    force: Force = False,
    as_json: options.Json = False,
    contrast: Annotated[str | None, typer.Option(help="How noise is put on data: ve or vp.", show_default="ve")] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(help="Bandwidth of MMD's kernel, in model units.", show_default="median distance in the data"),
    ] = None,
    jitter: Annotated[
        float | None, typer.Option(help="Noise known to be on the data, in model units.", show_default="0")
    ] = None,
    points: Annotated[int | None, _effort("Held-out samples for likelihood and classification.", "32")] = None,
    samples: Annotated[int | None, _effort("Samples drawn in each way.", "128")] = None,
    steps: Annotated[int | None, _effort("Steps of the long DDPM plan.", "200")] = None,
    window: Annotated[int | None, _effort("Window of parallel sampling.", "64")] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="As `train` takes them: NAME, NAME=FILE.npy or NAME=FILE.npz:KEY, a row for each sample of the data.",
            show_default="arrays of those names in --data",
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Bring a folder of pictures to this many pixels a side.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split of the data and of all draws.")] = 0,
    device: Annotated[str, options.device()] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    trust: Annotated[bool, options.trust()] = False,
) -> None:
    """Measure likelihood, noise classification, denoising where parallel sampling asks, and sample quality.

    The seed splits the data as `train --seed` does, so held-out samples are those that training did not see.

    Example: [bold]ncdeploy evaluate plain.pt contrastive.pt --data digits -o models.html[/bold]
    """
    from ncdeploy.evaluation.evaluate import STAGES, Settings, check_fit
    from ncdeploy.evaluation.evaluate import evaluate as measure
    from ncdeploy.evaluation.page import page
    from ncdeploy.files import atomic_write
    from ncdeploy.report.pages import check_page
    from ncdeploy.training import load_data

    chosen: dict[str, Any] = {
        "contrast": contrast, "bandwidth": bandwidth, "jitter": jitter, "points": points, "samples": samples,
        "steps": steps, "window": window,
    }  # fmt: skip
    settings = Settings(seed=seed, **{name: value for name, value in chosen.items() if value is not None})
    if output is not None:
        claim(output, ".html", ".htm", force=force)
        check_page(output)
    from ncdeploy import open_engine

    found, engines = [], []
    opened = [open_engine(path, device=device, threads=threads, allow_module=trust) for path in models]
    taken = dict.fromkeys(c.name for engine in opened for c in engine.info.conditions)
    dataset = load_data(data, seed=seed, size=size, conditions=condition or list(taken))
    for name, engine in zip(_names(models), opened, strict=True):  # all of them, before minutes go into the first
        labels = dataset.held_out_labels if engine.info.num_classes else None
        others = set(taken) - {c.name for c in engine.info.conditions}
        given = {key: values for key, values in dataset.held_out_conditions.items() if key not in others}
        check_fit(engine.info, dataset.x, dataset.held_out, labels, given, name=name)
        engines.append((name, engine, labels, given))
    with console.progress("evaluating", len(models) * len(STAGES), "stages") as bar:
        for name, engine, labels, given in engines:
            for step in measure(
                engine, dataset.x, dataset.held_out, settings, name=name, labels=labels, conditions=given
            ):
                if isinstance(step, str):
                    bar.update(more=0 if step == STAGES[0] else 1, note=f"{name}: {step}")
                else:
                    bar.update(more=1)
                    found.append(step)
            engine.close()
    if output is not None:
        with atomic_write(output) as temporary:
            temporary.write_text(page(found, engine.info, data=dataset.name), encoding="utf-8")
    if as_json:
        console.print_json({"data": dataset.name, "models": [e.figures() for e in found]})
        return
    console.stdout().print(_table(found))
    if output is not None:
        console.stdout().print(f"wrote {output}")


def _names(models: list[Path]) -> list[str]:
    """File names, or whole paths where the names are not enough to tell them apart."""
    short = [path.name for path in models]
    return short if len(set(short)) == len(short) else [str(path) for path in models]


def _areas(found: "Evaluation") -> str:
    """1 - area under the curve, mean over noise levels: of the likelihood ratio, and of the residual energy alone."""
    levels = found.classification.levels
    ratio, energy = (1 - sum(getattr(v, name) for v in levels) / len(levels) for name in ("area", "energy_area"))
    return f"{ratio:.3f}; {energy:.3f}"


def _table(found: "list[Evaluation]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("lower is better")
    for e in found:
        table.add_column(e.name, justify="right")
    rows = [
        ("-log p of held-out data, nats", [f"{e.likelihood.nats:.2f} ± {e.likelihood.error:.2f}" for e in found]),
        ("bits per dimension", [f"{e.likelihood.bits_per_dim:.3f}" for e in found]),
        ("noise classification, log-loss", [f"{e.classification.log_loss:.4f}" for e in found]),
        ("the same, 1 - area: ratio; energy alone", [_areas(e) for e in found]),
        ("denoising error, visited states", [f"{e.visited.visited:.4f}" for e in found]),
        ("denoising error, training states", [f"{e.visited.training:.4f}" for e in found]),
    ]
    for i, run in enumerate(found[0].quality.runs):
        way = "sequential" if run.window is None else f"window {run.window}, tolerance {run.tolerance:g}"
        cells = [f"{e.quality.runs[i].energy:.4f} at depth {e.quality.runs[i].depth}" for e in found]
        rows.append((f"energy distance, {run.plan} {way}", cells))
    rows.append(("energy distance of real data", [f"{e.quality.energy_floor:.4f}" for e in found]))
    for name, cells in rows:
        table.add_row(name, *cells)
    return table
