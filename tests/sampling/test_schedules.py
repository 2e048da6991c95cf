"""Schedules against diffusers' tables, and the promises every schedule makes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.sampling import schedules

Floats = NDArray[np.float64]

pytestmark = pytest.mark.filterwarnings(  # diffusers converts its tables with np.array(tensor)
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SCHEDULES: dict[str, Callable[[int], Floats]] = {
    "karras": schedules.karras,
    "karras narrow": partial(schedules.karras, sigma_min=0.9, sigma_max=1.0, rho=1.0),
    "exponential": schedules.exponential,
    **{f"ddpm {s}": partial(schedules.ddpm, spacing=s) for s in schedules.SPACINGS},
    **{f"cosine {s}": partial(schedules.cosine, spacing=s) for s in schedules.SPACINGS},
}

TABLE = schedules.ddpm(1000)[-2::-1]
SCHEDULES |= {f"table {s}": partial(schedules.table, levels=TABLE, spacing=s) for s in schedules.SPACINGS}


@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
@pytest.mark.parametrize("spacing", schedules.SPACINGS)
def test_a_table_of_ones_own_is_chosen_from_like_ddpms(spacing: schedules.Spacing, steps: int) -> None:
    ours = schedules.table(steps, levels=TABLE.tolist(), spacing=spacing)
    np.testing.assert_array_equal(ours, schedules.ddpm(steps, spacing=spacing))


@pytest.mark.parametrize("levels", [[], [1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [1.0, np.inf], [[1.0, 2.0]], [1.0, np.nan]])
def test_tables_that_are_none(levels: list[float]) -> None:
    with pytest.raises(InputError, match="levels: expected"):
        schedules.table(1, levels=levels)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 18, 25, 333, 667, 999, 1000])
def test_levels_decrease_to_exactly_zero(name: str, steps: int) -> None:
    sigmas = SCHEDULES[name](steps)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == np.float64
    assert np.all(np.diff(sigmas) < 0)
    assert sigmas[-1] == 0
    assert np.all(np.isfinite(sigmas))
    schedules.check_sigmas(sigmas)


@pytest.mark.parametrize("steps", [1, 2, 18])
@pytest.mark.parametrize("schedule", [schedules.karras, schedules.exponential])
def test_chosen_ends_are_met_exactly(schedule: Callable[..., Floats], steps: int) -> None:
    sigmas = schedule(steps, sigma_min=0.03, sigma_max=71.3)
    assert sigmas[0] == 71.3
    assert steps == 1 or sigmas[-2] == 0.03


def test_karras_steps_are_equal_in_the_root() -> None:
    roots = schedules.karras(30, rho=5.0)[:-1] ** (1 / 5)
    np.testing.assert_allclose(np.diff(roots), (0.002 ** (1 / 5) - 80 ** (1 / 5)) / 29, rtol=1e-10)


@pytest.mark.parametrize(
    ("schedule", "flag"),
    [(schedules.karras, "use_karras_sigmas"), (schedules.exponential, "use_exponential_sigmas")],
)
def test_chosen_levels_are_those_of_diffusers(schedule: Callable[..., Floats], flag: str) -> None:
    reference = EulerDiscreteScheduler(**{flag: True}, sigma_min=0.02, sigma_max=80.0)
    reference.set_timesteps(25)
    np.testing.assert_allclose(schedule(25, sigma_min=0.02, sigma_max=80.0), reference.sigmas.numpy(), rtol=1e-6)


def table_levels(scheduler: Any) -> Floats:
    """All training levels, t = 0 first; the float32 betas accumulated in float64."""
    abar = np.cumprod(1 - scheduler.betas.numpy().astype(np.float64))
    return np.asarray(np.sqrt((1 - abar) / abar))


@pytest.mark.parametrize(
    ("spacing", "steps", "offset"),
    [
        ("leading", 1000, 0),
        ("leading", 100, 0),
        ("leading", 30, 0),
        ("leading", 50, 1),
        ("trailing", 100, 0),
        ("trailing", 30, 0),
        ("linspace", 100, 0),
        ("linspace", 30, 0),
    ],
)
def test_ddpm_takes_the_timesteps_of_diffusers(spacing: schedules.Spacing, steps: int, offset: int) -> None:
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    expected = table_levels(scheduler)[scheduler.timesteps.numpy()]
    sigmas = schedules.ddpm(steps, spacing=spacing, offset=offset)[:-1]
    np.testing.assert_allclose(sigmas, expected, rtol=1e-5)  # its betas are float32
    shifted = table_levels(scheduler)[np.maximum(scheduler.timesteps.numpy() - 1, 0)]
    assert not np.allclose(sigmas, shifted, rtol=1e-3)  # the neighbouring timesteps would fail


@pytest.mark.parametrize("spacing", schedules.SPACINGS)
def test_cosine_takes_the_levels_of_diffusers(spacing: schedules.Spacing) -> None:
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing=spacing)
    scheduler.set_timesteps(50)
    expected = table_levels(scheduler)[scheduler.timesteps.numpy()]
    # Where beta nears its cap, 1 - beta keeps only 4 digits of a float32.
    np.testing.assert_allclose(schedules.cosine(50, spacing=spacing)[:-1], expected, rtol=1e-4)


def test_trailing_has_one_level_a_step_for_every_number_of_steps() -> None:
    for steps in range(1, 1001):
        assert schedules.ddpm(steps, spacing="trailing").size == steps + 1


def test_one_step_starts_at_the_noisiest_level() -> None:
    highest = schedules.ddpm(1000)[0]
    for spacing in ("leading", "trailing", "linspace"):
        assert schedules.ddpm(1, spacing=spacing)[0] == highest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.karras(0), "steps: got 0"),
        (lambda: schedules.karras(2.5), "steps: got 2.5"),
        (lambda: schedules.exponential(-3), "steps: got -3"),
        (lambda: schedules.karras(5, sigma_min=0.0), "sigma range: got 0.0"),
        (lambda: schedules.karras(5, sigma_min=2.0, sigma_max=1.0), "sigma range"),
        (lambda: schedules.karras(5, sigma_max=float("nan")), "sigma range"),
        (lambda: schedules.karras(5, rho=0.0), "rho"),
        (lambda: schedules.karras(50, sigma_min=1.0, sigma_max=1.0 + 1e-15), "too narrow"),
        (lambda: schedules.ddpm(1001), "at most 1000"),
        (lambda: schedules.ddpm(5, spacing="middle"), "leading, trailing, linspace"),
        (lambda: schedules.ddpm(5, spacing="trailing", offset=1), "only leading"),
        (lambda: schedules.ddpm(1000, offset=1), "offset: got 1, expected 0 to 0"),
        (lambda: schedules.ddpm(5, offset=-1), "offset: got -1"),
        (lambda: schedules.ddpm(5, beta_end=1.5), "beta"),
        (lambda: schedules.cosine(20, train_steps=10), "at most 10"),
        (lambda: schedules.check_sigmas([1.0]), "at least 2"),
        (lambda: schedules.check_sigmas([[1.0, 0.0]]), "one list"),
        (lambda: schedules.check_sigmas([1.0, 2.0, 0.0]), "1 is followed by 2"),
        (lambda: schedules.check_sigmas([1.0, 0.0, 0.0]), "0 is followed by 0"),
        (lambda: schedules.check_sigmas([1.0, -1.0]), ">= 0"),
        (lambda: schedules.check_sigmas([np.inf, 1.0]), "finite"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
