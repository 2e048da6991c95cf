"""What holds for every plan of every solver, whatever the denoiser."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from ncdeploy import make_plan
from ncdeploy.errors import InputError
from ncdeploy.sampling import recipe, schedules, solvers
from ncdeploy.sampling.plan import Plan
from oracle import digits
from substitution import substitute

Floats = NDArray[np.float64]
Solver = Callable[..., Plan]

SOLVERS: dict[str, Solver] = {
    **recipe.SOLVERS,
    "ddpm beta": partial(solvers.ddpm, variance="beta"),
    "ddim 0.5": partial(solvers.ddim, eta=0.5),
    "ddim 1": partial(solvers.ddim, eta=1.0),
    **{f"unipc {p}": partial(solvers.unipc, order=p) for p in (1, 3)},
    **{f"ipndm {p}": partial(solvers.ipndm, order=p) for p in (1, 2, 3)},
}
SCHEDULES: dict[str, Floats] = {
    "one step": schedules.karras(1),
    "two steps": schedules.karras(2, sigma_min=0.02),
    "karras": schedules.karras(20),
    "ddpm 1000": schedules.ddpm(1000),
    "cosine": schedules.cosine(40, spacing="trailing"),
    "above zero": schedules.exponential(12)[:-1],
}
STOCHASTIC = [name for name, solver in SOLVERS.items() if getattr(solver, "stochastic", name.startswith("dd"))]
DETERMINISTIC = [name for name in SOLVERS if name not in STOCHASTIC]


@pytest.mark.parametrize("sigmas", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_point_of_agreement_is_kept(solver: Solver, sigmas: Floats) -> None:
    """Rows are affine combinations: where every state and every D is x0, so is the next state."""
    plan = solver(sigmas)
    weights = plan.state.sum(axis=1) + plan.denoised.sum(axis=1)
    size = np.abs(plan.state).sum(axis=1) + np.abs(plan.denoised).sum(axis=1)
    np.testing.assert_array_less(np.abs(weights[1:] - 1), 1e-15 * (1 + 8 * size[1:]))


@pytest.mark.parametrize("sigmas", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_levels_and_counts(solver: Solver, sigmas: Floats) -> None:
    plan = solver(sigmas)
    np.testing.assert_array_equal(np.unique(plan.sigmas)[::-1], sigmas)
    assert np.all(np.diff(plan.sigmas) <= 0)
    assert plan.noise[0] == sigmas[0]
    assert solver(sigmas, scale=3.25).noise[0] == 3.25
    steps = len(sigmas) - 1
    assert plan.name.endswith(f"-{steps}")
    heun = 2 * steps - (sigmas[-1] == 0)
    assert plan.evaluations == (heun if plan.name.startswith("heun") else steps)


def test_nodes_of_the_two_solvers_with_two_nodes_a_step() -> None:
    heun = solvers.heun(schedules.karras(18))
    assert (len(heun), heun.evaluations) == (36, 35)
    unipc = solvers.unipc(schedules.karras(18))
    assert (len(unipc), unipc.evaluations) == (36, 18)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("schedule", ["karras", "above zero"])
def test_deterministic_solvers_are_exact_for_a_single_point(name: str, schedule: str) -> None:
    """Constant D: the flow is the straight line x0 + (x_T - x0) sigma / sigma_T, at every order."""
    plan = SOLVERS[name](SCHEDULES[schedule])
    assert not plan.stochastic
    x0, xi = 0.7, np.full((len(plan), 1, 1), 1.3)
    states = substitute(plan, lambda x, sigma: np.full_like(x, x0), xi)[:, 0, 0]
    start = plan.noise[0] * 1.3
    np.testing.assert_allclose(states, x0 + (start - x0) * plan.sigmas / plan.sigmas[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "ddpm beta"])
def test_stochastic_solvers_keep_the_noise_level_of_a_single_point(name: str) -> None:
    """Constant D = 0: the state has standard deviation sigma at every node."""
    plan = SOLVERS[name](SCHEDULES["karras"])
    assert plan.stochastic
    draws = np.eye(len(plan))[:, :, None]
    states = substitute(plan, lambda x, sigma: np.zeros_like(x), draws)[:, :, 0]
    np.testing.assert_allclose(np.sqrt(np.sum(states**2, axis=1)), plan.sigmas, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ("ipndm 2", "ipndm 3", "ipndm")])
def test_the_last_step_to_zero_returns_the_denoiser(name: str) -> None:
    """All but the higher orders of ipndm, which extrapolate eps over this step too."""
    plan = SOLVERS[name](SCHEDULES["karras"])
    noise = np.random.default_rng(0).standard_normal((len(plan), 2, 64))
    states = substitute(plan, digits(), noise)
    last = int(np.flatnonzero(plan.evaluated)[-1])
    expected = digits()(states[last], plan.sigmas[last])
    np.testing.assert_allclose(states[-1], expected, atol=1e-12)


def test_ddim_with_full_noise_is_ddpm_and_without_is_euler() -> None:
    sigmas = SCHEDULES["ddpm 1000"]
    for a, b in [
        (solvers.ddim(sigmas, eta=1.0), solvers.ddpm(sigmas)),
        (solvers.ddim(sigmas), solvers.euler(sigmas)),
        (solvers.ipndm(sigmas, order=1), solvers.euler(sigmas)),
    ]:
        for field in ("state", "denoised", "noise"):
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-11, atol=1e-14)


def test_unipc_weights_do_not_lose_precision_in_short_steps() -> None:
    """The moments behind the weights have two formulas; they agree where they meet, at a step of 1 in ln sigma."""
    below, above = (solvers.unipc(np.exp(-h * np.arange(6)), order=3).denoised for h in (1 - 1e-12, 1 + 1e-12))
    np.testing.assert_allclose(below, above, atol=1e-11)
    # In the limit of short steps UniC-3 is the Adams-Moulton formula (9, 19, -5, 1) / 24 on dx/dlambda = D - x.
    h = 1e-5
    plan = solvers.unipc(np.exp(-h * np.arange(12)), order=3)
    row = plan.denoised[2 * 8] / h
    found = row[np.abs(row) > 1e-9]
    np.testing.assert_allclose(found, [9 / 24, 19 / 24, -5 / 24, 1 / 24], atol=3e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solvers.ddpm([1.0, 2.0]), "must decrease"),
        (lambda: solvers.ddpm([2.0, 1.0], variance="learned"), "posterior, beta"),
        (lambda: solvers.ddim([2.0, 1.0], eta=1.5), "eta: got 1.5"),
        (lambda: solvers.ddim([2.0, 1.0], eta=float("nan")), "eta: got nan"),
        (lambda: solvers.unipc([2.0, 1.0], order=4), "order: got 4, expected 1 to 3"),
        (lambda: solvers.ipndm([2.0, 1.0], order=0), "order: got 0, expected 1 to 4"),
        (lambda: solvers.euler([2.0, 1.0], scale=0.0), "must be > 0"),
        (lambda: solvers.heun([]), "at least 2"),
        (lambda: solvers.dpmpp_2m([2.0, 0.0, 0.0]), "must decrease"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Plan], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_plans_of_the_same_coefficients_are_equal() -> None:
    plan, same, other = make_plan("heun", 9), make_plan("heun", 9), make_plan("heun", 10)
    assert plan == same
    assert hash(plan) == hash(same)
    assert plan != other
    assert plan != "heun-9"
    sigmas = plan.sigmas.copy()
    sigmas[3] *= 1 + 1e-15
    assert plan != replace(plan, sigmas=sigmas)
