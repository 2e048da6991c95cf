"""Two models along whole sampled trajectories."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends import Backend
from ncdeploy.parity.inputs import draw_given
from ncdeploy.parity.report import Trajectory
from ncdeploy.sampling.plan import Plan

TRAJECTORIES = 4


def run_both(
    reference: Backend,
    candidate: Backend,
    plan: Plan,
    rng: np.random.Generator,
    unit: float,
    conditions: Mapping[str, NDArray[Any]] | None = None,
) -> Trajectory:
    """Both models through the plan side by side, on the same noise; each follows its own path."""
    info = reference.info
    given = draw_given(info, TRAJECTORIES, rng, conditions)
    runs = [
        (backend, deque[Any](maxlen=plan.reach), deque[Any](maxlen=plan.reach)) for backend in (reference, candidate)
    ]
    worst = final = 0.0
    for k, sigma in enumerate(plan.sigmas):
        noise = plan.noise[k] * rng.standard_normal((TRAJECTORIES, *info.shape))
        for backend, states, outputs in runs:
            used = [None if D is None else plan.taken(k, D, np.clip) for D in outputs]
            x = noise + _combine(plan.state[k], states) + _combine(plan.denoised[k], used)
            states.appendleft(x)
            outputs.appendleft(None)
            if plan.evaluated[k]:
                level = np.full(TRAJECTORIES, sigma, np.float32)
                outputs[0] = np.array(backend(x.astype(np.float32), level, **given), np.float64)
        mine, other = (states[0].reshape(TRAJECTORIES, -1) for _, states, _ in runs)
        size = np.maximum(unit, _rms(mine))
        final = float(np.nan_to_num(_rms(mine - other) / size, nan=np.inf, posinf=np.inf).max())
        worst = max(worst, final)
    return Trajectory(plan=plan.name, final_rms=final, worst_node_rms=worst)


def _combine(coefficients: Sequence[float] | NDArray[np.float64], arrays: Iterable[Any]) -> Any:
    return sum(c * a for c, a in zip(coefficients, arrays, strict=False) if c)


def _rms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.mean(x**2, axis=1)))
