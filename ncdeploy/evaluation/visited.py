"""How well a model denoises where parallel sampling really asks it: on states that are not yet right.

The iterates of a parallel run are not x0 + sigma n until they have converged. A recording denoiser keeps a part of
what the driver asks; the error of the answers is taken to the posterior mean over the data (`Posterior`), which is
defined on any state, and compared with the error on states x0 + sigma n at the same noise levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.modelinfo import ModelInfo
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.posterior import Posterior

Floats = NDArray[np.float64]

SWEEPS = (1, 2, 4, 8)  # first sweep of each group; the last group goes on to the end


class Recorder:
    """A denoiser that remembers `most` rows of every call: sweep, x, sigma and what the model said."""

    def __init__(self, denoise: Callable[..., Any], info: ModelInfo, *, most: int, seed: int) -> None:
        self.denoise, self.info, self.most = denoise, info, most
        self.rng = np.random.default_rng(seed)
        self.calls = 0
        self.kept: list[tuple[NDArray[Any], ...]] = []

    def __call__(self, x: NDArray[Any], sigma: NDArray[Any], *labels: NDArray[Any]) -> NDArray[Any]:
        self.calls += 1
        out: NDArray[Any] = self.denoise(x, sigma, *labels)
        rows = self.rng.permutation(len(x))[: self.most]
        self.kept.append((np.full(len(rows), self.calls), x[rows], sigma[rows], out[rows], *(v[rows] for v in labels)))
        return out


@dataclass(frozen=True, kw_only=True)
class Group:
    """Root of the mean squared error, relative to that of noise (sigma^2 sigma_d^2/(sigma^2 + sigma_d^2) is 1), in one
    cell of sweeps and noise levels: on the visited states, and on x0 + sigma n at the same noise levels."""

    sweeps: tuple[int, int]
    sigma: tuple[float, float]
    states: int
    visited: float
    training: float


@dataclass(frozen=True, kw_only=True)
class Visited:
    """One Group for each cell that has states, and the roots over all states."""

    groups: tuple[Group, ...]
    visited: float
    training: float


def visited_error(
    denoise: Callable[..., Any], info: ModelInfo, plan: Plan, posterior: Posterior, data: NDArray[Any], *,
    window: int | None, seeds: Sequence[int], tolerance: float, edges: Sequence[float] = (0.1, 1.0, 10.0),
    most: int = 256, labels: NDArray[np.int64] | None = None, max_rows: int | None = None,
) -> Visited:  # fmt: skip
    """Run the plan in parallel, or with window=None one evaluation after the other, and compare the model with the
    posterior mean on what was asked.

    data: [n, *shape], where training states come from; edges: between groups of sigma; most: states kept per call;
    labels: one for each seed; the posterior knows nothing of them, so compare conditional models with each other only
    """
    recorder = Recorder(denoise, info, most=most, seed=0)
    sample(
        recorder, plan, seeds=seeds, conditions={"labels": labels}, window=window,
        tolerance=tolerance, options=SampleOptions(max_rows=max_rows),
    )  # fmt: skip
    sweep, x, sigma, out, *classes = (np.concatenate(column) for column in zip(*recorder.kept, strict=True))
    rng = np.random.default_rng(1)
    wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
    clean = data[rng.integers(len(data), size=len(x))] + wide * rng.standard_normal(x.shape)
    clean = clean.astype(x.dtype)
    parts = [slice(i, i + 4096) for i in range(0, len(x), 4096)]
    answers = np.concatenate([denoise(clean[at], sigma[at], *(c[at] for c in classes)) for at in parts])
    unit = sigma.astype(np.float64) ** 2 * info.sigma_data**2 / (sigma.astype(np.float64) ** 2 + info.sigma_data**2)
    errors = [_squared(out, posterior(x, sigma)) / unit, _squared(answers, posterior(clean, sigma)) / unit]
    bounds = [0.0, *edges, float(plan.sigmas[0]) * 1.001]
    groups = []
    for first, last in pairwise((*SWEEPS, plan.evaluations + 1)):
        for low, high in pairwise(bounds):
            rows = (sweep >= first) & (sweep < last) & (sigma >= low) & (sigma < high)
            if rows.any():
                one, two = (float(np.sqrt(e[rows].mean())) for e in errors)
                groups.append(
                    Group(
                        sweeps=(first, last - 1), sigma=(low, high), states=int(rows.sum()), visited=one, training=two
                    )
                )
    whole = [float(np.sqrt(e.mean())) for e in errors]
    return Visited(groups=tuple(groups), visited=whole[0], training=whole[1])


def _squared(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    return np.asarray(((a.astype(np.float64) - b) ** 2).reshape(len(a), -1).mean(axis=1))
