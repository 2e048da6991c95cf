"""The inputs on which two models are compared."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition, Value
from ncdeploy.sampling.recipe import SCHEDULES, VARIANCE_PRESERVING

LEVELS, ROWS_PER_LEVEL = 24, 3
TRAINING_LEVELS, USUAL_STEPS = 12, 1000
OUTSIDE = 1.25  # the grid of levels goes past the trained range by this factor
LARGEST_WEIGHT = 3.0  # of guidance
SAMPLES = 5  # that conditions are drawn for

Floats = NDArray[np.float32]


class Pool:
    """The inputs: three rows per level, two of noisy data and one of pure noise, each with its own label and weight."""

    def __init__(
        self,
        info: ModelInfo,
        grid: NDArray[np.float64],
        rng: np.random.Generator,
        conditions: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.level = np.tile(np.arange(len(grid)), ROWS_PER_LEVEL)
        sigma = grid[self.level]
        clean = rng.standard_normal((len(sigma), *info.shape)) * info.sigma_data
        clean[-len(grid) :] = 0
        noise = rng.standard_normal(clean.shape)
        self.sigma: Floats = sigma.astype(np.float32)
        self.x: Floats = (clean + sigma.reshape(-1, *[1] * len(info.shape)) * noise).astype(np.float32)
        self.given = draw_given(info, len(sigma), rng, conditions)

    def __len__(self) -> int:
        return len(self.sigma)

    def condition(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """What the network is given beside x and sigma in these rows; conditions are those of all samples."""
        return {k: v if k == "conditions" else v[rows] for k, v in self.given.items()}

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


def draw_given(
    info: ModelInfo, rows: int, rng: np.random.Generator, conditions: Mapping[str, NDArray[Any]] | None = None
) -> dict[str, Any]:
    """What a model takes beside x and sigma: labels int64 [rows], weights of guidance float32 [rows], conditions, as
    given or drawn for SAMPLES samples, with sample int64 [rows]; or less."""
    given: dict[str, Any] = {}
    if info.num_classes:
        given["labels"] = rng.integers(0, len(info.labels), rows)
    if info.guidance:
        given["guidance"] = rng.uniform(0, LARGEST_WEIGHT, rows).astype(np.float32)
    if info.conditions:
        drawn = conditions or {c.name: draw_condition(c, SAMPLES, rng) for c in info.conditions}
        given["conditions"] = drawn
        given["sample"] = rng.integers(0, len(next(iter(drawn.values()))), rows)
    return given


def draw_samples(info: ModelInfo, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Conditions for `ncdeploy.sample` of n samples: the classes in turn, and drawn values of all others."""
    labels = {"labels": np.arange(n) % len(info.labels)} if info.num_classes else {}
    return {**labels, **{c.name: draw_condition(c, n, rng) for c in info.conditions}}


def draw_condition(condition: Value, n: int, rng: np.random.Generator) -> NDArray[Any]:
    """[n, *shape] for n samples, the last of them the null value where there is one: standard normal; of integers, 0
    or 1, for how many there are is not known."""
    shape = (n, *condition.shape)
    integers = condition.dtype == "int64"
    values = rng.integers(0, 2, shape) if integers else rng.standard_normal(shape).astype(np.float32)
    if isinstance(condition, Condition) and condition.null is not None:
        values[-1] = condition.none()
    return values
