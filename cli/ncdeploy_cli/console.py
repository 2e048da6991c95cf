"""Where words go: results to stdout, everything about the run to stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def stdout() -> "Console":
    """A console for results; plain text when it is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def stderr() -> "Console":
    """A console for progress, warnings and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


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

    stderr().print(Text.assemble((f"{kind}:", style), " ", " ".join(message.splitlines())))


def print_json(record: dict[str, Any]) -> None:
    """One JSON object on one line of stdout, for scripts."""
    sys.stdout.write(json.dumps(record) + "\n")


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator["Progress"]:
    """A bar on stderr with one task (id 0) that counts to `total`; nothing when stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = stderr()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[note]}}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(what, total=total, note="")
        yield bar


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
