"""The inputs on which two models are compared."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.recipe import SCHEDULES, VARIANCE_PRESERVING

LEVELS, ROWS_PER_LEVEL = 24, 3
TRAINING_LEVELS, USUAL_STEPS = 12, 1000
OUTSIDE = 1.25  # the grid of levels goes past the trained range by this factor
LARGEST_WEIGHT = 3.0  # of guidance

Floats = NDArray[np.float32]


class Pool:
    """The inputs: three rows per level, two of noisy data and one of pure noise, each with its own label and weight."""

    def __init__(self, info: ModelInfo, grid: NDArray[np.float64], rng: np.random.Generator) -> None:
        self.level = np.tile(np.arange(len(grid)), ROWS_PER_LEVEL)
        sigma = grid[self.level]
        clean = rng.standard_normal((len(sigma), *info.shape)) * info.sigma_data
        clean[-len(grid) :] = 0
        noise = rng.standard_normal(clean.shape)
        self.sigma: Floats = sigma.astype(np.float32)
        self.x: Floats = (clean + sigma.reshape(-1, *[1] * len(info.shape)) * noise).astype(np.float32)
        self.condition = draw_condition(info, len(sigma), rng)

    def __len__(self) -> int:
        return len(self.sigma)

    def order(self, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Row numbers in random order that visit every level at least once and fill batches of this size."""
        levels = len(self) // ROWS_PER_LEVEL
        count = -(-levels // batch) * batch
        first = rng.permutation(levels) + levels * rng.integers(0, ROWS_PER_LEVEL, levels)
        rest = np.setdiff1d(np.arange(len(self)), first)
        return rng.permutation(np.concatenate([first, rng.permutation(rest)[: count - levels]]))


def draw_levels(info: ModelInfo, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise levels [L], increasing: 24 over the trained range and a little beyond and, of a model of discrete steps, 12
    of its training levels. A network that takes whole steps is only asked at its own there, and only asked right there.

    Raises InputError for a default plan whose levels are none.
    """
    spread = np.geomspace(info.sigma_min / OUTSIDE, info.sigma_max * OUTSIDE, LEVELS)
    name, levels = info.default_plan.get("schedule"), info.default_plan.get("levels")
    if name not in VARIANCE_PRESERVING:
        return spread
    table = {} if levels is None else {"levels": levels}
    trained = SCHEDULES[name](USUAL_STEPS if levels is None else len(levels), **table)[:-1]
    some = rng.choice(trained, min(TRAINING_LEVELS, len(trained)), replace=False)
    return np.sort(np.concatenate([spread, some]))


def draw_condition(info: ModelInfo, rows: int, rng: np.random.Generator) -> list[NDArray[Any]]:
    """What a model takes beside x and sigma: labels int64 [rows] and weights of guidance float32 [rows], or less."""
    condition: list[NDArray[Any]] = []
    if info.num_classes:
        condition.append(rng.integers(0, len(info.labels), rows))
    if info.guidance:
        condition.append(rng.uniform(0, LARGEST_WEIGHT, rows).astype(np.float32))
    return condition
