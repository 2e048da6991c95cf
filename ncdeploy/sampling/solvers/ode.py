"""One-step methods on the probability flow dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, eq. 1 and 3)."""

from itertools import pairwise

from numpy.typing import ArrayLike

from ncdeploy.sampling.plan import Plan, PlanBuilder
from ncdeploy.sampling.schedules import check_sigmas
from ncdeploy.sampling.solvers.base import solver


@solver(order=1)
def euler(sigmas: ArrayLike, *, scale: float | None = None) -> Plan:
    """Euler's method, order 1: x' = x + (s' - s) (x - D) / s. The same map as deterministic ddim."""
    levels = check_sigmas(sigmas)
    plan = PlanBuilder(f"euler-{len(levels) - 1}", levels[0], scale=scale)
    for k, (s, s_next) in enumerate(pairwise(levels)):
        h = s_next - s
        plan.node(s_next, state={k: 1 + h / s}, denoised={k: -h / s})
    return plan.build()


@solver(order=2)
def heun(sigmas: ArrayLike, *, scale: float | None = None) -> Plan:
    """Heun's method, order 2 (Karras et al. 2022, algorithm 1). The step to 0 is Euler's.

    The Euler prediction of each step is a node of its own, so `steps` steps to 0 cost 2 steps - 1 evaluations.
    """
    levels = check_sigmas(sigmas)
    plan = PlanBuilder(f"heun-{len(levels) - 1}", levels[0], scale=scale)
    k = 0
    for s, s_next in pairwise(levels):
        h = s_next - s
        predicted = plan.node(s_next, state={k: 1 + h / s}, denoised={k: -h / s})
        if s_next == 0:
            break
        slope, slope_next = h / (2 * s), h / (2 * s_next)  # half the step along each (x - D) / sigma
        k = plan.node(
            s_next,
            state={k: 1 + slope, predicted: slope_next},
            denoised={k: -slope, predicted: -slope_next},
        )
    return plan.build()
