"""DPM-Solver++ 2M and its SDE form: exponential integrators in lambda = -ln sigma that remember one D.

Both extrapolate D half a step ahead (the midpoint variant): with h = ln(s / s') and r = h_before / h,

    D_mid = D + (D - D_before) / 2r

and integrate the linear part of the ODE or SDE exactly. The first step has no D_before, and the
step to 0 has h = infinity: both use D itself.
"""

from itertools import pairwise
from math import log, sqrt

from numpy.typing import ArrayLike

from ncdeploy.sampling.plan import Plan, PlanBuilder
from ncdeploy.sampling.schedules import check_sigmas
from ncdeploy.sampling.solvers.base import solver


@solver(order=2)
def dpmpp_2m(sigmas: ArrayLike, *, scale: float | None = None) -> Plan:
    """DPM-Solver++(2M), order 2, deterministic (Lu et al. 2022, "DPM-Solver++", algorithm 2)."""
    levels = check_sigmas(sigmas)
    plan = PlanBuilder(f"dpmpp_2m-{len(levels) - 1}", levels[0], scale=scale)
    for k, (s, s_next) in enumerate(pairwise(levels)):
        keep = s_next / s  # exp(-h)
        plan.node(s_next, state={k: keep}, denoised=_midpoint(levels, k, weight=1 - keep))
    return plan.build()


@solver(order=2, stochastic=True)
def dpmpp_2m_sde(sigmas: ArrayLike, *, scale: float | None = None) -> Plan:
    """SDE-DPM-Solver++(2M), stochastic (Lu et al. 2022, "DPM-Solver++", fast solvers for SDEs).

    Without the extrapolation its step is the posterior of ddpm; with it variances converge with order 2.
    """
    levels = check_sigmas(sigmas)
    plan = PlanBuilder(f"dpmpp_2m_sde-{len(levels) - 1}", levels[0], scale=scale)
    for k, (s, s_next) in enumerate(pairwise(levels)):
        keep = (s_next / s) ** 2  # exp(-2h)
        noise = s_next * sqrt(1 - keep)
        plan.node(s_next, state={k: keep}, denoised=_midpoint(levels, k, weight=1 - keep), noise=noise)
    return plan.build()


def _midpoint(levels: list[float], k: int, *, weight: float) -> dict[int, float]:
    """weight * D_mid of the step from node k, as coefficients of D_k and D_{k-1}."""
    if k == 0 or levels[k + 1] == 0:
        return {k: weight}
    h_before, h = log(levels[k - 1] / levels[k]), log(levels[k] / levels[k + 1])
    ahead = h / (2 * h_before)  # 1 / 2r
    return {k: weight * (1 + ahead), k - 1: -weight * ahead}
