"""One-step methods on the probability flow dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, eq. 1 and 3)."""

from itertools import pairwise
from math import hypot, inf, sqrt

from numpy.typing import ArrayLike

from ncdeploy.errors import InputError
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
def heun(
    sigmas: ArrayLike,
    *,
    churn: float = 0.0,
    churn_noise: float = 1.0,
    churn_min: float = 0.0,
    churn_max: float = inf,
    scale: float | None = None,
) -> Plan:
    """Heun's method, order 2 (Karras et al. 2022, algorithm 1), or with churn their stochastic sampler (algorithm 2).

    The step to 0 is Euler's. The Euler prediction of each step is a node of its own, so `steps` steps to 0 cost
    2 steps - 1 evaluations.

    churn:       S_churn of the paper, 0 or more. Before a step from a level of churn_min to churn_max noise is added,
                 up to 1 + min(churn / steps, sqrt(2) - 1) times the level; the step begins there
    churn_noise: S_noise, standard deviation of that noise beside what the level asks for; 1 or a little more
    churn_min, churn_max: S_min and S_max, in units of the data

    The raised states are the nodes: the noise is part of the row before them, also of node 0, which is pure noise. Each
    return to noise is another chance for two modes to part: with much of it (gamma = 0.28) 2 in 100 samples of a
    mixture end elsewhere at the usual tolerance of parallel sampling, 1e-3, and none at 3e-4.
    """
    if not 0 <= churn < inf:
        raise InputError(f"churn: got {churn}, expected 0 (deterministic) or more; 40 is usual")
    if not 0 < churn_noise < inf:
        raise InputError(f"churn_noise: got {churn_noise}, expected above 0; 1 is exact, up to 1.01 usual")
    if not 0 <= churn_min <= churn_max:
        raise InputError(f"churn range: got {churn_min} .. {churn_max}, expected 0 <= churn_min <= churn_max")
    if churn == 0 and (churn_noise, churn_min, churn_max) != (1.0, 0.0, inf):
        raise InputError("churn_noise, churn_min, churn_max: are of the noise that churn adds; give churn too")
    levels = check_sigmas(sigmas)
    gamma = min(churn / (len(levels) - 1), sqrt(2) - 1)
    raised = [s * (1 + gamma) if s and churn_min <= s <= churn_max else s for s in levels]
    raised[-1] = levels[-1]  # no step begins there
    noise = [churn_noise * sqrt(r**2 - s**2) for r, s in zip(raised, levels, strict=True)]
    start = levels[0] if scale is None else scale
    plan = PlanBuilder(f"heun-{len(levels) - 1}", raised[0], scale=hypot(start, noise[0]))
    k = 0
    for i, s_next in enumerate(levels[1:], 1):
        s = raised[i - 1]
        h = s_next - s
        predicted = plan.node(s_next, state={k: 1 + h / s}, denoised={k: -h / s})
        if s_next == 0:
            break
        slope, slope_next = h / (2 * s), h / (2 * s_next)  # half the step along each (x - D) / sigma
        k = plan.node(
            raised[i],
            state={k: 1 + slope, predicted: slope_next},
            denoised={k: -slope, predicted: -slope_next},
            noise=noise[i],
        )
    return plan.build()
