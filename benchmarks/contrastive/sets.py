"""The data of the study, with what is known exactly about them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.training import Dataset, load_data
from ncdeploy.training.arrays import read_csv

Floats = NDArray[np.float64]

JITTER = 0.03
COUNTS = (50_000, 4_000)
DIGIT_JITTER, COPIES = 0.05, 20
RING = math.sqrt(2 / 1.02)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """data; posterior: the samples and the jitter on them that its exact denoiser is made of, for jittered points the
    true one; jittered: whether the density is known. network: settings; steps of a plain run."""

    name: str
    data: Dataset
    means: NDArray[Any]
    jitter: float
    jittered: bool
    network: dict[str, Any]
    steps: int

    def log_prob(self, x: Floats, sigma: Floats) -> Floats:
        """Exact log density of jittered points with noise sigma [B] on them, at x [B, d]."""
        variance = self.jitter**2 + sigma[:, None] ** 2
        square = ((x[:, None] - self.means) ** 2).sum(axis=-1)
        exponent = -square / (2 * variance)
        top = exponent.max(axis=1, keepdims=True)
        dim = x.shape[1]
        return np.asarray(
            top[:, 0] + np.log(np.exp(exponent - top).mean(axis=1)) - dim / 2 * np.log(2 * math.pi * variance[:, 0])
        )


def load(spec: str, *, steps: int | None) -> Study:
    """A name or file that `ncdeploy train --data` takes, or "ring". A table of points is standardised, and every draw
    of it gets jitter, so that its density is a mixture of Gaussians that is known."""
    if Path(spec).suffix == ".csv":
        return jittered(Path(spec), steps=steps or 6000)
    if spec == "ring":
        return ring(steps=steps or 2000)
    data = load_data(spec)
    if spec == "digits":
        return digits(data, steps=steps or 1500)
    network = {"kind": "mlp", "width": 64, "blocks": 3}
    return Study(
        name=spec, data=data, means=data.x, jitter=0.05, jittered=False, network=network, steps=steps or 4000
    )  # fmt: skip


def digits(data: Dataset, *, steps: int) -> Study:
    """The digits with Gaussian jitter, several draws of each: as they come, they have no density.

    Their values are multiples of 1/8, and some pixels of the corners are never set in the training part. A model of
    such data is surprised without bound by a held-out digit that sets one: a single digit in 192 made up all of the
    log-loss, 2,100 nats. The jitter is a little wider than the rounding, 1/8/sqrt(12) = 0.036.
    """
    rng = np.random.default_rng(0)

    def draws(x: NDArray[Any], copies: int) -> NDArray[np.float32]:
        repeated = np.concatenate([x] * copies)
        return (repeated + DIGIT_JITTER * rng.standard_normal(repeated.shape)).astype(np.float32)

    return Study(
        name="digits",
        data=Dataset(name="digits", x=draws(data.x, COPIES), held_out=draws(data.held_out, 2)),
        means=np.concatenate([data.x, data.held_out]), jitter=DIGIT_JITTER, jittered=False,
        network={"kind": "mlp", "width": 256, "blocks": 3}, steps=steps,
    )  # fmt: skip


def jittered(path: Path, *, steps: int, std: float = JITTER, counts: tuple[int, int] = COUNTS) -> Study:
    """The rows of a CSV, standardised by column, with Gaussian jitter."""
    raw = read_csv(path)
    points = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    return mixture(path.stem, points, std, steps=steps, counts=counts)


def ring(*, steps: int) -> Study:
    """Eight Gaussians on a circle, of unit variance on either axis: a density that a small network can learn."""
    angle = np.pi / 4 * np.arange(8)
    return mixture("ring", RING * np.stack([np.cos(angle), np.sin(angle)], axis=1), RING / 10, steps=steps)


def mixture(name: str, means: Floats, std: float, *, steps: int, counts: tuple[int, int] = COUNTS) -> Study:
    """Draws from Gaussians of one width around means [n, d]; counts: to train on, and to judge by."""
    rng = np.random.default_rng(0)
    draws = means[rng.integers(len(means), size=sum(counts))]
    draws = (draws + std * rng.standard_normal(draws.shape)).astype(np.float32)
    return Study(
        name=name, data=Dataset(name=name, x=draws[: counts[0]], held_out=draws[counts[0] :]), means=means, jitter=std,
        jittered=True, network={"kind": "mlp", "width": 64, "blocks": 3}, steps=steps,
    )  # fmt: skip
