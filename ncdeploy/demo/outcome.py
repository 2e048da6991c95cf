"""What a demo run found, as numbers: the page shows them, figures.json holds them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.demo.watch import Pair
from ncdeploy.evaluation.bench import Bench
from ncdeploy.evaluation.distances import energy_distance
from ncdeploy.modelinfo import ModelInfo


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the model came about; losses: (step, loss), evenly thinned."""

    objective: str
    steps: int
    seconds: float
    parameters: int
    samples: int
    losses: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Energy distances to `held_out` real samples that training never saw, each from n samples.

    floor: from n training samples instead (mean over draws of that size): what a perfect model would score.
    """

    n: int
    held_out: int
    floor: float
    sequential: float
    parallel: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """Everything the page tells.

    gains:  what window="auto" gains, the best case first
    short, long: runs with a fixed window, to look at
    stages: (name, seconds) of the whole run; machine: what it ran on
    """

    info: ModelInfo
    training: Training
    parity: dict[str, Any]
    gains: tuple[Bench, ...]
    short: Pair
    long: Pair
    quality: Quality
    machine: str
    engine: str
    stages: tuple[tuple[str, float], ...]

    def figures(self) -> dict[str, Any]:
        """JSON-able record of the numbers, without pictures."""
        return {
            "data": self.info.data,
            "machine": self.machine,
            "engine": self.engine,
            "training": asdict(self.training),
            "parity": self.parity,
            "gains": [bench.figures() for bench in self.gains],
            "runs": [self.short.figures(), self.long.figures()],
            "energy_distance": asdict(self.quality),
            "stages_s": dict(self.stages),
        }


def measure_quality(pair: Pair, train: NDArray[np.float32], held_out: NDArray[np.float32], *, seed: int) -> Quality:
    """Energy distances of a pair's samples to held_out [m, *shape], and the floor from train [N, *shape].

    A V-statistic falls with the number of samples, so the floor is taken at the same number: the mean over
    draws from the training set, or the whole set where there are as many samples as that.
    """
    real = held_out.reshape(len(held_out), -1)
    n = min(len(pair.rms), len(train))
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(len(train))[:n] for _ in range(1 if n == len(train) else 8)]
    floor = float(np.mean([energy_distance(train[rows].reshape(n, -1), real) for rows in draws]))
    sequential, parallel = (
        energy_distance(np.asarray(run.result.samples)[:n].reshape(n, -1), real)
        for run in (pair.sequential, pair.parallel)
    )
    return Quality(n=n, held_out=len(real), floor=floor, sequential=sequential, parallel=parallel)
