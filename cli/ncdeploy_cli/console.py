"""Where words go: results to stdout, everything about the run to stderr."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncdeploy_cli.terminal import Console, Running

MOST = 600  # characters of a message; what is longer loses its middle


def stdout() -> "Console":
    """A console for results; plain text when it is not a terminal."""
    from ncdeploy_cli.terminal import Console

    return Console()


def stderr() -> "Console":
    """A console for progress, warnings and errors."""
    from ncdeploy_cli.terminal import Console

    return Console(stderr=True)


def error(message: str) -> None:
    """Say in one line why the command failed."""
    _line("error", "bold red", message)


def warn(message: str) -> None:
    """Say in one line what the user may not expect."""
    _line("warning", "bold yellow", message)


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Every NcdeployWarning inside is said as `warn` does."""
    import warnings

    from ncdeploy.errors import NcdeployWarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, NcdeployWarning):
            warn(str(message))
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", NcdeployWarning)
        yield


def _line(kind: str, style: str, message: str) -> None:
    from rich.text import Text

    from ncdeploy_cli.terminal import shown

    line = shown(" ".join(message.splitlines()))
    if len(line) > MOST:
        line = f"{line[: MOST // 2]} ... {line[-MOST // 2 :]}"
    stderr().print(Text.assemble((f"{kind}:", style), " ", line))


def print_json(record: dict[str, Any]) -> None:
    """One JSON object on one line of stdout, for scripts."""
    import typer

    typer.echo(json.dumps(record))


def progress(
    what: str, total: float | None = None, unit: str = "", *, done: float = 0, keep: bool = False, silent: bool = False
) -> "Running":
    """How far something long is, on stderr unless it shall be silent: see `terminal.Running`."""
    from ncdeploy_cli.terminal import Console, Running

    return Running(Console(stderr=True, quiet=silent), what, total, unit, done=done, keep=keep)


def samples(count: int) -> str:
    """1 sample, 4 samples."""
    return f"{count} sample" if count == 1 else f"{count} samples"


def duration(seconds: float) -> str:
    """Seconds for people: 12 ms, 3.4 s, 2 min 05 s."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
