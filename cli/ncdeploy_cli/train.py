"""`ncdeploy train`: a model from data, with a progress bar, a log, and a Ctrl-C that loses nothing."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.outputs import Force, claim

if TYPE_CHECKING:
    from ncdeploy.training import Progress, Training

INTERRUPTED = 130
FINE_TUNING_LR = 1e-4  # the usual rate would forget what the model has learned


def _optimiser(text: str, default: str) -> Any:
    return typer.Option(help=text, show_default=default, rich_help_panel="Optimiser")


def _contrastive(text: str, default: str) -> Any:
    return typer.Option(help=text, show_default=default, rich_help_panel="Contrastive loss")


def train(
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, moons, swiss-roll, checkerboard, eight-gaussians, spirals, or your own: a .csv, .npy or .npz "
            "file, or a folder of pictures (sub-folders are classes).",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The model file to write, for example model.pt.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="denoising; likelihood, noise levels as wide as the data, weighted so that the loss is -log p: "
            "after tens of thousands of updates points of the plane are closer to the data than with DDPM's levels; or "
            "contrastive, that loss beside denoising, at about twice the time of a step: in our own runs it brought "
            "nothing that more steps do not bring (see benchmarks/contrastive).",
            show_default="denoising",
        ),
    ] = None,
    updates: Annotated[int | None, typer.Option(help="Updates of the weights in all.", show_default="1000")] = None,
    weighting: Annotated[
        str | None,
        typer.Option(
            help="Weights of noise levels: edm, likelihood (what --objective likelihood sets) or ddpm.",
            show_default="edm",
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Size of the network: small, medium or large.", show_default="by the data")
    ] = None,
    conditional: Annotated[
        bool | None, typer.Option("--conditional", help="Learn the labels of the data, to sample classes at will.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="What samples were seen under: NAME of an array in the .npz, NAME=FILE.npy or NAME=FILE.npz:KEY, "
            "a row for each sample; once for each condition.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Bring a folder of pictures to this many pixels a side.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, of noise and of which data are held out.", show_default="0")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this model file, with its settings. --updates trains longer, --data says where "
            "the same data are now, -o writes another file."
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the weights of this model, imported or trained here; its noise levels and classes stay."
        ),
    ] = None,
    batch: Annotated[int | None, _optimiser("Samples per step.", "96")] = None,
    lr: Annotated[float | None, _optimiser("Peak of the learning rate.", "0.002; 0.0001 with --init-from")] = None,
    warmup: Annotated[int | None, _optimiser("Steps to reach the peak.", "50")] = None,
    ema: Annotated[float | None, _optimiser("Decay of the averaged weights.", "0.995")] = None,
    clip: Annotated[float | None, _optimiser("Largest norm of the gradient.", "1.0")] = None,
    device: Annotated[str | None, _optimiser("Where it trains: auto or cpu.", "auto")] = None,
    precision: Annotated[str | None, _optimiser("Precision inside the network: fp32 or bf16.", "fp32")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores", rich_help_panel="Optimiser")
    ] = None,
    contrastive_weight: Annotated[float | None, _contrastive("Weight, per dimension.", "0.1")] = None,
    contrast: Annotated[
        str | None,
        _contrastive("What data are told from: ve, x0 + s n; or vp, that times 1/sqrt(1 + s^2), the paper's.", "ve"),
    ] = None,
    contrastive_range: Annotated[
        str | None, _contrastive("Least and largest s, in standard deviations of the data.", "0.05,5.0")
    ] = None,
    contrastive_gap: Annotated[
        float | None, _contrastive("Data get noise exp(-gap / sqrt(d)) s themselves; 0: they stay clean.", "1.0")
    ] = None,
    contrastive_fraction: Annotated[
        float | None, _contrastive("Points it tells apart, as a share of the batch.", "0.02")
    ] = None,
    contrastive_warmup: Annotated[int | None, _contrastive("Steps over which its weight rises.", "0")] = None,
    contrastive_terms: Annotated[int | None, _contrastive("Draws averaged for each, an even number.", "16")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the Python code that the model of --init-from or --resume names.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(help="Append a line of JSON per step to this file.", rich_help_panel="Saving and logging"),
    ] = None,
    save_every: Annotated[
        int,
        typer.Option(min=0, help="Save every so many steps; 0: not on the way.", rich_help_panel="Saving and logging"),
    ] = 500,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Train a model and write it to one file, with its settings, its record and what resuming needs.

    Ctrl-C finishes the step, saves, and says how to go on.

    Example: [bold]ncdeploy train --data digits -o model.pt[/bold]
    """
    from ncdeploy.errors import InputError
    from ncdeploy.files import check_writable, real_path

    settings = {
        "weighting": weighting, "conditional": conditional, "seed": seed, "batch": batch, "lr": lr, "warmup": warmup,
        "ema": ema, "clip": clip, "device": device, "precision": precision,
    }  # fmt: skip
    s_min, s_max = _range(contrastive_range)
    contrastive = {
        "weight": contrastive_weight, "contrast": contrast, "fraction": contrastive_fraction,
        "terms": contrastive_terms, "warmup": contrastive_warmup, "gap": contrastive_gap,
        "s_min": s_min, "s_max": s_max,
    }  # fmt: skip
    fixed = {**settings, "objective": objective, "size": size, "network": network, "condition": condition}
    given = [name for name, value in fixed.items() if value is not None]
    if init_from is not None and network is not None:
        raise InputError("--network: the model of --init-from has its own; leave one of them out")
    if init_from is not None:
        given.append("init-from")
        settings["lr"] = FINE_TUNING_LR if lr is None else lr
    if trust and init_from is None and resume is None:
        raise InputError("--trust: is about the model of --init-from or --resume; leave it out")
    given += [_option(name) for name, value in contrastive.items() if value is not None]
    if resume is not None and given:
        raise InputError(
            f"--{given[0]}: a resumed run keeps its settings; leave it out, or train anew without --resume"
        )
    if resume is None and data is None:
        raise InputError("--data is missing; for example: ncdeploy train --data digits -o model.pt")
    target = output or resume
    if target is None:
        raise InputError(f"--output is missing; for example: ncdeploy train --data {data} -o model.pt")
    if target.suffix.lower() == ".safetensors":
        raise InputError(
            f"--output {target}: cannot hold what resuming needs; train to a .pt, and convert it with "
            f"ncdeploy import {target.with_suffix('.pt')} -o {target}"
        )
    claim(target, ".pt", ".pth", force=force or target == resume, hold=False)  # of several processes, one writes
    if log is not None:
        check_writable(log)
        if real_path(log) == real_path(target):
            raise InputError(f"--log {log}: is the model file; choose another name")

    with console.progress("loading"):
        import torch

        from ncdeploy.denoisers import load_model
        from ncdeploy.training import TrainConfig, load_data, resume_training, start, start_from

        if threads is not None:
            torch.set_num_threads(threads)
        if resume is not None:
            training = resume_training(resume, data=data, steps=updates, allow_module=trust)
        else:
            config = TrainConfig.from_choices(objective, {**settings, "steps": updates}, contrastive)
            model = None if init_from is None else load_model(init_from, allow_module=trust)
            conditions = condition or [c.name for c in ([] if model is None else model.info.conditions)]
            dataset = load_data(str(data), seed=config.seed, size=size, conditions=conditions)
            training = start(dataset, config, network=network) if model is None else start_from(model, dataset, config)
    _run(training, target, log, save_every, as_json)


def _range(text: str | None) -> tuple[float | None, float | None]:
    """Two numbers out of "0.05,5.0", or two None."""
    from ncdeploy.errors import InputError

    if text is None:
        return None, None
    try:
        low, high = map(float, text.split(","))
    except ValueError as e:
        raise InputError(f'--contrastive-range {text}: expected the least and the largest s, like "0.05,5.0"') from e
    return low, high


def _option(setting: str) -> str:
    """The option that sets a setting of the contrastive loss."""
    named = {"contrast": "contrast", "s_min": "contrastive-range", "s_max": "contrastive-range"}
    return named.get(setting, f"contrastive-{setting}")


def _note(progress: "Progress") -> str:
    contrastive = "" if progress.contrastive is None else f", contrastive {progress.contrastive:.3f}"
    return f"loss {progress.loss:.4f}{contrastive}, {progress.rate:.1f} steps/s"


def _run(training: "Training", target: Path, log: Path | None, save_every: int, as_json: bool) -> None:
    from ncdeploy.errors import NumericalError
    from ncdeploy.files import held
    from ncdeploy.training import StepLog, StopRequest, resume_command, save_training

    show, total, began = training.main_process, training.config.steps, training.step
    saved = began
    with ExitStack() as stack:
        if show:
            stack.enter_context(held(target))
        stop = stack.enter_context(StopRequest())
        lines = None
        if log is not None and show:
            lines = stack.enter_context(StepLog(log, after=began, say=console.warn))
        bar = stack.enter_context(console.progress("training", total, "steps", done=began, keep=True, silent=not show))
        try:
            for progress in training.run():
                bar.update(progress.step, note=_note(progress))
                if lines is not None:
                    lines.write(progress)
                if training.anyone(stop.requested):
                    break
                if save_every and progress.step % save_every == 0 and not training.done:
                    save_training(target, training)
                    saved = training.step
        except NumericalError as e:
            if saved == began and training.step > began:  # an earlier save may be the better model: it stays
                save_training(target, training)
                saved = training.step
            if saved == began:
                raise
            raise NumericalError(f"{e}; {target} has the weights of step {saved}") from e
        if training.done:
            save_training(target, training)
            bar.stage("measuring the denoising error")
            training.finish()
            bar.stage("training")
        save_training(target, training)
    if not show:
        return
    if not training.done:
        console.stderr().print(f"stopped after step {training.step} of {total}; saved {target}")
        console.stderr().print(f"go on with: {resume_command(target)}")
        raise typer.Exit(INTERRUPTED)
    if as_json:
        figures = {"steps": total, "seconds": training.seconds, "losses": training.record()["losses"]}
        console.print_json({"output": str(target), **figures})
        return
    losses = ", ".join(f"{name} {value:.4f}" for name, value in training.record()["losses"].items())
    console.stdout().print(f"{target}: {total} steps in {console.duration(training.seconds)}; {losses}")
