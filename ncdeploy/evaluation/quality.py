"""How good samples are, sequentially and in parallel, against how many network calls in a row they took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.evaluation.distances import energy_distance, median_distance, mmd
from ncdeploy.result import Result
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Run:
    """One way of sampling; window None is sequential. Distances are to held-out data, in model units.

    rms: to the sequential samples from the same noise, median over samples; None for those themselves
    """

    plan: str
    window: int | None
    tolerance: float | None
    depth: int
    nfe: float
    energy: float
    mmd: float
    rms: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """runs; the same distances from training data to held-out data (floors); kernel bandwidth; n samples a run.

    samples: [n, *shape] of the last run, to look at
    """

    runs: tuple[Run, ...]
    energy_floor: float
    mmd_floor: float
    bandwidth: float
    n: int
    samples: NDArray[Any]


def measure_quality(
    denoise: Callable[..., Any], plans: Sequence[tuple[Plan, Sequence[tuple[int, float]]]], train: NDArray[Any],
    held_out: NDArray[Any], *, n: int, labels: NDArray[np.int64] | None = None, bandwidth: float | None = None,
    max_rows: int | None = None,
) -> Quality:  # fmt: skip
    """Sample each plan sequentially and with each (window, tolerance), from seeds 0 .. n - 1.

    The floors come from n training samples, the mean over draws of that many. bandwidth: of the Gaussian kernel, by
    default the median distance within the held-out data.
    """
    width = median_distance(held_out, held_out) if bandwidth is None else bandwidth
    classes = None if labels is None else labels.tolist()
    rng = np.random.default_rng(0)
    draws = [train[rng.permutation(len(train))[:n]] for _ in range(4)]
    runs = []
    for plan, ways in plans:
        exact = sample(
            denoise, plan, seeds=range(n), conditions={"labels": classes}, options=SampleOptions(max_rows=max_rows)
        )
        found: list[tuple[int | None, float | None, Result]] = [(None, None, exact)]
        for most, tolerance in ways:
            result = sample(
                denoise, plan, seeds=range(n), conditions={"labels": classes}, window=most, tolerance=tolerance,
                options=SampleOptions(max_rows=max_rows),
            )  # fmt: skip
            found.append((result.window, tolerance, result))
        for at, limit, result in found:
            off = ((result.samples - exact.samples) ** 2).reshape(n, -1).mean(axis=1)
            runs.append(
                Run(
                    plan=plan.name,
                    window=at,
                    tolerance=limit,
                    depth=int(result.sweeps.max()),
                    nfe=result.nfe,
                    energy=energy_distance(result.samples, held_out),
                    mmd=mmd(result.samples, held_out, bandwidth=width),
                    rms=None if at is None else float(np.median(np.sqrt(off))),
                )
            )
    return Quality(
        runs=tuple(runs),
        energy_floor=float(np.mean([energy_distance(draw, held_out) for draw in draws])),
        mmd_floor=float(np.mean([mmd(draw, held_out, bandwidth=width) for draw in draws])),
        bandwidth=width, n=n, samples=np.asarray(found[-1][2].samples),
    )  # fmt: skip
