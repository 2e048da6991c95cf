"""Plans by name: the tables are complete, defaults are as documented, nothing given is ignored."""

import inspect
from typing import Any

import numpy as np
import pytest

from ncdeploy.errors import InputError
from ncdeploy.sampling import recipe, schedules, solvers
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.recipe import make_plan


def same(a: Plan, b: Plan) -> bool:
    fields = ("sigmas", "state", "denoised", "noise", "evaluated")
    return a.name == b.name and all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields)


def test_tables_are_complete_and_true() -> None:
    assert set(recipe.SOLVERS) == set(dir(solvers))
    assert not set(solvers.FILES) & set(solvers.FILES.values())  # such a module would hide the solver
    assert set(recipe.SCHEDULES) == set(recipe.SCHEDULE_OPTIONS)
    for name, function in recipe.SCHEDULES.items():
        assert set(recipe.SCHEDULE_OPTIONS[name]) <= set(inspect.signature(function).parameters)
        assert function.__name__ == name


@pytest.mark.parametrize("name", recipe.SOLVERS)
def test_a_solver_says_what_it_is(name: str) -> None:
    solver = getattr(solvers, name)
    assert (solver.name, solver) == (name, recipe.SOLVERS[name])
    assert solver.stochastic == make_plan(name, 12).stochastic
    assert solver.schedule in recipe.SCHEDULES
    taken = set(inspect.signature(make_plan).parameters)
    assert set(solver.options) == set(inspect.signature(solver).parameters) - {"sigmas", "scale"} <= taken
    assert solver.__doc__


@pytest.mark.parametrize("solver", recipe.SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 18])
def test_every_solver_has_a_default(solver: str, steps: int) -> None:
    plan = make_plan(solver, steps)
    assert plan.name == f"{solver}-{steps}"
    assert plan.sigmas[-1] == 0


@pytest.mark.parametrize("solver", recipe.SOLVERS)
@pytest.mark.parametrize("schedule", recipe.SCHEDULES)
def test_every_solver_runs_on_every_schedule(solver: str, schedule: str) -> None:
    options = {"levels": schedules.ddpm(500)[-2::-1].tolist()} if schedule == "table" else {}
    plan = make_plan(solver, 12, schedule=schedule, **options)
    levels = np.unique(plan.sigmas)[::-1]
    if "spacing" in recipe.SCHEDULE_OPTIONS[schedule]:
        assert np.array_equal(levels, recipe.SCHEDULES[schedule](12, **options))
        assert plan.noise[0] == pytest.approx(np.sqrt(1 + levels[0] ** 2), rel=1e-15)
    elif schedule == "flow":
        assert np.array_equal(levels, schedules.flow(12))
        assert plan.noise[0] == 1 + levels[0]
    else:
        assert np.array_equal(levels, recipe.SCHEDULES[schedule](12, sigma_min=0.02, sigma_max=80.0))
        assert plan.noise[0] == 80.0


def test_a_table_must_be_given() -> None:
    with pytest.raises(InputError, match="needs levels"):
        make_plan("ddim", 10, schedule="table")


def test_defaults() -> None:
    assert same(make_plan(), solvers.dpmpp_2m(schedules.karras(25, sigma_min=0.02)))
    sigmas = schedules.ddpm(100)
    assert same(make_plan("ddim", 100), solvers.ddim(sigmas, scale=np.sqrt(1 + sigmas[0] ** 2)))


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("ddpm", {"variance": "beta"}),
        ("ddim", {"eta": 0.5}),
        ("unipc", {"order": 3}),
        ("ipndm", {"order": 2}),
        ("heun", {"sigma_min": 0.1}),
        ("heun", {"churn": 2.0}),
        ("euler", {"sigma_max": 40.0}),
        ("dpmpp_2m", {"schedule": "exponential", "sigma_min": 0.1}),
        ("ddim", {"spacing": "trailing"}),
        ("ddim", {"schedule": "cosine", "spacing": "linspace"}),
        ("dpmpp_2m_sde", {"schedule": "ddpm"}),
    ],
)
def test_every_option_changes_the_plan(solver: str, options: dict[str, Any]) -> None:
    assert not same(make_plan(solver, 12, **options), make_plan(solver, 12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dpmp_2m"}, "unknown solver 'dpmp_2m'; did you mean 'dpmpp_2m'? known: ddpm, ddim, euler,"),
        ({"solver": "DDIM"}, "unknown solver 'DDIM'; did you mean 'ddim'?"),
        ({"solver": "rk45"}, "unknown solver 'rk45'; known: ddpm,"),
        ({"schedule": "kerras"}, "unknown schedule 'kerras'; did you mean 'karras'?"),
        ({"steps": 0}, "steps: got 0, expected 1 to"),
        ({"solver": "ddpm", "steps": 2000}, "take at most 1000 steps"),
        ({"eta": 0.0}, "eta: solver 'dpmpp_2m' takes no such option; leave it out or choose ddim"),
        ({"variance": "beta"}, "variance: solver 'dpmpp_2m' takes no such option; leave it out or choose ddpm"),
        ({"solver": "heun", "order": 2}, "leave it out or choose unipc or ipndm"),
        ({"solver": "ddim", "sigma_min": 0.1}, "sigma_min: schedule 'ddpm' takes no such option"),
        (
            {"spacing": "trailing"},
            "spacing: schedule 'karras' takes no such option; leave it out or choose ddpm or cosine or table",
        ),
        ({"solver": "ddim", "eta": 2.0}, "eta: got 2.0"),
        ({"solver": "unipc", "order": 9}, "order: got 9"),
        ({"churn": 2.0}, "churn: solver 'dpmpp_2m' takes no such option; leave it out or choose heun"),
        ({"solver": "heun", "churn": -1.0}, "churn: got -1.0, expected 0 (deterministic) or more"),
        ({"solver": "heun", "churn": 1.0, "churn_noise": 0.0}, "churn_noise: got 0.0, expected above 0"),
        ({"solver": "heun", "churn": 1.0, "churn_min": 2.0, "churn_max": 1.0}, "churn range: got 2.0 .. 1.0"),
        ({"solver": "heun", "churn_max": 1.0}, "give churn too"),
        ({"sigma_min": 100.0}, "sigma range: got 100.0 .. 80.0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_plan(**options)
    assert message in str(caught.value)
