"""The denoiser of a policy from the weights of its U-Net, which LeRobot and Diffusion Policy name differently."""

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.factory import without_memory
from ncdeploy.denoisers.foreign.policy_unet import OBSERVATION, PolicyUNet, PolicyUNetConfig
from ncdeploy.denoisers.precondition import VP
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers.policies.noise import PolicyNoise
from ncdeploy.importers.weights import check_weights, put_weights
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition

SIGMA_DATA = 0.5  # of actions normalised to [-1, 1]; nothing in the files says
# What a name begins with, and what it goes on with inside a block.
_BEGINS: tuple[tuple[str, str], ...] = (
    (r"diffusion_step_encoder\.1\.", "step.0."),
    (r"diffusion_step_encoder\.3\.", "step.2."),
    (r"mid_modules\.", "middle."),
    (r"down_modules\.(\d+)\.2\.(?:conv\.)?", r"shrink.\1."),
    (r"up_modules\.(\d+)\.2\.(?:conv\.)?", r"grow.\1."),
    (r"final_conv\.0\.block\.", "last."),
    (r"final_conv\.1\.", "outer."),
)
_BLOCK = re.compile(r"(down|up)_modules\.(\d{1,3})\.([01])\.")
_INSIDE: tuple[tuple[str, str], ...] = (
    (".conv1.block.", ".first."), (".blocks.0.block.", ".first."),
    (".conv2.block.", ".second."), (".blocks.1.block.", ".second."),
    (".cond_encoder.1.", ".film."), (".residual_conv.", ".skip."),
)  # fmt: skip


def own_name(name: str) -> str:
    """down_modules.1.0.conv1.block.0.weight or down_modules.1.0.blocks.0.block.0.weight -> down.2.first.0.weight, and
    so on; a name that belongs to no such network stays as it is."""
    name = _BLOCK.sub(lambda m: f"{m[1]}.{2 * int(m[2]) + int(m[3])}.", name, count=1)
    for pattern, ours in _BEGINS:
        name = re.sub(f"^{pattern}", ours, name)
    for theirs, ours in _INSIDE:
        name = name.replace(theirs, ours)
    return name


def policy_denoiser(
    weights: Mapping[str, Tensor], source: str | os.PathLike[str], *, shape: tuple[int, ...],
    config: PolicyUNetConfig, noise: PolicyNoise, data: str,
) -> Denoiser:  # fmt: skip
    """D of action chunks [horizon, actions] with the condition obs. Raises FileError for weights that do not fit."""
    ours = {own_name(name): tensor for name, tensor in weights.items()}
    sigmas = noise.table.sigmas()
    info = ModelInfo(
        shape=shape,
        sigma_min=float(sigmas[0]),
        sigma_max=float(sigmas[-1]),
        sigma_data=SIGMA_DATA,
        data=data,
        default_plan=noise.plan,
        conditions=(Condition(name=OBSERVATION, dtype="float32", shape=(config.observation,)),),
    )
    try:
        with without_memory(len(ours)):  # what damaged settings claim must not be allocated before it is checked
            check_weights(PolicyUNet(shape, config, 0, info.conditions), ours, source)
        with torch.random.fork_rng(devices=[]):  # initial weights, replaced below, must not disturb the caller
            network = PolicyUNet(shape, config, 0, info.conditions)
    except InputError as e:
        raise FileError(f"{source}: {e}") from e
    put_weights(network, ours, source)
    return VP(network, info, predicts=noise.predicts, table=noise.table, clip=noise.clip)
