"""Two-dimensional data sets, generated here: small enough to look at, hard enough to show a bad sampler.

Each function maps (count, rng) to float64 [count, 2]. The cloud comes out standardised to zero mean and unit
variance per axis by the *exact* moments of a large fixed draw, so that two draws of one set share their units.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def moons(count: int, rng: np.random.Generator) -> Points:
    """Two interleaved half circles of radius 1, Gaussian noise 0.06."""
    upper = rng.random(count) < 0.5
    angle = np.pi * rng.random(count)
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], axis=1) + 0.06 * rng.standard_normal((count, 2))


def swiss_roll(count: int, rng: np.random.Generator) -> Points:
    """A spiral strip r = t, t from 1.5 pi to 4.5 pi, Gaussian noise 0.3."""
    t = 1.5 * np.pi * (1 + 2 * rng.random(count))
    roll = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
    return roll + 0.3 * rng.standard_normal((count, 2))


def checkerboard(count: int, rng: np.random.Generator) -> Points:
    """The eight dark fields of a 4 x 4 board, uniform in each: sharp edges and no tails."""
    column = rng.integers(0, 4, count)
    row = 2 * rng.integers(0, 2, count) + column % 2
    return np.stack([column, row], axis=1) + rng.random((count, 2))


def eight_gaussians(count: int, rng: np.random.Generator) -> Points:
    """Eight Gaussians of standard deviation 0.1 on a circle of radius 1: separated modes."""
    angle = np.pi / 4 * rng.integers(0, 8, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.standard_normal((count, 2))


def spirals(count: int, rng: np.random.Generator) -> Points:
    """Two spirals half a turn apart, equally dense along their length, Gaussian noise 0.1."""
    t = 3 * np.pi * np.sqrt(rng.random(count))
    side = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    arms = np.stack([-np.cos(t) * t, np.sin(t) * t], axis=1) / 3
    return side[:, None] * arms + 0.1 * rng.standard_normal((count, 2))


TOY_SETS: dict[str, Callable[[int, np.random.Generator], Points]] = {
    "moons": moons,
    "swiss-roll": swiss_roll,
    "checkerboard": checkerboard,
    "eight-gaussians": eight_gaussians,
    "spirals": spirals,
}


@cache
def _moments(name: str) -> tuple[Points, Points]:
    reference = TOY_SETS[name](100_000, np.random.default_rng(0))
    return reference.mean(axis=0), reference.std(axis=0)


def generate(name: str, count: int, *, seed: int) -> Points:
    """Standardised points float64 [count, 2] of one of TOY_SETS; the same seed gives the same points."""
    mean, std = _moments(name)
    return (TOY_SETS[name](count, np.random.default_rng(seed)) - mean) / std
