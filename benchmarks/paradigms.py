"""The peers' samplers on our networks: ParaDiGMS and the sequential pipeline loop, with diffusers' schedulers.

ParaDiGMS is algorithm 1 of Shih et al. 2023, "Parallel Sampling of Diffusion Models", in the form published with
diffusers: `batch_step_no_noise` of DDPMParallelScheduler or DDIMParallelScheduler gives the drift, noise is drawn
ahead, and a step counts as settled when the mean square of its change is at most tolerance^2 times the variance of
the noise at its level. States are variance-preserving, x / sqrt(1 + sigma^2) of ours; the denoiser is what the
schedulers call a network that predicts the sample.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]

_OPTIONS: dict[str, Any] = {"prediction_type": "sample", "clip_sample": False}


@dataclass(frozen=True, kw_only=True)
class Run:
    """sample [*shape]; sweeps: network calls; nfe: rows evaluated; wall_s: seconds."""

    sample: Tensor
    sweeps: int
    nfe: int
    wall_s: float


def scheduler(solver: str, steps: int, dtype: torch.dtype, *, parallel: bool = True) -> Any:
    """diffusers' scheduler of ddpm or ddim over 1000 linear training steps, its table in `dtype`."""
    import diffusers

    name = f"{solver.upper()}{'Parallel' if parallel else ''}Scheduler"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it converts tables with np.array(tensor)
        made = getattr(diffusers, name)(**_OPTIONS)
        made.set_timesteps(steps)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    made.betas, made.alphas, made.alphas_cumprod = (
        t.to(dtype) for t in (betas, 1 - betas, torch.cumprod(1 - betas, 0))
    )
    return made


def paradigms(denoise: Denoise, schedule: Any, draws: Tensor, *, window: int, tolerance: float) -> Run:
    """One sample from draws [steps + 1, *shape]: standard normal, the start and what each step injects."""
    start = time.perf_counter()
    times, count, dim = schedule.timesteps, len(schedule.timesteps), draws[0].numel()
    wide = (-1, *[1] * (draws.ndim - 1))
    variance = torch.stack([schedule._get_variance(int(t)) for t in times]).to(draws.dtype)
    is_ode = getattr(schedule, "_is_ode_scheduler", False)
    noise = torch.zeros_like(draws[1:]) if is_ode else variance.sqrt().reshape(wide) * draws[1:]
    # The last state has no noise level of its own: as published, only an exact repetition settles it.
    allowed = tolerance**2 * dim * torch.cat([variance[1:], torch.zeros(1, dtype=draws.dtype)])
    alphas = schedule.alphas_cumprod[times]
    scale, sigma = alphas.rsqrt().reshape(wide), (1 / alphas - 1).sqrt()

    states = draws[0].expand(count + 1, *draws.shape[1:]).clone()
    begin, end, sweeps, nfe = 0, min(window, count), 0, 0
    while begin < count:
        old = states[begin:end]
        clean = denoise(old * scale[begin:end], sigma[begin:end])
        drift = schedule.batch_step_no_noise(clean, times[begin:end], old) - old
        new = old[0] + (drift + noise[begin:end]).cumsum(0)
        moved = (new - states[begin + 1 : end + 1]).flatten(1).square().sum(1)
        unsettled = moved > allowed[begin:end]
        stride = int(unsettled.int().argmax()) + 1 if bool(unsettled.any()) else end - begin
        states[begin + 1 : end + 1] = new
        sweeps, nfe = sweeps + 1, nfe + end - begin
        further = min(begin + stride + window, count)
        states[end + 1 : further + 1] = states[end]
        begin, end = begin + stride, further
    return Run(sample=states[-1], sweeps=sweeps, nfe=nfe, wall_s=time.perf_counter() - start)


def pipeline(denoise: Denoise, schedule: Any, x: Tensor) -> Run:
    """The loop of diffusers' pipelines: denoise, scheduler.step, for x [1, *shape]; the scheduler draws the noise."""
    start = time.perf_counter()
    alphas = schedule.alphas_cumprod[schedule.timesteps]
    generator = torch.Generator().manual_seed(0)
    for t, alpha in zip(schedule.timesteps, alphas, strict=True):
        clean = denoise(x * alpha.rsqrt(), (1 / alpha - 1).sqrt().reshape(1))
        x = schedule.step(clean, t, x, generator=generator).prev_sample
    steps = len(alphas)
    return Run(sample=x[0], sweeps=steps, nfe=steps, wall_s=time.perf_counter() - start)
