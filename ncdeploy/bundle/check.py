"""What is compared before a bundle is put in place, and recorded in it."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ncdeploy.backends.base import Backend
from ncdeploy.backends.parts import PartEngine
from ncdeploy.errors import NumericalError, ParityError
from ncdeploy.formats.bundle import BundledPlan
from ncdeploy.parity import compare
from ncdeploy.parity.inputs import draw_condition, draw_samples
from ncdeploy.run import SampleOptions, sample

SAMPLES = 4
LARGEST_MEDIAN = 1e-2
LARGEST_OF_PART = 1e-4
BATCH_VALUES = 1 << 18  # inputs of one network call; a network's activations take some hundred times that


def check_plans(engine: Backend, plans: Mapping[str, BundledPlan]) -> dict[str, Any]:
    """Run each plan in sequence and in parallel, 4 samples from seeds 0 to 3, and compare them.

    Returns, by plan: window, tolerance, the median and largest rms difference of a sample (over its dimensions, in
    model units, over the data's standard deviation if that is above 1), sequential_calls and parallel_calls of the
    network, and sweeps (a mean over samples).

    Raises ParityError if the median is above 1e-2, NumericalError for NaN or infinity.
    """
    info = engine.info
    conditions = draw_samples(info, SAMPLES, np.random.default_rng(0))
    record: dict[str, Any] = {}
    for name, stored in plans.items():
        rows = max(BATCH_VALUES // info.dim, stored.window * info.evaluations)
        one, many = (
            sample(
                engine, stored.plan, seeds=range(SAMPLES), conditions=conditions, window=window,
                tolerance=stored.tolerance, options=SampleOptions(max_rows=rows),
            )
            for window in (None, stored.window)
        )  # fmt: skip
        difference = (many.samples - one.samples).astype(np.float64).reshape(SAMPLES, -1)
        rms = np.sqrt(np.mean(difference**2, axis=1)) / max(1.0, info.sigma_data)
        record[name] = {
            "window": stored.window,
            "tolerance": stored.tolerance,
            "median_rms": float(np.median(rms)),
            "largest_rms": float(rms.max()),
            "sequential_calls": one.depth,
            "parallel_calls": many.depth,
            "sweeps": float(many.sweeps.mean()),
        }
        if not np.median(rms) <= LARGEST_MEDIAN:
            raise ParityError(
                f"plan {name}: parallel samples differ from sequential ones by a median rms of {np.median(rms):.2g}, "
                f"expected at most {LARGEST_MEDIAN:g}; choose a smaller --tolerance than {stored.tolerance:g}"
            )
    return record


def check_reference(
    reference: str | os.PathLike[str], engine: Backend, *, threads: int | None, allow_module: bool
) -> dict[str, Any]:
    """Compare the engine with the model that it was made from, see `ncdeploy.parity.compare`; its report as a record.

    Raises ParityError if they do not agree, and what opening the reference raises.
    """
    from ncdeploy.backends import open_engine

    other = open_engine(reference, threads=threads, allow_module=allow_module)
    try:
        report = compare(other, engine)
    finally:
        other.close()
    if not report.ok:
        raise ParityError(f"{reference}: the engine disagrees with it: {report.summary}")
    return report.to_dict()


def check_samples(graph: PartEngine) -> dict[str, Any]:
    """Run an encoder or a decoder on 4 samples at once and one by one.

    Returns largest_difference, over the rms of an output. Raises ParityError if it is above 1e-4: then what comes out
    for a sample depends on its neighbours. NumericalError for NaN or infinity.
    """
    rng = np.random.default_rng(0)
    values = {value.name: draw_condition(value, SAMPLES, rng) for value in graph.part.inputs}
    together = graph(values)
    alone = [graph({name: v[i : i + 1] for name, v in values.items()}) for i in range(SAMPLES)]
    largest = 0.0
    for name, found in together.items():
        one = np.concatenate([outputs[name] for outputs in alone]).astype(np.float64)
        if not np.isfinite(one).all() or not np.isfinite(found).all():
            raise NumericalError(f"{graph.path.name}: {name} holds NaN or infinity; check the graph, or its weights")
        rms = max(float(np.sqrt(np.mean(one**2))), 1e-6)
        largest = max(largest, float(np.abs(found - one).max()) / rms)
    if largest > LARGEST_OF_PART:
        raise ParityError(
            f"{graph.path.name}: the outputs of a sample differ by {largest:.1e} of their rms when others stand beside "
            "it; export it so that each is computed by itself"
        )
    return {"largest_difference": largest}
