"""Measured orders of convergence, on problems whose exact answer is known.

Deterministic solvers: the probability flow of one-dimensional data keeps every point's quantile, so a mixture's
exact trajectory is x(s) = F_s^-1(F_T(x_T)): a nonlinear problem without a reference solver. For one Gaussian it
is the closed form mu + (x_T - mu) sqrt((s^2 + s0^2) / (s_T^2 + s0^2)).

Stochastic solvers: on Gaussian data a plan is affine in its noise, so unit vectors as noise give the exact mean
and variance of its sample. The process of noise share eta (0: flow, 1: reverse SDE) has the variance s^2 + s0^2
throughout and decays from the mean 0 to mu as ((s^2 + s0^2) / (s_T^2 + s0^2))^((1 + eta^2) / 2).

Schedules stop above 0: the last step to 0 is a single one of fixed size in ln sigma, whatever the others are.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from ncdeploy.sampling import recipe, schedules, solvers
from ncdeploy.sampling.plan import Plan
from oracle import GaussianMixture
from substitution import substitute

Floats = NDArray[np.float64]
Solver = Callable[..., Plan]

SIGMA_MAX, SIGMA_MIN = 5.0, 0.2
STEPS = (96, 192, 384)
MIXTURE = GaussianMixture([[-1.0], [1.5]], 0.3)
GAUSSIAN = GaussianMixture([[0.8]], 0.5)
STARTS = np.array([-1.4, -0.6, -0.1, 0.35, 0.9, 1.7])  # standard normal draws


def exponential(steps: int) -> Floats:
    return schedules.exponential(steps + 1, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)[:-1]


def uniform(steps: int) -> Floats:
    return np.linspace(SIGMA_MAX, SIGMA_MIN, steps + 1)


def karras(steps: int) -> Floats:
    return schedules.karras(steps + 1, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)[:-1]


def cdf(data: GaussianMixture, x: Floats, sigma: float) -> Floats:
    width = math.sqrt(2 * (sigma**2 + data.std**2))
    return np.array([np.mean([math.erf((v - mu) / width) for mu in data.means[:, 0]]) for v in x])


def exact_flow(data: GaussianMixture, x: Floats, start: float, end: float) -> Floats:
    """x(end) of the probability flow through x at sigma = start, by bisection on quantiles."""
    quantile = cdf(data, x, start)
    low, high = np.full_like(x, -50.0), np.full_like(x, 50.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = cdf(data, middle, end) < quantile
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def flow_error(plan: Plan) -> float:
    """Rms error of the plan's last state on the mixture."""
    noise = np.zeros((len(plan), len(STARTS), 1))
    noise[0, :, 0] = STARTS
    x = substitute(plan, MIXTURE, noise)[-1, :, 0]
    truth = exact_flow(MIXTURE, plan.noise[0] * STARTS, SIGMA_MAX, SIGMA_MIN)
    return float(np.sqrt(np.mean((x - truth) ** 2)))


def order(errors: list[float]) -> float:
    return float(-np.polyfit(np.log(STEPS), np.log(np.abs(errors)), 1)[0])


def test_exact_flow_is_the_closed_form_for_one_gaussian() -> None:
    mu, s0 = GAUSSIAN.means[0, 0], GAUSSIAN.std
    x = 5.0 * STARTS
    ratio = math.sqrt((SIGMA_MIN**2 + s0**2) / (SIGMA_MAX**2 + s0**2))
    np.testing.assert_allclose(exact_flow(GAUSSIAN, x, SIGMA_MAX, SIGMA_MIN), mu + (x - mu) * ratio, atol=1e-12)


ODE_ORDERS: list[tuple[str, Solver, Callable[[int], Floats], float]] = [
    ("euler", solvers.euler, karras, 1),
    ("ddim", solvers.ddim, karras, 1),
    ("heun", solvers.heun, karras, 2),
    ("dpmpp_2m", solvers.dpmpp_2m, exponential, 2),
    # UniC raises UniP's order by one.
    ("unipc 1", partial(solvers.unipc, order=1), exponential, 2),
    ("unipc 2", solvers.unipc, exponential, 3),
    ("unipc 3", partial(solvers.unipc, order=3), exponential, 4),
    ("ipndm 1", partial(solvers.ipndm, order=1), uniform, 1),
    ("ipndm 2", partial(solvers.ipndm, order=2), uniform, 2),
    # The weights are for equal steps; at the top of this schedule eps hardly changes, so the warm-up costs nothing.
    ("ipndm 3", partial(solvers.ipndm, order=3), uniform, 3),
    ("ipndm 4", solvers.ipndm, uniform, 4),
    ("ipndm 4, unequal steps", solvers.ipndm, exponential, 2),
]


@pytest.mark.parametrize(("solver", "grid", "expected"), [c[1:] for c in ODE_ORDERS], ids=[c[0] for c in ODE_ORDERS])
def test_order_of_a_deterministic_solver(solver: Solver, grid: Callable[[int], Floats], expected: float) -> None:
    errors = [flow_error(solver(grid(n))) for n in STEPS]
    assert errors[-1] < errors[0] < 0.05
    assert abs(order(errors) - expected) < 0.25


@pytest.mark.parametrize("solver", recipe.SOLVERS.values(), ids=recipe.SOLVERS)
def test_the_order_that_a_solver_says_is_measured_above(solver: recipe.Solver[...]) -> None:
    """With default options, in whichever of the two tables it belongs to."""
    table = SDE_ORDERS if solver.stochastic else ODE_ORDERS
    assert max(case[3] for case in table if case[1] is solver) == solver.order


def test_one_wrong_coefficient_costs_the_order() -> None:
    errors = []
    for n in STEPS:
        plan = solvers.dpmpp_2m(exponential(n))
        denoised = np.array(plan.denoised)
        denoised[n // 2, 0] += 1e-3
        errors.append(flow_error(dataclasses.replace(plan, denoised=denoised)))
    assert order(errors) < 1


def moments(plan: Plan) -> tuple[float, float]:
    """Exact mean and variance of the plan's last state on the Gaussian."""
    n = len(plan)
    noise = np.zeros((n, n + 1, 1))
    noise[np.arange(n), np.arange(n), 0] = 1.0  # row j has noise at node j alone, the last row none
    last = substitute(plan, GAUSSIAN, noise)[-1, :, 0]
    return float(last[-1]), float(np.sum((last[:-1] - last[-1]) ** 2))


START_SCALE = math.sqrt(SIGMA_MAX**2 + GAUSSIAN.std**2)
TRUE_VARIANCE = SIGMA_MIN**2 + GAUSSIAN.std**2


def true_mean(eta: float) -> float:
    return float(GAUSSIAN.means[0, 0] * (1 - (TRUE_VARIANCE / START_SCALE**2) ** ((1 + eta**2) / 2)))


SDE_ORDERS: list[tuple[str, Solver, float, float]] = [
    ("ddpm posterior", solvers.ddpm, 1.0, 1),
    ("ddpm beta", partial(solvers.ddpm, variance="beta"), 1.0, 1),
    ("ddim 0", solvers.ddim, 0.0, 1),
    ("ddim 0.5", partial(solvers.ddim, eta=0.5), 0.5, 1),
    ("ddim 1", partial(solvers.ddim, eta=1.0), 1.0, 1),
    ("dpmpp_2m_sde", solvers.dpmpp_2m_sde, 1.0, 2),
]


@pytest.mark.parametrize(("solver", "eta", "expected"), [c[1:] for c in SDE_ORDERS], ids=[c[0] for c in SDE_ORDERS])
def test_moments_of_a_stochastic_solver(solver: Solver, eta: float, expected: float) -> None:
    found = [moments(solver(karras(n), scale=START_SCALE)) for n in STEPS]
    errors = [variance - TRUE_VARIANCE for _, variance in found]
    assert abs(errors[-1]) < 0.02 * TRUE_VARIANCE
    assert abs(order(errors) - expected) < 0.25
    mean_errors = [mean - true_mean(eta) for mean, _ in found]
    if eta == 1:  # E[x0 | x] is a martingale of the reverse process, so steps of any size keep its mean
        assert max(map(abs, mean_errors)) < 1e-13
    else:
        assert abs(order(mean_errors) - 1) < 0.25


def test_wrong_noise_leaves_a_wrong_variance() -> None:
    errors = []
    for n in STEPS:
        plan = solvers.dpmpp_2m_sde(karras(n), scale=START_SCALE)
        errors.append(moments(dataclasses.replace(plan, noise=plan.noise * 1.01))[1] - TRUE_VARIANCE)
    assert order(errors) < 1


def test_beta_variance_is_exact_for_white_data() -> None:
    white = GaussianMixture([[0.0]], 1.0)
    plan = solvers.ddpm(schedules.ddpm(10)[:-1], variance="beta", scale=math.sqrt(1 + schedules.ddpm(10)[0] ** 2))
    noise = np.eye(len(plan))[:, :, None]
    states = substitute(plan, white, noise)[:, :, 0]
    np.testing.assert_allclose(np.sum(states**2, axis=1), 1 + plan.sigmas**2, rtol=1e-13)


def test_posterior_variance_is_exact_for_a_single_point() -> None:
    point = GaussianMixture([[0.0]], 1e-12)
    plan = solvers.ddpm(schedules.ddpm(10)[:-1])
    noise = np.eye(len(plan))[:, :, None]
    states = substitute(plan, point, noise)[:, :, 0]
    np.testing.assert_allclose(np.sum(states**2, axis=1), plan.sigmas**2, rtol=1e-9)
