"""The command `ncdeploy`: its help, its version, and how errors reach people.

Importing this module must stay cheap: torch, onnxruntime and NumPy load inside the commands that need them.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ncdeploy.errors import NcdeployError
from ncdeploy_cli import (
    bench,
    build,
    bundle,
    console,
    demo,
    doctor,
    evaluate,
    export,
    import_,
    inspect,
    sample,
    train,
    triton,
    tune,
    verify,
)

_EXTRAS = {"onnxruntime": "cpu", "diffusers": "diffusers"} | dict.fromkeys(
    ("torch", "onnx", "onnxscript", "accelerate", "sklearn", "safetensors"), "torch"
)


class _Commands(TyperGroup):
    """Turns the library's errors, and missing optional packages, into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:  # typer vendors the class of the context
        try:
            with console.warnings_in_a_line():
                return super().invoke(ctx)
        except NcdeployError as e:
            if ctx.params["debug"]:
                raise
            console.error(str(e))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            if ctx.params["debug"]:
                raise
            console.error("cancelled")
            raise typer.Exit(130) from None
        except ModuleNotFoundError as e:
            package = (e.name or "").partition(".")[0]
            if ctx.params["debug"] or package not in _EXTRAS:
                raise
            console.error(f"this needs {package}, which is not installed: pip install 'ncdeploy[{_EXTRAS[package]}]'")
            raise typer.Exit(1) from None


app = typer.Typer(
    name="ncdeploy",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda asked: _show_version(asked), help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="NCDEPLOY_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Diffusion models from PyTorch to ONNX, sampled in parallel to a known tolerance.

    Start with [bold]ncdeploy demo -o demo[/bold]: it trains, exports, verifies and samples on this machine.
    """


def _show_version(asked: bool) -> None:
    if asked:
        from ncdeploy import __version__

        typer.echo(f"ncdeploy {__version__}")
        raise typer.Exit


app.command(rich_help_panel="Make a model")(train.train)
app.command("import", rich_help_panel="Make a model")(import_.import_model)
app.command(rich_help_panel="Deploy")(export.export)
app.command(rich_help_panel="Deploy")(build.build)
app.command(rich_help_panel="Deploy")(verify.verify)
app.command(rich_help_panel="Deploy")(bundle.bundle)
app.command(rich_help_panel="Deploy")(triton.triton)
app.command(rich_help_panel="Sample")(sample.sample)
app.command(rich_help_panel="Sample")(tune.tune)
app.command(rich_help_panel="Sample")(demo.demo)
app.command(rich_help_panel="Look")(evaluate.evaluate)
app.command(rich_help_panel="Look")(bench.bench)
app.command(rich_help_panel="Look")(inspect.inspect)
app.command(rich_help_panel="Look")(doctor.doctor)


def main() -> None:
    """Entry point of the installed command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    app()


if __name__ == "__main__":
    main()
