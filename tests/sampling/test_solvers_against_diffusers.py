"""Every solver against diffusers' scheduler of that name, node by node, from the same noise.

The schedulers run on our levels: their float32 tables are replaced by float64 ones, and their networks by the
exact denoiser. Most then work in float64 throughout; DPMSolverMultistepScheduler and EulerDiscreteScheduler
cast every sample to float32, and DDPMScheduler adds noise of variance 1e-20 where the posterior has none.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray

from ncdeploy.sampling import schedules, solvers
from ncdeploy.sampling.plan import Plan
from oracle import digits
from substitution import substitute

Floats = NDArray[np.float64]
FLOAT64, FLOAT32, CLAMPED = 1e-11, 1e-5, 1e-8
BATCH = 4

pytestmark = pytest.mark.filterwarnings(  # diffusers converts its tables with np.array(tensor)
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A solver, its schedule, the scheduler's run, the agreement it allows, and our nodes it visits."""

    plan: Plan
    levels: Floats
    reference: Callable[[Floats, Floats], Floats]
    tolerance: float = FLOAT64
    every: int = 1  # after the first node


def draw(plan: Plan) -> Floats:
    return np.random.default_rng(7).standard_normal((len(plan), BATCH, digits().dim))


def disagreement(case: Case, plan: Plan, theirs: Floats) -> float:
    """Largest difference over nodes, samples and dimensions, in units of a state's scale sqrt(1 + sigma^2)."""
    ours = substitute(plan, digits(), draw(plan))[1 :: case.every]
    assert theirs.shape == ours.shape
    scale = np.sqrt(1 + plan.sigmas[1 :: case.every] ** 2)[:, None, None]
    return float(np.max(np.abs(ours - theirs) / scale))


def tensor(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(x, np.float64))


def vp(sigma: float) -> float:
    """Factor from variance-exploding to variance-preserving coordinates."""
    return float(1 / np.sqrt(1 + sigma**2))


def run_vp(step: Callable[[Floats, float, int, torch.Tensor], torch.Tensor], levels: Floats, start: Floats) -> Floats:
    """Drive `step(D, sigma, k, x)` in variance-preserving coordinates; returns the states in ours, [steps, B, d]."""
    x, states = start, []
    for k, sigma in enumerate(levels[:-1]):
        stepped = step(digits()(x, sigma), float(sigma), k, tensor(x * vp(sigma)))
        x = stepped.numpy().astype(np.float64) / vp(levels[k + 1])
        states.append(x)
    return np.array(states)


def ddpm_scheduler(kind: Any, steps: int, *, spacing: str, offset: int, **options: Any) -> Any:
    scheduler = kind(
        timestep_spacing=spacing, steps_offset=offset, clip_sample=False, prediction_type="sample", **options
    )
    scheduler.set_timesteps(steps)
    table = schedules.ddpm(1000)[:-1][::-1]
    scheduler.alphas_cumprod = tensor(1 / (1 + table**2))
    return scheduler


def ddpm(levels: Floats, noise: Floats, *, variance: str, spacing: str, offset: int = 0) -> Floats:
    scheduler = ddpm_scheduler(DDPMScheduler, len(levels) - 1, spacing=spacing, offset=offset, variance_type=variance)
    drawn: Iterator[torch.Tensor] = iter(tensor(noise[1:]))

    def step(D: Floats, sigma: float, k: int, x: torch.Tensor) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(drawn))
            return scheduler.step(tensor(D), int(scheduler.timesteps[k]), x).prev_sample

    return run_vp(step, levels, noise[0] * np.sqrt(1 + levels[0] ** 2))


def ddim(levels: Floats, noise: Floats, *, eta: float, spacing: str, offset: int = 0) -> Floats:
    scheduler = ddpm_scheduler(DDIMScheduler, len(levels) - 1, spacing=spacing, offset=offset)

    def step(D: Floats, sigma: float, k: int, x: torch.Tensor) -> torch.Tensor:
        t, xi = int(scheduler.timesteps[k]), tensor(noise[k + 1])
        return scheduler.step(tensor(D), t, x, eta=eta, variance_noise=xi).prev_sample

    return run_vp(step, levels, noise[0] * np.sqrt(1 + levels[0] ** 2))


def multistep(levels: Floats, noise: Floats, *, kind: Any, **options: Any) -> Floats:
    """DPMSolverMultistepScheduler or UniPCMultistepScheduler."""
    scheduler = kind(prediction_type="sample", **options)
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.sigmas = tensor(levels)
    scheduler.set_begin_index(0)
    stochastic = options.get("algorithm_type", "").startswith("sde")

    def step(D: Floats, sigma: float, k: int, x: torch.Tensor) -> torch.Tensor:
        extra = {"variance_noise": tensor(noise[k + 1])} if stochastic else {}
        return scheduler.step(tensor(D), scheduler.timesteps[k], x, **extra).prev_sample

    return run_vp(step, levels, noise[0] * levels[0])


def ipndm(levels: Floats, noise: Floats) -> Floats:
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.alphas = tensor(1 / np.sqrt(1 + levels**2))
    scheduler.betas = tensor(levels / np.sqrt(1 + levels**2))
    scheduler.set_begin_index(0)

    def step(D: Floats, sigma: float, k: int, x: torch.Tensor) -> torch.Tensor:
        eps = (x.numpy() / vp(sigma) - D) / sigma
        velocity = vp(sigma) * eps - sigma * vp(sigma) * D  # this scheduler's networks predict v
        return scheduler.step(tensor(velocity), scheduler.timesteps[k], x).prev_sample

    return run_vp(step, levels, noise[0] * levels[0])


def ode(levels: Floats, noise: Floats, *, kind: Any) -> Floats:
    """EulerDiscreteScheduler or HeunDiscreteScheduler, which work in our coordinates; Heun visits predictions too."""
    scheduler = kind(prediction_type="sample")
    scheduler.set_timesteps(len(levels) - 1)
    repeats = [1] + [2 if kind is HeunDiscreteScheduler else 1] * (len(levels) - 2) + [1]
    scheduler.sigmas = tensor(np.repeat(levels, repeats))
    scheduler.set_begin_index(0)
    x, states = noise[0] * levels[0], []
    for k, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(tensor(x), t)
        D = digits()(x, float(scheduler.sigmas[k]))
        x = scheduler.step(tensor(D), t, tensor(x)).prev_sample.numpy().astype(np.float64)
        states.append(x)
    return np.array(states)


def vp_case(
    solver: Callable[..., Plan],
    reference: Callable[..., Floats],
    steps: int,
    *,
    tolerance: float = FLOAT64,
    spacing: schedules.Spacing = "leading",
    offset: int = 0,
) -> Case:
    levels = schedules.ddpm(steps, spacing=spacing, offset=offset)
    plan = solver(levels, scale=float(np.sqrt(1 + levels[0] ** 2)))
    reference = partial(reference, spacing=spacing, offset=offset)
    return Case(plan=plan, levels=levels, reference=reference, tolerance=tolerance)


def ve_case(solver: Callable[..., Plan], reference: Callable[..., Floats], steps: int, **options: Any) -> Case:
    levels = schedules.karras(steps, sigma_min=0.02)
    return Case(plan=solver(levels), levels=levels, reference=reference, **options)


def dpmpp(algorithm: str) -> Callable[..., Floats]:
    return partial(multistep, kind=DPMSolverMultistepScheduler, algorithm_type=algorithm)


def unipc(order: int, steps: int) -> Case:
    return ve_case(
        partial(solvers.unipc, order=order),
        partial(multistep, kind=UniPCMultistepScheduler, solver_order=order),
        steps,
        every=2,  # the scheduler returns predictions, which alternate with corrected states in the plan
    )


CASES: dict[str, Callable[[], Case]] = {
    "ddpm posterior": lambda: vp_case(solvers.ddpm, partial(ddpm, variance="fixed_small"), 100),
    "ddpm posterior trailing": lambda: vp_case(
        solvers.ddpm, partial(ddpm, variance="fixed_small"), 100, spacing="trailing", tolerance=CLAMPED
    ),
    "ddpm posterior 1000": lambda: vp_case(solvers.ddpm, partial(ddpm, variance="fixed_small"), 1000),
    "ddpm beta": lambda: vp_case(partial(solvers.ddpm, variance="beta"), partial(ddpm, variance="fixed_large"), 100),
    "ddim eta 0": lambda: vp_case(solvers.ddim, partial(ddim, eta=0.0), 100),
    "ddim eta 0 offset": lambda: vp_case(solvers.ddim, partial(ddim, eta=0.0), 50, offset=1),
    "ddim eta 0.5": lambda: vp_case(partial(solvers.ddim, eta=0.5), partial(ddim, eta=0.5), 100),
    "ddim eta 1": lambda: vp_case(partial(solvers.ddim, eta=1.0), partial(ddim, eta=1.0), 50, spacing="trailing"),
    "euler": lambda: ve_case(solvers.euler, partial(ode, kind=EulerDiscreteScheduler), 25, tolerance=FLOAT32),
    "heun": lambda: ve_case(solvers.heun, partial(ode, kind=HeunDiscreteScheduler), 18),
    "dpmpp_2m": lambda: ve_case(solvers.dpmpp_2m, dpmpp("dpmsolver++"), 25, tolerance=FLOAT32),
    "dpmpp_2m 10 steps": lambda: ve_case(solvers.dpmpp_2m, dpmpp("dpmsolver++"), 10, tolerance=FLOAT32),
    "dpmpp_2m_sde": lambda: ve_case(solvers.dpmpp_2m_sde, dpmpp("sde-dpmsolver++"), 25, tolerance=FLOAT32),
    "unipc 1": lambda: unipc(1, 20),
    "unipc 2": lambda: unipc(2, 20),
    "unipc 3": lambda: unipc(3, 20),
    "ipndm": lambda: ve_case(solvers.ipndm, ipndm, 25),
}


@cache
def prepared(name: str) -> tuple[Case, Floats]:
    """The case and its scheduler's trajectory."""
    case = CASES[name]()
    return case, case.reference(case.levels, draw(case.plan))


@pytest.mark.parametrize("name", CASES)
def test_trajectory(name: str) -> None:
    case, theirs = prepared(name)
    assert disagreement(case, case.plan, theirs) < case.tolerance


@pytest.mark.parametrize("name", CASES)
def test_one_wrong_coefficient_shows(name: str) -> None:
    case, theirs = prepared(name)
    node = len(case.plan) // 2
    for field in ("state", "denoised", "noise"):
        coefficients = np.array(getattr(case.plan, field))
        if field != "noise":
            coefficients[node, 0] += 1e-3
        elif case.plan.stochastic:
            coefficients[node] *= 1.01
        else:
            coefficients[0] *= 1.001
        corrupted = dataclasses.replace(case.plan, **{field: coefficients})
        assert disagreement(case, corrupted, theirs) > 3 * case.tolerance, field
