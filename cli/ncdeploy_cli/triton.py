"""`ncdeploy triton`: a bundle as a model repository of NVIDIA Triton Inference Server."""

from pathlib import Path
from typing import Annotated

import typer

from ncdeploy_cli import console, options
from ncdeploy_cli.outputs import Force


def triton(
    bundle: Annotated[Path, typer.Argument(help="The bundle to serve.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The model repository, new or with other models.", show_default=False)
    ],
    prefix: Annotated[
        str,
        typer.Option(help='Prefix of the names of its models: "digits_" gives digits_denoiser.', show_default="none"),
    ] = "",
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Most rows that the server puts into one call, Triton's max_batch_size.",
            show_default="64, or what the engine takes",
        ),
    ] = None,
    max_delay: Annotated[int, typer.Option(help="Microseconds that a request waits for others.")] = 1000,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a model repository for Triton: the denoiser with dynamic batching, and the bundle's further graphs.

    Example:  ncdeploy triton bundle/ -o model_repository/ && tritonserver --model-repository model_repository/
    """
    from ncdeploy.bundle.triton import write_repository

    written = write_repository(
        bundle, output, prefix=prefix, max_batch=max_batch, max_delay=max_delay, force=force
    )  # fmt: skip
    if as_json:
        console.print_json({"output": str(output), "models": [folder.name for folder in written]})
        return
    for folder in written:
        console.stdout().print(f"wrote {folder}")
