"""DDPM and DDIM: the Gaussian posterior q(x' | x, x0), with x0 replaced by D.

In variance-exploding coordinates the posterior of the level s' < s is

    x' = (s'^2 / s^2) x + (1 - s'^2 / s^2) x0 + sqrt(v) xi,    v = s'^2 (s^2 - s'^2) / s^2
"""

from itertools import pairwise
from math import sqrt
from typing import Literal, get_args

from numpy.typing import ArrayLike

from ncdeploy.errors import InputError
from ncdeploy.sampling.plan import Plan, PlanBuilder
from ncdeploy.sampling.schedules import check_sigmas
from ncdeploy.sampling.solvers.base import solver

Variance = Literal["posterior", "beta"]


@solver(order=1, stochastic=True, schedule="ddpm")
def ddpm(sigmas: ArrayLike, *, variance: Variance = "posterior", scale: float | None = None) -> Plan:
    """Ancestral sampling (Ho et al. 2020, algorithm 2).

    variance: "posterior" is beta-tilde, the variance v above, optimal when x0 is a single point;
              "beta" is the forward step's own, optimal when x0 is white noise. Zero in the last step to 0.
    """
    if variance not in get_args(Variance):
        raise InputError(f"variance: got {variance!r}, expected one of {', '.join(get_args(Variance))}")
    levels = check_sigmas(sigmas)
    plan = PlanBuilder(f"ddpm-{len(levels) - 1}", levels[0], scale=scale)
    for k, (s, s_next) in enumerate(pairwise(levels)):
        if variance == "posterior":
            v = s_next**2 * (s**2 - s_next**2) / s**2
        else:
            v = (s**2 - s_next**2) * (1 + s_next**2) / (1 + s**2) if s_next else 0.0
        shrink = s_next**2 / s**2
        plan.node(s_next, state={k: shrink}, denoised={k: 1 - shrink}, noise=sqrt(v))
    return plan.build()


@solver(order=1, schedule="ddpm")
def ddim(sigmas: ArrayLike, *, eta: float = 0.0, scale: float | None = None) -> Plan:
    """Non-Markovian sampling (Song et al. 2021, eq. 12 and 16).

    eta: share of the posterior's noise, 0 (deterministic) to 1 (= ddpm with posterior variance).
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta: got {eta}, expected 0 (deterministic) to 1 (as noisy as ddpm)")
    levels = check_sigmas(sigmas)
    plan = PlanBuilder(f"ddim-{len(levels) - 1}", levels[0], scale=scale)
    for k, (s, s_next) in enumerate(pairwise(levels)):
        v = s_next**2 * (s**2 - s_next**2) / s**2
        direction = sqrt(s_next**2 - eta**2 * v) / s  # of (x - D), which is s times the predicted noise
        plan.node(s_next, state={k: direction}, denoised={k: 1 - direction}, noise=eta * sqrt(v))
    return plan.build()
