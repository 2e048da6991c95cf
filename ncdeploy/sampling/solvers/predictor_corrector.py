"""UniPC: a predictor and a corrector that share their evaluations (Zhao et al. 2023), with data prediction.

In lambda = -ln sigma the exact step is x' = exp(-h) x + (1 - exp(-h)) E[D(tau)], a mean over the step,
tau from 0 to 1, with density proportional to exp(h tau). UniPC writes D through D_0, the newest output,
and the D_i that lie r_i steps from it (r_i < 0 for older ones, r = 1 for the prediction at the end):

    x' = exp(-h) x + (1 - exp(-h)) (D_0 + sum_i rho_i (D_i - D_0) / r_i)
    sum_i rho_i r_i^(n-1) = E[tau^n],   n = 1, 2, ...        exact for polynomials D(tau)

E[tau^n] is the paper's n! phi_(n+1) h / B(h) with B(h) = exp(h) - 1, its B2. Where there is one D_i, the
predictor of order 2 and the corrector of order 1, the paper takes rho = 1/2 instead, which E[tau] tends to.
"""

from itertools import pairwise
from math import expm1, factorial, inf, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError
from ncdeploy.sampling.plan import Plan, PlanBuilder
from ncdeploy.sampling.schedules import check_sigmas
from ncdeploy.sampling.solvers.base import solver

HIGHEST_ORDER = 3


@solver(order=3)
def unipc(sigmas: ArrayLike, *, order: int = 2, scale: float | None = None) -> Plan:
    """UniPC-p with p = order, 1 to 3 (Zhao et al. 2023, algorithms 1 and 2). It converges with order p + 1.

    Each step predicts (UniP-p), evaluates D at the prediction, and corrects the state with it (UniC-p, of
    order p + 1); the corrected state is a node at which D is not evaluated, so `steps` steps cost `steps`
    evaluations. The sample is a prediction. The first steps have fewer outputs behind them and use a lower
    order, and so do the last ones of a schedule that ends in 0, the step to 0 itself being of order 1.
    """
    if order not in range(1, HIGHEST_ORDER + 1):
        raise InputError(f"order: got {order}, expected 1 to {HIGHEST_ORDER} for unipc")
    levels = check_sigmas(sigmas)
    steps = len(levels) - 1
    plan = PlanBuilder(f"unipc-{steps}", levels[0], scale=scale)
    corrected = 0
    outputs = [0]  # the node of D at each level so far
    for i, (s, s_next) in enumerate(pairwise(levels)):
        p = min(int(order), i + 1, steps - i if levels[-1] == 0 else steps)
        h = log(s / s_next) if s_next else inf
        keep = s_next / s  # exp(-h)
        r = {outputs[i - j]: log(s / levels[i - j]) / h for j in range(1, p)}
        mean = _mean_output(outputs[i], r, h, halve=p == 2)
        predicted = plan.node(s_next, state={corrected: keep}, denoised={j: (1 - keep) * c for j, c in mean.items()})
        if i + 1 == steps:
            break
        mean = _mean_output(outputs[i], {**r, predicted: 1.0}, h, halve=p == 1)
        corrected = plan.node(
            s_next, state={corrected: keep}, denoised={j: (1 - keep) * c for j, c in mean.items()}, evaluate=False
        )
        outputs.append(predicted)
    return plan.build()


def _mean_output(newest: int, r: dict[int, float], h: float, *, halve: bool) -> dict[int, float]:
    """D_0 + sum_i rho_i (D_i - D_0) / r_i as coefficients of the nodes `newest` and `r`."""
    if not r:
        return {newest: 1.0}
    places = np.array(list(r.values()))
    rho = np.array([0.5]) if halve else np.linalg.solve(np.vander(places, increasing=True).T, _moments(len(r), h))
    weights = dict(zip(r, (rho / places).tolist(), strict=True))
    return {newest: 1 - sum(weights.values()), **weights}


def _moments(count: int, h: float) -> NDArray[np.float64]:
    """E[tau^n], n = 1 .. count, for density h exp(h tau) / (exp(h) - 1) on 0 .. 1."""
    if h < 1:  # the recursion below loses a factor 1 / h of precision a turn
        terms = [[(-h) ** j * factorial(n) / factorial(n + 1 + j) for j in range(20)] for n in range(1, count + 1)]
        return np.array([h * sum(t) / -expm1(-h) for t in terms])
    moments = [1.0]
    for n in range(1, count + 1):
        moments.append(-1 / expm1(-h) - n / h * moments[-1])
    return np.array(moments[1:])
