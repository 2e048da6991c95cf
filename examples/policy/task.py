"""A planar reacher: go to the goal, round an obstacle. Either way round is right, and their average is not.

A robot at a place (x, y) is told where to go next and goes there, at most REACH a step. Its demonstrations choose a
side of the obstacle at random. robot.cpp has the same task.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REACH = 0.1  # the longest step
SPEED = 0.08  # of the demonstrations
STEPS = 48  # of an episode
OBSTACLE = 0.25  # radius, around (0, 0)
NEAR = 0.05  # of the goal, at the end
WOBBLE = 0.01  # by which a demonstration is pushed aside, so that it shows how to come back


def episodes(n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Where n robots start, on the left, and their goals, on the right: [n, 2] each."""
    heights = rng.uniform(-0.5, 0.5, (2, n))
    return np.stack([np.full(n, -0.8), heights[0]], 1), np.stack([np.full(n, 0.8), heights[1]], 1)


def moved(place: Floats, target: Floats) -> Floats:
    """One step towards each target, [n, 2]."""
    way = target - place
    length = np.linalg.norm(way, axis=1, keepdims=True)
    return place + way * np.minimum(1, REACH / np.maximum(length, 1e-12))


def demonstrate(n: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Places [n, STEPS, 2], actions [n, STEPS, 2] and goals [n, 2] of n demonstrations."""
    place, goal = episodes(n, rng)
    side = np.stack([np.zeros(n), rng.choice([-0.5, 0.5], n)], 1)
    passed = np.zeros((n, 1), bool)
    places, actions = [], []
    for _ in range(STEPS):
        passed |= place[:, :1] > -0.05
        way = np.where(passed, goal, side) - place
        length = np.linalg.norm(way, axis=1, keepdims=True)
        target = place + way * np.minimum(1, SPEED / np.maximum(length, 1e-12))
        places.append(place)
        actions.append(target)
        place = moved(place, target) + WOBBLE * rng.standard_normal((n, 2))
    return np.stack(places, 1), np.stack(actions, 1), goal


def succeeded(path: Floats, goal: Floats) -> NDArray[np.bool_]:
    """Whether each path [n, steps, 2] ends at its goal and never meets the obstacle."""
    clear = np.linalg.norm(path, axis=2).min(1) > OBSTACLE
    return clear & (np.linalg.norm(path[:, -1] - goal, axis=1) < NEAR)
