"""iPNDM: Adams-Bashforth on the predicted noise eps = (x - D) / sigma."""

from itertools import pairwise

from numpy.typing import ArrayLike

from ncdeploy.errors import InputError
from ncdeploy.sampling.plan import Plan, PlanBuilder
from ncdeploy.sampling.schedules import check_sigmas
from ncdeploy.sampling.solvers.base import solver

# Weights of eps_k, eps_{k-1}, ... for 1 to 4 remembered values, for equal steps.
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@solver(order=4)  # for equal steps
def ipndm(sigmas: ArrayLike, *, order: int = 4, scale: float | None = None) -> Plan:
    """x' = x + (s' - s) eps_eff, eps_eff from up to `order` nodes (Zhang & Chen 2023, "DEIS", iPNDM).

    order: 1 to 4. The first steps have fewer nodes behind them and use a lower order. The weights assume
    equal steps in sigma; on schedules of smoothly changing steps they give order 2.
    """
    if order not in ADAMS_BASHFORTH:
        raise InputError(f"order: got {order}, expected 1 to {max(ADAMS_BASHFORTH)} for ipndm")
    levels = check_sigmas(sigmas)
    plan = PlanBuilder(f"ipndm-{len(levels) - 1}", levels[0], scale=scale)
    for k, (s, s_next) in enumerate(pairwise(levels)):
        slopes = {k - i: (s_next - s) * w / levels[k - i] for i, w in enumerate(ADAMS_BASHFORTH[min(k + 1, order)])}
        plan.node(
            s_next,
            state={j: slope + (1 if j == k else 0) for j, slope in slopes.items()},
            denoised={j: -slope for j, slope in slopes.items()},
        )
    return plan.build()
