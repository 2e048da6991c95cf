"""`ncdeploy denoise`: noise off pictures and arrays, in one step."""

from pathlib import Path
from typing import Annotated

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.outputs import Force, claim_samples


def denoise(
    model: Annotated[
        Path, typer.Argument(help="Model to run: model.onnx, model.pt, model.plan or a bundle.", show_default=False)
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A picture or a folder of them; .npy, .npz or .csv in units of the data.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A .png, .npz, .npy, .csv, or a folder of PNGs.", show_default=False)
    ],
    sigma: Annotated[
        str, typer.Option(help="Standard deviation of the noise, in model units, where pictures are -1 .. 1; or auto.")
    ] = "auto",
    device: Annotated[str, options.device()] = "cpu",
    threads: Annotated[int | None, options.threads()] = None,
    trust: Annotated[bool, options.trust()] = False,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Take noise off what looks like the model's data, in one step; how much there is, the model finds out itself.

    Example: [bold]ncdeploy denoise model.onnx noisy.png -o clean.png[/bold]
    """  # fmt: skip
    import numpy as np

    from ncdeploy.backends import open_engine
    from ncdeploy.errors import InputError
    from ncdeploy.health.denoise import denoise_samples
    from ncdeploy.health.inputs import read_samples
    from ncdeploy.report.samples import check_output, save_samples, save_single

    claim_samples(output, force=force)
    try:
        level = None if sigma == "auto" else float(sigma)
    except ValueError as e:
        raise InputError(f"--sigma {sigma}: expected a number, or auto") from e
    with open_engine(model, device=device, threads=threads, allow_module=trust) as engine:
        info = engine.info
        check_output(output, info)
        found = denoise_samples(engine, read_samples(source, info), sigma=level)
    if len(found.samples) == 1 and len(info.shape) == 3 and output.lower().endswith(".png"):
        save_single(output, found.samples[0])
    else:
        save_samples(output, found.samples, info)
    low, middle, high = (float(v) for v in np.quantile(found.sigma, [0.0, 0.5, 1.0]))
    if as_json:
        console.print_json(
            {"n": len(found.samples), "sigma": found.sigma.tolist(), "outside": found.outside.tolist(),
             "output": output}
        )  # fmt: skip
        return
    if found.outside.any():
        console.warn(
            f"{int(found.outside.sum())} of {console.samples(len(found.samples))} have less noise than can be told, or "
            "more, or are not like the model's data"
        )
    spread = "" if low == high else f" ({low:.3g} to {high:.3g})"
    console.stdout().print(f"{console.samples(len(found.samples))}, noise of sigma {middle:.3g}{spread}")
    console.stdout().print(f"wrote {output}")
