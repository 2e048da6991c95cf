"""A tiny network of diffusers, and the loops that sample with it from given noise: ours and that of its pipelines."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from ncdeploy.denoisers import Denoiser
from ncdeploy.sampling.plan import Plan

PLAIN: dict[str, Any] = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1,
    "norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip


def network(**settings: Any) -> UNet2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return UNet2DModel(**{**PLAIN, **settings}).eval()


@torch.no_grad()
def run(denoiser: Denoiser, plan: Plan, noise: np.ndarray, labels: Tensor | None) -> np.ndarray:
    """The plan from given noise [nodes, B, *shape], in float64, as the drivers combine it."""
    states: list[np.ndarray] = []
    outputs: list[Any] = []
    for k, sigma in enumerate(plan.sigmas):
        x = plan.noise[k] * noise[k]
        for back in range(min(k, plan.reach)):
            x = (
                x
                + plan.state[k][back] * states[k - 1 - back]
                + plan.denoised[k][back] * plan.taken(k, outputs[k - 1 - back], np.clip)
            )
        states.append(x)
        level = torch.full((len(x),), sigma, dtype=torch.float64)
        outputs.append(denoiser(torch.from_numpy(x), level, labels).numpy() if plan.evaluated[k] else 0)
    return states[-1]


@torch.no_grad()
def pipeline(
    model: UNet2DModel, scheduler: Any, steps: int, noise: np.ndarray, labels: Tensor | None, **step: Any
) -> Any:
    """The loop of DDPMPipeline and DDIMPipeline, with given noise, in float64."""
    scheduler.set_timesteps(steps)
    for table in ("betas", "alphas", "alphas_cumprod", "final_alpha_cumprod", "one"):
        if hasattr(scheduler, table):
            setattr(scheduler, table, getattr(scheduler, table).double())
    x, fresh = torch.from_numpy(noise[0]), iter(noise[1:])

    def draw(shape: Any, **_: Any) -> Tensor:
        return torch.from_numpy(next(fresh))

    with pytest.MonkeyPatch.context() as patch:
        for where in ("ddpm", "ddim", "ddpm_parallel", "ddim_parallel"):
            patch.setattr(f"diffusers.schedulers.scheduling_{where}.randn_tensor", draw)
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t, class_labels=labels).sample, t, x, **step).prev_sample
    return x.numpy()
