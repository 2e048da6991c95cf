"""`ncdeploy import`: a model of another project to model.pt, which trains on, exports and samples like a native one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.outputs import Force, claim

if TYPE_CHECKING:
    from ncdeploy.denoisers.base import Denoiser, PartModule

_TRAINED, _FILES = "How it was trained, where the file does not say", "Which weights, where a source has several"
_MODULE, _GUIDED = "A module", "guided-diffusion"


def _option(text: str, panel: str, default: str | bool = False) -> Any:
    return typer.Option(help=text, show_default=default, rich_help_panel=panel)


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A diffusers or LeRobot folder, an EDM .pkl, a Diffusion Policy .ckpt, a .pt of guided-diffusion, DiT "
            "or SiT, a .pth of score_sde, a Lightning .ckpt of Wu et al. 2024, "
            "module:function, hf://owner/name, or a model.pt to convert.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The .pt or .safetensors to write.", show_default="the source's name, with .pt"
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="diffusers, lerobot, diffusion-policy, edm, guided-diffusion, dit, score-sde, cdl, module or "
            "ncdeploy.",
            show_default="found by looking at SRC",
        ),
    ] = None,
    predicts: Annotated[
        str | None,
        _option("What the network predicts: eps, v, x0, F (EDM's), flow (noise - data) or flow-to-data.", _TRAINED),
    ] = None,
    schedule: Annotated[
        str | None, _option("Its noise: linear, scaled-linear or cosine; of score_sde vp or linear.", _TRAINED)
    ] = None,
    train_steps: Annotated[int | None, _option("Training steps of the schedule.", _TRAINED, "1000")] = None,
    beta_start: Annotated[float | None, _option("First beta.", _TRAINED, "the schedule's usual")] = None,
    beta_end: Annotated[float | None, _option("Last beta.", _TRAINED, "the schedule's usual")] = None,
    shape: Annotated[str | None, _option('Shape of a sample, such as "3,32,32".', _TRAINED)] = None,
    sigma_data: Annotated[
        float | None, _option("Standard deviation of the training data, in model units.", _TRAINED, "0.5")
    ] = None,
    null_class: Annotated[
        bool | None,
        typer.Option(
            "--null-class",
            help='A label stands for "no class": the last of a diffusers model, number --num-classes of a module.',
            rich_help_panel=_TRAINED,
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        _option("Length of the prompts of a diffusers model.", _TRAINED, "as its tokenizer or its pipeline says"),
    ] = None,
    null: Annotated[
        list[str] | None,
        _option(
            "What the empty prompt gives, for guidance: NAME=FILE of an embedding, such as prompt_embeds=empty.npy.",
            _TRAINED,
            "as the pipeline says",
        ),
    ] = None,
    clip: Annotated[
        bool | None,
        typer.Option(
            "--clip/--no-clip",
            help="Cut D to the range of pictures.",
            show_default="as the scheduler says",
            rich_help_panel=_TRAINED,
        ),
    ] = None,
    raw_noise: Annotated[
        bool | None,
        typer.Option(
            "--raw-noise",
            help="Cut D in the plans of a diffusers model, not in the model: ddim samples as DDIMPipeline does.",
            rich_help_panel=_TRAINED,
        ),
    ] = None,
    learned_variance: Annotated[
        str | None, _option('"drop" the half of its output that is a learned variance.', _TRAINED)
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--no-ema",
            help="Of a diffusers folder or Diffusion Policy checkpoint with both: the averaged weights, or the others.",
            show_default="averaged",
            rich_help_panel=_FILES,
        ),
    ] = None,
    variant: Annotated[
        str | None, _option("Variant of a diffusers folder's weights, such as fp16.", _FILES, "the plain ones")
    ] = None,
    key: Annotated[
        str | None, _option("Where in a PyTorch file the weights stand, such as ema.", _FILES, "found by their names")
    ] = None,
    strip: Annotated[
        str | None, _option("Prefix of their names to take off, such as module.", _FILES, "found by their names")
    ] = None,
    weights: Annotated[
        Path | None, _option("Its state dict: .safetensors, .pt or .bin.", _MODULE, "as the function makes it")
    ] = None,
    num_classes: Annotated[int | None, _option("Classes that it takes as labels.", _MODULE, "0")] = None,
    noise: Annotated[
        str | None,
        _option(
            "What it is told: step, step-int, log-snr, c-noise, sigma, time01 or time1000 (flow: also -reversed); "
            "of a .ckpt of Wu et al. step or log-snr.",
            _MODULE,
        ),
    ] = None,
    shift: Annotated[
        float | None, _option("Of the steps of flow matching.", _MODULE, "1, or as a scheduler says")
    ] = None,
    condition: Annotated[
        list[str] | None,
        _option("A condition as NAME:DTYPE:SHAPE:NULL, such as obs:float32:2x5 or task:int64::0.", _MODULE, "none"),
    ] = None,
    sigma_min: Annotated[float | None, _option("Lowest noise level, with --predicts F.", _MODULE, "0.002")] = None,
    sigma_max: Annotated[float | None, _option("Highest noise level, with --predicts F.", _MODULE, "80")] = None,
    trust: Annotated[
        bool | None,
        typer.Option(
            "--trust", help="Run the Python code that a model.pt names, to convert it.", rich_help_panel=_MODULE
        ),
    ] = None,
    image_size: Annotated[int | None, _option("Height and width of its pictures.", _GUIDED)] = None,
    num_heads: Annotated[int | None, _option("Attention heads; also of a DiT or SiT.", _GUIDED)] = None,
    num_heads_upsample: Annotated[
        int | None, _option("Attention heads on the way up.", _GUIDED, "as --num-heads")
    ] = None,
    num_head_channels: Annotated[int | None, _option("Or channels of a head.", _GUIDED)] = None,
    new_attention_order: Annotated[
        bool | None,
        typer.Option("--new-attention-order", help="As that project's option.", rich_help_panel=_GUIDED),
    ] = None,
    noise_schedule: Annotated[str | None, _option("linear or cosine.", _GUIDED, "linear")] = None,
    diffusion_steps: Annotated[int | None, _option("Training steps.", _GUIDED, "1000")] = None,
    rescale_timesteps: Annotated[
        bool | None,
        typer.Option(
            "--rescale-timesteps/--keep-timesteps",
            help="Whether steps were scaled to 0 .. 1000.",
            show_default=False,
            rich_help_panel=_GUIDED,
        ),
    ] = None,
    predict_xstart: Annotated[
        bool | None, typer.Option("--predict-xstart", help="It predicts x0, not eps.", rich_help_panel=_GUIDED)
    ] = None,
    clip_denoised: Annotated[
        bool | None,
        typer.Option(
            "--clip-denoised/--no-clip-denoised",
            help="Cut D to the range of pictures.",
            show_default="cut",
            rich_help_panel=_GUIDED,
        ),
    ] = None,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Turn a model that another project trained into a model.pt. Pickles are read without executing them.

    Example: [bold]ncdeploy import ddpm-cifar10-32/ -o model.pt[/bold]
    """
    from ncdeploy.errors import DependencyError, install

    given = {
        "predicts": predicts, "schedule": schedule, "train_steps": train_steps, "beta_start": beta_start,
        "beta_end": beta_end, "shape": _sizes(shape), "sigma_data": sigma_data, "null_class": null_class, "clip": clip,
        "raw_noise": raw_noise, "tokens": tokens, "null": null or None,
        "weights": weights, "num_classes": num_classes, "conditions": condition or None, "noise": noise, "shift": shift,
        "sigma_min": sigma_min, "sigma_max": sigma_max,
        "allow_module": trust, "learned_variance": learned_variance, "ema": ema, "variant": variant,
        "key": key, "strip": strip, "image_size": image_size, "num_heads": num_heads,
        "num_heads_upsample": num_heads_upsample,
        "num_head_channels": num_head_channels, "new_attention_order": new_attention_order,
        "noise_schedule": noise_schedule, "diffusion_steps": diffusion_steps, "rescale_timesteps": rescale_timesteps,
        "predict_xstart": predict_xstart, "clip_denoised": clip_denoised,
    }  # fmt: skip
    output = claim(output or _named_after(source), ".pt", ".pth", ".safetensors", force=force, source=source)
    with console.progress("importing"):
        try:
            from ncdeploy import importers
            from ncdeploy.denoisers.checkpoint import load_record, save_model
        except ImportError as e:
            if (e.name or "").partition(".")[0] != "torch":
                raise
            raise DependencyError(f"importing a model needs PyTorch: {install('torch')}") from e

        found = importers.local(source, variant=variant)
        kind = importers.detect_format(found.path) if format is None else format
        denoiser = importers.import_model(found.path, format=kind, **given)
        imported = {"imported": {"format": kind, "source": found.name}}
        record = load_record(found.path) if kind == "ncdeploy" else imported
        beside = {
            part.role: claim(output.with_suffix(f".{part.role}.onnx"), ".onnx", force=force) for part in denoiser.parts
        }
        save_model(output, denoiser, record=record)
        if beside:
            from ncdeploy.export.part import export_parts

            export_parts(denoiser, beside)
    if as_json:
        parts: dict[str, Any] = {role: str(path) for role, path in beside.items()}
        console.print_json({"output": str(output), **parts, "format": kind, **_record(denoiser)})
    else:
        console.stdout().print(f"{output}: {_sentence(kind, denoiser)}")
        for part in denoiser.parts:
            console.stdout().print(f"{beside[part.role]}: its {part.role}, {_takes(part)}")
        for note in denoiser.notes:
            console.stdout().print(f"note: {note}")


def _named_after(source: str) -> Path:
    """In this folder: the name of the source with .pt, or with .safetensors where that is the source itself."""
    from ncdeploy.files import user_path

    path = user_path(source)
    source = source.partition("@")[0] if source.startswith("hf://") else source
    if path.exists():
        name = path.resolve().name if path.is_dir() else path.stem
    else:
        name = source.rpartition(":")[2].rpartition("/")[2]
    target = Path(f"{name or 'model'}.pt")
    return target.with_suffix(".safetensors") if target.resolve() == path.resolve() else target


def _sizes(text: str | None) -> tuple[int, ...] | None:
    from ncdeploy.errors import InputError

    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as e:
        raise InputError(f'--shape {text}: expected sizes like "3,32,32"') from e


def _record(denoiser: "Denoiser") -> dict[str, Any]:
    info = denoiser.info
    return {
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "shape": list(info.shape),
        "num_classes": info.num_classes,
        "unconditional": info.unconditional,
        "sigma_min": info.sigma_min,
        "sigma_max": info.sigma_max,
        "notes": list(denoiser.notes),
    }


def _takes(part: "PartModule") -> str:
    takes = ["x"] if part.inputs is None else [value.describe() for value in part.inputs]
    return f"from {', '.join(takes)} to {', '.join(part.outputs)}"


def _sentence(kind: str, denoiser: "Denoiser") -> str:
    info, count = denoiser.info, sum(p.numel() for p in denoiser.parameters())
    labels = f", labels {info.describe_labels()}" if info.num_classes else ""
    shape = "x".join(map(str, info.shape))
    noise = f"sigma {info.sigma_min:.3g} to {info.sigma_max:.4g}"
    return f"from {kind}, {count / 1e6:.2f} M parameters, samples {shape}, {noise}{labels}"
