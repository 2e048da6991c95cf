"""The command `ncdeploy`: its help, its version, and how errors reach people.

Importing this module must stay cheap: torch, onnxruntime and NumPy load inside the commands that need them.
"""

import errno
import inspect as inspection
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ncdeploy.errors import NcdeployError, install
from ncdeploy_cli import (
    bench,
    build,
    bundle,
    check,
    console,
    demo,
    denoise,
    doctor,
    evaluate,
    export,
    import_,
    inspect,
    outputs,
    sample,
    serve,
    train,
    triton,
    tune,
    verify,
)

_EXTRAS = (
    {"onnxruntime": "cpu", "diffusers": "diffusers"}
    | dict.fromkeys(("torch", "onnx", "onnxscript", "accelerate", "sklearn", "safetensors"), "torch")
    | dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serve")
)
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_RENAMED = {  # by command: old names of options, which still work and say so
    "train": {"--steps": "--updates"},
    "demo": {"--steps": "--updates"},
    "import": {"--no-rescale-timesteps": "--keep-timesteps"},
    "sample": {"--batch": "--rows"},
    "tune": {"--batch": "--rows"},
    "bench": {"--batch": "--rows", "--solvers": "--solver", "--windows": "--window"},
}


class _Command(TyperCommand):
    """Takes the old names of options, with a warning."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        renamed = _RENAMED.get(self.name or "", {})
        for i, arg in enumerate(args):
            old, equals, value = arg.partition("=")
            if old in renamed:
                console.warn(f"{old} is called {renamed[old]} now; the old name will not work for ever")
                args[i] = renamed[old] + equals + value
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with outputs.holding():
            return super().invoke(ctx)


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
        except MemoryError as e:
            if ctx.params["debug"]:
                raise
            console.error(f"the host is out of memory{f' ({e})' if str(e) else ''}; ask for less at once")
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
            console.error(f"this needs {package}, which is not installed: {install(_EXTRAS[package])}")
            raise typer.Exit(1) from None


app = typer.Typer(
    name="ncdeploy",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Completion of commands and options in your shell: ncdeploy --install-completion, then a new shell.",
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


def _paragraphs(run: Callable[..., None]) -> str:
    """The docstring with a line a paragraph, to be folded to the width of the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in inspection.cleandoc(run.__doc__ or "").split("\n\n"))


_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Make a model": {"train": train.train, "import": import_.import_model},
    "Deploy": {
        "export": export.export, "build": build.build, "verify": verify.verify, "check": check.check,
        "bundle": bundle.bundle, "triton": triton.triton,
    },
    "Sample": {
        "sample": sample.sample, "denoise": denoise.denoise, "serve": serve.serve, "tune": tune.tune, "demo": demo.demo,
    },
    "Look": {"evaluate": evaluate.evaluate, "bench": bench.bench, "inspect": inspect.inspect, "doctor": doctor.doctor},
}  # fmt: skip
for _panel, _commands in _PANELS.items():
    for _name, _run in _commands.items():
        app.command(_name, cls=_Command, help=_paragraphs(_run), rich_help_panel=_panel)(_run)


def main() -> None:
    """Entry point of the installed command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    What a full disk, or one that fails, raises wherever something is written ends in one line.

    SIGTERM, which `docker stop` and batch systems send, is taken as Ctrl-C. Warnings of other packages, logged
    ones too, are for developers: they show with -W or PYTHONWARNINGS.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
    try:
        app()
    except OSError as e:
        if e.errno not in _OF_DISKS:
            raise
        console.error(f"{e.filename or 'the output'}: cannot be written: {e.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what stdout still has: Python writes it at its end
        sys.exit(1)


if __name__ == "__main__":
    main()
