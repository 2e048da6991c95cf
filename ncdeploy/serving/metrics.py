"""What Prometheus reads of a server."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ncdeploy.errors import BusyError, NcdeployError
from ncdeploy.serving.job import Served
from ncdeploy.serving.scheduler import Tick
from ncdeploy.serving.server import Server

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SWEEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_LATELY = 500  # requests whose latency the page tells


class Outcome:
    """How a request ended."""

    label: str = "cancelled"
    served: Served | None = None

    def done(self, served: Served) -> None:
        """It did."""
        self.label, self.served = "ok", served


class Metrics:
    """Of one model, with its name as label. It becomes the server's `on_tick`."""

    def __init__(self, model: str, server: Server) -> None:
        self.registry = CollectorRegistry()
        self._model = model

        def timed(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, ["model"], buckets=buckets, registry=self.registry).labels(model)

        def counted(name: str, text: str, more: str) -> Counter:
            return Counter(name, text, ["model", *([more] if more else [])], registry=self.registry)

        self._requests = counted("ncdeploy_requests", "Requests, by how they ended.", "outcome")
        self._latency = timed("ncdeploy_request_seconds", "From arrival to answer.")
        self._waited = timed("ncdeploy_waited_seconds", "From arrival to the first call.")
        self._sweeps = timed("ncdeploy_sweeps", "Network calls of a sample.", _SWEEPS)
        self._calls = counted("ncdeploy_calls", "Network calls.", "").labels(model)
        self._engine = counted("ncdeploy_engine_seconds", "Time within the engine.", "").labels(model)
        self._host = counted("ncdeploy_host_seconds", "Time of the scheduler beside it.", "").labels(model)
        text = "Rows of calls: the next node of a first sample, those of others beside it, and nodes of the future."
        rows = counted("ncdeploy_rows", text, "use")
        self._own, self._others, self._ahead = (rows.labels(model, use) for use in ("first", "others", "future"))
        for name, text, read in (
            ("waiting", "Requests that wait for a call.", lambda: server.waiting),
            ("in_work", "Requests that calls work on.", lambda: server.in_work),
        ):
            Gauge(f"ncdeploy_requests_{name}", text, ["model"], registry=self.registry).labels(model).set_function(read)
        self._lately: deque[float] = deque(maxlen=_LATELY)
        server.on_tick = self.tick

    def tick(self, tick: Tick) -> None:
        """A call was made."""
        self._calls.inc()
        self._engine.inc(tick.seconds)
        self._host.inc(max(tick.beside, 0.0))
        self._own.inc(1)
        self._others.inc(tick.samples - 1)
        self._ahead.inc(tick.rows - tick.samples)

    @contextmanager
    def request(self) -> Iterator[Outcome]:
        """Around the work for a request."""
        outcome, begin = Outcome(), time.perf_counter()
        try:
            yield outcome
        except BusyError:
            outcome.label = "busy"
            raise
        except NcdeployError:
            outcome.label = "failed"
            raise
        finally:
            self._requests.labels(self._model, outcome.label).inc()
            if outcome.served is not None:
                seconds = time.perf_counter() - begin
                self._lately.append(seconds)
                self._latency.observe(seconds)
                self._waited.observe(outcome.served.waited_s)
                for sweeps in outcome.served.sweeps.tolist():
                    self._sweeps.observe(sweeps)

    def quantiles(self) -> dict[str, float]:
        """Seconds of requests lately: the median and the slowest of a hundred; nothing if there were none."""
        seconds = sorted(self._lately)
        parts = {"p50": 0.5, "p99": 0.99} if seconds else {}
        return {name: seconds[int(part * (len(seconds) - 1))] for name, part in parts.items()}
