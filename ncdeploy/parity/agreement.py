"""Does a graph with a sampler in it draw the samples of the host loop, from the same noise?

A sampler graph, or one that accepts in law, is the host loop, so at the default tolerance the samples differ by
rounding and the sweeps by one at most, where a residual lies on the tolerance. A sweep graph that accepts pathwise does
so in steps of several sweeps: the two only meet where both are exact, at a small tolerance.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ncdeploy.backends import open_engine
from ncdeploy.backends.graphs.run import GraphEngine
from ncdeploy.parity.inputs import draw_samples
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.parallel import TOLERANCE

SEEDS = range(4)
SMALL = 1e-5  # the tolerance at which a sweep graph is compared
RMS = 1e-4  # allowed, for data of std up to 1; above in units of it
HALF_RMS = 1e-2  # in fp16 and bf16, whose rounding depends on the rows that share a call
NO_FOLLOWING = ErrorCurve(sigmas=(1.0, 2.0), mse=(1e-30, 1e-30))  # g = 0, as in a graph of a model without a curve


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """rms: median over samples of the rms difference of a sample; sweeps: largest difference of sweeps.

    sweeps is None where they need not agree: in a sweep graph
    """

    plan: str
    window: int
    samples: int
    rms: float
    allowed: float
    sweeps: int | None

    @property
    def ok(self) -> bool:
        """Whether the samples agree, and the sweeps to within one."""
        return self.rms <= self.allowed and (self.sweeps is None or self.sweeps <= 1)

    @property
    def summary(self) -> str:
        """One line."""
        sweeps = "" if self.sweeps is None else f", sweeps differ by {self.sweeps} at most"
        return (
            f"{self.samples} samples of {self.plan}, window {self.window}: median rms difference {self.rms:.2g} "
            f"(allowed {self.allowed:g}){sweeps}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; None stands for a difference that is not finite."""
        record = {"ok": self.ok, "summary": self.summary, **asdict(self)}
        return {**record, "rms": self.rms if np.isfinite(self.rms) else None}


def agreement(
    denoiser: str | os.PathLike[str], graph: str | os.PathLike[str], *, threads: int | None = None
) -> Agreement:
    """Sample four seeds with the graph and with the host loop around the denoiser that is in it; both are files.

    Raises what opening the graph and running it raises, NumericalError for samples that are not finite among it.
    """
    host = open_engine(denoiser, threads=threads)
    engine = GraphEngine(graph, threads=threads)
    try:
        record, info, n = engine.record, engine.info, len(SEEDS)
        steps_alike = record.kind == "sampler" or record.in_law
        tolerance = TOLERANCE if steps_alike else SMALL
        given = draw_samples(info, n, np.random.default_rng(0))
        conditions = {name: values for name, values in given.items() if name != "labels"}
        got = engine.sample(
            SEEDS, labels=given.get("labels"), conditions=conditions, tolerance=None if record.in_law else tolerance,
        )  # fmt: skip
        wanted = sample(
            host, record.plan, seeds=SEEDS, conditions=given, window=engine.window(record.plan),
            tolerance=tolerance, options=SampleOptions(
                error_curve=info.error_curve or NO_FOLLOWING, acceptance="law" if record.in_law else "pathwise"
            ),
        )  # fmt: skip
    finally:
        engine.close()
        host.close()
    difference = (got.samples - wanted.samples).reshape(n, -1).astype(np.float64)
    allowed = RMS if info.precision in ("fp32", "tf32") else HALF_RMS
    return Agreement(
        plan=record.plan.name,
        window=record.window,
        samples=n,
        rms=float(np.median(np.sqrt(np.mean(difference**2, axis=1)))),
        allowed=allowed * max(1.0, info.sigma_data),
        sweeps=int(np.abs(got.sweeps - wanted.sweeps).max()) if steps_alike else None,
    )
