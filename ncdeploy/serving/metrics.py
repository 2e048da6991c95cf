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

    label, served = "cancelled", None

    def done(self, served: Served) -> None:
        """It did."""
        self.label, self.served = "ok", served  # type: ignore[assignment]


class Metrics:
    """Of one model, with its name as label. It becomes the server's `on_tick`."""

    def __init__(self, model: str, server: Server) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "labelnames": ["model"]}
        self._requests = Counter(
            "ncdeploy_requests", "Requests, by how they ended.", ["model", "outcome"], registry=self.registry
        )
        self._model = model
        self._latency = Histogram(
            "ncdeploy_request_seconds", "From arrival to answer.", buckets=_SECONDS, **own
        ).labels(model)  # type: ignore[arg-type]
        self._waited = Histogram(
            "ncdeploy_waited_seconds", "From arrival to the first call.", buckets=_SECONDS, **own
        ).labels(model)  # type: ignore[arg-type]
        self._sweeps = Histogram("ncdeploy_sweeps", "Network calls of a sample.", buckets=_SWEEPS, **own).labels(model)  # type: ignore[arg-type]
        self._calls = Counter("ncdeploy_calls", "Network calls.", **own).labels(model)  # type: ignore[arg-type]
        self._engine = Counter("ncdeploy_engine_seconds", "Time within the engine.", **own).labels(model)  # type: ignore[arg-type]
        self._host = Counter("ncdeploy_host_seconds", "Time of the scheduler beside it.", **own).labels(model)  # type: ignore[arg-type]
        rows = Counter("ncdeploy_rows", "Rows of calls, by what they were for: the next node of a sample, that of a "
                       "sample beside the first request's, or the future.", ["model", "use"], registry=self.registry)  # fmt: skip
        self._own, self._others, self._ahead = (rows.labels(model, use) for use in ("first", "others", "future"))
        for name, text, read in (
            ("waiting", "Requests that wait for a call.", lambda: server.waiting),
            ("in_work", "Requests that calls work on.", lambda: server.in_work),
        ):
            Gauge(f"ncdeploy_requests_{name}", text, **own).labels(model).set_function(read)  # type: ignore[arg-type]
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
        return {
            name: seconds[int(part * (len(seconds) - 1))] for name, part in (("p50", 0.5), ("p99", 0.99)) if seconds
        }
