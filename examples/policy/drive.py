"""The trained policy in a closed loop, in Python, and what a chunk of its actions costs."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.policy import task
from examples.policy.task import Floats
from examples.policy.train import GOAL, STATE
from ncdeploy import Backend, Plan, Result, sample

CHUNKS = 100  # at most, of an episode: its seeds are CHUNKS * episode + chunk


@dataclass(frozen=True, kw_only=True)
class Drive:
    """paths [n, steps + 1, 2], actions [n, steps, 2]; calls: of the network for a chunk, on average of the batches."""

    paths: Floats
    actions: Floats
    success: float
    calls: float


def drive(engine: Backend, plan: Plan, starts: Floats, goals: Floats, window: int | None) -> Drive:
    """All episodes side by side: a sample depends on its own seed alone."""
    places, actions, depths = [starts, starts], [], []  # the first is seen twice
    for chunk in range(CHUNKS):
        if len(actions) >= task.STEPS:
            break
        seeds = [CHUNKS * episode + chunk for episode in range(len(starts))]
        done = sample(engine, plan, seeds=seeds, conditions=seen(places, goals), window=window)
        depths.append(float(np.mean(done.sweeps)))
        for targets in actions_of(done).transpose(1, 0, 2)[: task.STEPS - len(actions)]:
            actions.append(targets)
            places.append(task.moved(places[-1], targets))
    paths = np.stack(places[1:], 1)
    return Drive(
        paths=paths, actions=np.stack(actions, 1), success=float(task.succeeded(paths, goals).mean()),
        calls=float(np.mean(depths)),
    )  # fmt: skip


def seen(places: list[Floats], goals: Floats) -> Mapping[str, Any]:
    """What the encoder takes: the last two places, and the goal, which does not move."""
    return {STATE: np.stack(places[-2:], 1), GOAL: np.stack([goals, goals], 1)}


def actions_of(result: Result) -> Floats:
    """What the decoder gave, [n, actions, 2]."""
    return np.asarray(result.decoded, np.float64)


def milliseconds(engine: Backend, plan: Plan, starts: Floats, goals: Floats, window: int | None) -> float:
    """Of one chunk of one robot, encoder and decoder included: the median of several, after the first."""
    taken = []
    for i in range(min(len(starts), 16)):
        start = time.perf_counter()
        conditions = seen([starts[i : i + 1]] * 2, goals[i : i + 1])
        sample(engine, plan, seeds=[CHUNKS * i], conditions=conditions, window=window)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[1:] or taken)
