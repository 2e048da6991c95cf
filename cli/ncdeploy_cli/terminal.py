"""What reaches a terminal: text as text, never as markup or escape sequences, and how far a long run is."""

import contextlib
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskProgressColumn, TextColumn

from rich.progress import TimeElapsedColumn, TimeRemainingColumn  # isort: skip
from rich.segment import Segment
from rich.text import Text

from ncdeploy_cli.console import duration

PERIOD = 10.0  # seconds between two lines about a long run where there is no terminal


def shown(text: str, encoding: str = "utf-8") -> str:
    """The text with everything that is not printed (controls, marks of writing direction) or that the encoding lacks
    as an escape, such as \\x1b; line ends stay."""
    safe = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return safe.encode(encoding, "backslashreplace").decode(encoding)


class Console(RichConsole):
    """rich's console for text that others wrote: no markup, no highlighting, no folding of lines."""

    def __init__(self, **given: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **given)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, but what is no control sequence of its own is `shown`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text, self.encoding))

    def print(self, *objects: Any, **given: Any) -> None:
        """As rich does; words about a run are not worth the run, so where stderr cannot be written, they are lost."""
        with contextlib.suppress(OSError) if self.stderr else contextlib.nullcontext():
            super().print(*objects, **given)

    def render_str(self, text: str, **given: Any) -> Text:
        """Before rich drops some of the controls."""
        return super().render_str(shown(text, self.encoding), **given)


class Running:
    """One long thing on stderr: a bar with per cent and time left on a terminal, elsewhere a line now and then.

    what, unit: what is counted; without a total there is no bar, only the time that has passed
    keep:       the last state stays to be read, as a line
    """

    def __init__(self, console: Console, what: str, total: float | None, unit: str, *, done: float, keep: bool) -> None:
        self._console, self._unit, self._keep = console, unit, keep
        self._what, self._total, self._done, self._first, self._note = what, total, done, done, ""
        self._began, self._lines, self._over = time.monotonic(), 0, threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        columns: list[ProgressColumn] = [SpinnerColumn(), _text("{task.description}")]
        if total is not None:
            columns += [BarColumn(bar_width=24), TaskProgressColumn(), TimeRemainingColumn()]
        columns += [_text("{task.fields[note]}"), TimeElapsedColumn()]
        self._bars = Progress(*columns, console=console, transient=not keep, disable=not console.is_terminal)
        self._task = self._bars.add_task(what, total=total, completed=int(done), note="")

    def update(
        self, done: float | None = None, *, more: float = 0, note: str | None = None, what: str | None = None,
        total: float | None = None,
    ) -> None:  # fmt: skip
        """How much is done, or how much more; a few words; None leaves things as they are."""
        self._done = self._done + more if done is None else done
        self._note = self._note if note is None else note
        self._what, self._total = what or self._what, total or self._total
        self._bars.update(
            self._task, completed=self._done, total=self._total, description=self._what, note=self._counted()
        )

    def stage(self, text: str) -> None:
        """What is being done now."""
        self.update(what=text)

    def __enter__(self) -> "Running":
        self._bars.start()
        if not self._console.is_terminal:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._bars.stop()
        if not self._console.is_terminal:
            self._thread.join()
            if kind is None and (self._keep or self._lines):
                self._line()

    def _tell(self) -> None:
        while not self._over.wait(PERIOD):
            self._line()

    def _line(self) -> None:
        self._lines += 1
        passed = time.monotonic() - self._began
        parts = [self._counted(), f"{duration(passed)}"]
        if self._total and self._done:
            parts.insert(0, f"{self._done / self._total:.0%}")
            if self._first < self._done < self._total:
                left = passed * (self._total - self._done) / (self._done - self._first)
                parts.append(f"{duration(left)} left")
        self._console.print(f"{self._what}: {', '.join(filter(None, parts))}")

    def _counted(self) -> str:
        counted = f"{self._done:.0f}/{self._total:.0f} {self._unit}" if self._unit and self._total else ""
        return ", ".join(filter(None, [counted, self._note]))


def _text(text_format: str) -> TextColumn:
    return TextColumn(text_format, markup=False)
