"""Policies of real-stanford/diffusion_policy: a checkpoint (.ckpt) of its U-Net for low-dimensional observations."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.foreign.policy_unet import PolicyUNetConfig
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.policies.hydra_file import is_checkpoint, read_checkpoint
from ncdeploy.importers.policies.network import policy_denoiser
from ncdeploy.importers.policies.noise import read_noise
from ncdeploy.importers.policies.parts import PolicyDecoder, PolicyEncoder, Scaling, policy_parts

INPUT = "observation"  # of the encoder; its "obs" is the name of what comes out
POLICY, NETWORK = "DiffusionUnetLowdimPolicy", "ConditionalUnet1D"
SOLVERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
# Of a policy, beside what goes on to the scheduler's step.
KNOWN = (
    "_target_", "model", "noise_scheduler", "horizon", "obs_dim", "action_dim", "n_action_steps", "n_obs_steps",
    "num_inference_steps", "obs_as_local_cond", "obs_as_global_cond", "pred_action_steps_only", "oa_step_convention",
)  # fmt: skip
LAST_LEVEL = (
    "set_alpha_to_one false is not taken over: the plan's last step goes to D, the scheduler's to its first training "
    "level"
)


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether this is a checkpoint of one of that project's workspaces."""
    return is_checkpoint(path)


def load(path: str | os.PathLike[str], *, ema: bool | None = None) -> Denoiser:
    """The policy of a checkpoint: a denoiser of normalised action chunks with the condition obs, and its `parts`.

    ema: take the averaged weights (True) or the others (False) of a file with both; None = the averaged ones

    Nothing in the file is executed. Raises FileError for a file that is damaged, and for another kind of policy;
    InputError for a choice that is not there.
    """
    settings, states = read_checkpoint(path)
    name = "model" if ema is False else "ema_model"
    if ema is None and "ema_model" not in states:
        name = "model"
    if name not in states:
        raise InputError(f"ema: {path} has no {name}; leave --ema and --no-ema out")
    weights = states[name]
    if type(weights) is not dict or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise FileError(f"{path}: {name} is no state dict, name -> tensor")
    try:
        denoiser = _denoiser(Arguments(settings).inner("policy"), weights, Path(path))
    except FileError as e:
        raise e if str(path) in str(e) else FileError(f"{path}: {e}") from e
    except InputError as e:
        raise FileError(f"{path}: {e}") from e
    if name == "ema_model" and "model" in states:
        denoiser.notes += ("the weights are those of ema_model; model beside it is left out (--ema or --no-ema)",)
    return denoiser


def _denoiser(policy: Arguments, weights: Mapping[str, Tensor], path: Path) -> Denoiser:
    _target(policy, (POLICY,), "image policies have encoders of other projects")
    model = policy.inner("model")
    _target(model, (NETWORK,), "transformers are not read")
    if not policy.flag("obs_as_global_cond", False):
        raise FileError("obs_as_global_cond: is false, so observations go in by other ways than the condition")
    if model.values.get("local_cond_dim") is not None:
        raise FileError("local_cond_dim: is given, expected none")
    actions, steps, horizon = policy.whole("action_dim"), policy.whole("n_obs_steps"), policy.whole("horizon")
    size, count = policy.whole("obs_dim"), policy.whole("n_action_steps")
    if model.whole("input_dim") != actions or model.whole("global_cond_dim") != size * steps:
        raise FileError("input_dim, global_cond_dim: are not those of its actions and observations")
    first = steps - 1 if policy.flag("oa_step_convention", False) else steps
    if policy.flag("pred_action_steps_only", False):
        horizon, first = count, 0
    if first + count > horizon:
        raise FileError(
            f"n_action_steps: is {count}, but a horizon of {horizon} has {horizon - first} from step {first}"
        )
    config = PolicyUNetConfig(
        observation=size * steps,
        widths=model.wholes("down_dims", (256, 512, 1024)),
        embedding=model.whole("diffusion_step_embed_dim", 256),
        kernel=model.whole("kernel_size", 3),
        groups=model.whole("n_groups", 8),
        scales=model.flag("cond_predict_scale", False),
    )
    scheduler = policy.inner("noise_scheduler")
    solver = SOLVERS[_target(scheduler, tuple(SOLVERS), "their steps differ")]
    inference = policy.values.get("num_inference_steps")
    noise = read_noise(scheduler, solver, None if inference is None else policy.whole("num_inference_steps"))
    notes = [LAST_LEVEL] if solver == "ddim" and not scheduler.flag("set_alpha_to_one", True) else []
    step: dict[str, Any] = {name: value for name, value in policy.values.items() if name not in KNOWN}
    if solver == "ddim" and "eta" in step:
        noise.plan["eta"] = Arguments(step).real("eta")
        del step["eta"]
    notes += [f"{name[:60]} of its sampler is not taken over" for name in step]
    denoiser = policy_denoiser(
        _under(weights, "model."), path, shape=(horizon, actions), config=config, noise=noise, data=path.stem
    )
    denoiser.notes += tuple(notes)
    denoiser.parts = policy_parts(
        PolicyEncoder({INPUT: _scaling(weights, "obs", size)}, {}),
        PolicyDecoder(_scaling(weights, "action", actions), first=first, count=count),
        {INPUT: (steps, size)},
    )
    return denoiser


def _target(settings: Arguments, known: tuple[str, ...], why: str) -> str:
    """The class that settings are for, without its modules."""
    name = str(settings.values.get("_target_")).rpartition(".")[2]
    if name not in known:
        raise FileError(f"_target_: is {name[:80]!r}, expected {' or '.join(known)}; {why}")
    return name


def _scaling(weights: Mapping[str, Tensor], field: str, size: int) -> Scaling:
    """normalised = raw * scale + offset, as this project writes it."""
    own = _under(weights, f"normalizer.params_dict.{field}.")
    if "scale" not in own or "offset" not in own:
        raise FileError(f"its normalizer has no scale and offset of {field!r}")
    scale, offset = own["scale"].float(), own["offset"].float()
    scaling = Scaling(shift=torch.zeros_like(offset), scale=1 / scale, offset=offset)
    scaling.check(field, (size,))
    return scaling


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
