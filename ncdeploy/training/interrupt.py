"""Ctrl-C that ends a loop between two steps, never inside one."""

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Within the `with` block the first SIGINT or SIGTERM sets `.requested`; a second one acts as usual.

    A step cut in half would leave weights and optimiser state that belong to no step, and a resumed run could
    not be the same as an uninterrupted one. Outside the main thread signals cannot be caught, and nothing is done.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, signal.Handlers] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
