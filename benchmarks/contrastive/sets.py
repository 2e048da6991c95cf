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
    """A name or file that `ncdeploy train --data` takes. A table of points is standardised, and every draw of it gets
    jitter, so that its density is a mixture of Gaussians that is known."""
    if Path(spec).suffix == ".csv":
        return jittered(Path(spec), steps=steps or 6000)
    data = load_data(spec)
    if spec == "digits":
        network = {"kind": "mlp", "width": 256, "blocks": 3}
        means = np.concatenate([data.x, data.held_out])
        return Study(
            name=spec, data=data, means=means, jitter=0.0, jittered=False, network=network, steps=steps or 4000
        )
    network = {"kind": "mlp", "width": 64, "blocks": 3}
    return Study(
        name=spec, data=data, means=data.x, jitter=0.05, jittered=False, network=network, steps=steps or 4000
    )  # fmt: skip


def jittered(path: Path, *, steps: int) -> Study:
    """The rows of a CSV, standardised by column, with Gaussian jitter."""
    raw = read_csv(path)
    points = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    rng = np.random.default_rng(0)
    draws = points[rng.integers(len(points), size=54_000)]
    draws = (draws + JITTER * rng.standard_normal(draws.shape)).astype(np.float32)
    data = Dataset(name=path.stem, x=draws[:50_000], held_out=draws[50_000:])
    network = {"kind": "mlp", "width": 64, "blocks": 3}
    return Study(
        name=path.stem, data=data, means=points, jitter=JITTER, jittered=True, network=network, steps=steps
    )  # fmt: skip
