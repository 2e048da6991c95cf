"""What TensorRT calls: a log, a progress monitor, a profiler. Their base classes come from the module given."""

from collections.abc import Callable
from typing import Any


def new_log(trt: Any) -> Any:
    """A logger that keeps the last error instead of printing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.said = " ".join(message.split())[:300]

    return Log()


def new_monitor(trt: Any, on_progress: Callable[[str, int, int], None], cancelled: Callable[[], bool]) -> Any:
    """Reports (phase, step, steps) of the outermost phase, and ends the build at the next step of any phase once it is
    cancelled; called from TensorRT's own threads."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                on_progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                on_progress(phase_name, step + 1, self.steps[phase_name])
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, None)
            if steps is not None:
                on_progress(phase_name, steps, steps)

    return Monitor()


def new_profiler(trt: Any, on_layer: Callable[[str, float], None]) -> Any:
    """Reports (layer, milliseconds) for every layer of a call."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            on_layer(layer_name, ms)

    return Profiler()
