"""Forward substitution through a plan in float64, as its definition reads; tests compare with it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.plan import Plan

Floats = NDArray[np.float64]


def substitute(plan: Plan, denoise: Callable[[Floats, Floats], Floats], noise: Floats) -> Floats:
    """States of all nodes [n, B, d] for given draws xi [n, B, d]; denoise(x [B, d], sigma [B]) -> [B, d]."""
    states, outputs = np.zeros_like(noise), np.zeros_like(noise)
    for k in range(len(plan)):
        states[k] = plan.noise[k] * noise[k]
        for h in range(min(k, plan.reach)):
            j = k - 1 - h
            states[k] += plan.state[k, h] * states[j] + plan.denoised[k, h] * outputs[j]
        if plan.evaluated[k]:
            outputs[k] = denoise(states[k], np.full(noise.shape[1], plan.sigmas[k]))
    return states
