"""LeRobot's diffusion policy, small, trained on the demonstrations of `task`, and written as LeRobot writes one."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from examples.policy import task
from ncdeploy import Condition
from ncdeploy.denoisers import NoiseTable
from ncdeploy.denoisers.foreign.policy_unet import PolicyUNet, PolicyUNetConfig

STATE, GOAL, ACTION = "observation.state", "observation.environment_state", "action"
LOOKS, HORIZON, ACTS, TRAINING_STEPS = 2, 16, 8, 100
WIDTHS, EMBEDDING, KERNEL, GROUPS = (32, 64), 32, 5, 8
EMA = 0.995
CONFIG: dict[str, Any] = {
    "type": "diffusion", "n_obs_steps": LOOKS, "horizon": HORIZON, "n_action_steps": ACTS,
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
    "input_features": {STATE: {"type": "STATE", "shape": [2]}, GOAL: {"type": "ENV", "shape": [2]}},
    "output_features": {ACTION: {"type": "ACTION", "shape": [2]}},
    "down_dims": list(WIDTHS), "kernel_size": KERNEL, "n_groups": GROUPS, "diffusion_step_embed_dim": EMBEDDING,
    "use_film_scale_modulation": True, "spatial_softmax_num_keypoints": 32, "noise_scheduler_type": "DDPM",
    "num_train_timesteps": TRAINING_STEPS, "beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "beta_end": 0.02,
    "prediction_type": "epsilon", "clip_sample": True, "clip_sample_range": 1.0, "num_inference_steps": None,
}  # fmt: skip


def windows(demonstrations: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """States [n, LOOKS, 2], goals [n, LOOKS, 2] and actions [n, HORIZON, 2] from each step of each demonstration on;
    beyond its ends the first and the last are repeated."""
    places, actions, goals = task.demonstrate(demonstrations, np.random.default_rng(seed))
    now = np.arange(task.STEPS)[:, None]
    seen = (now + np.arange(1 - LOOKS, 1)).clip(0)
    done = (now + np.arange(1 - LOOKS, 1 - LOOKS + HORIZON)).clip(0, task.STEPS - 1)
    aims = np.broadcast_to(goals[:, None, None], (demonstrations, task.STEPS, LOOKS, 2))
    parts = (places[:, seen], aims, actions[:, done])
    states, aims, acts = (torch.tensor(part.reshape(-1, *part.shape[2:]), dtype=torch.float32) for part in parts)
    return states, aims, acts


def train(*, steps: int = 2500, demonstrations: int = 200, batch: int = 64, seed: int = 0) -> tuple[PolicyUNet, Any]:
    """The averaged network, and the statistics by feature."""
    torch.manual_seed(seed)
    states, goals, actions = windows(demonstrations, seed)
    statistics = {
        name: {"min": values.amin((0, 1)), "max": values.amax((0, 1))}
        for name, values in ((STATE, states), (GOAL, goals), (ACTION, actions))
    }
    obs = torch.cat([normalised(states, statistics[STATE]), goals], 2).flatten(1)
    chunks = normalised(actions, statistics[ACTION])
    config = PolicyUNetConfig(
        observation=obs.shape[1], widths=WIDTHS, embedding=EMBEDDING, kernel=KERNEL, groups=GROUPS
    )
    condition = Condition(name="obs", dtype="float32", shape=(obs.shape[1],))
    network = PolicyUNet((HORIZON, 2), config, conditions=(condition,))
    averaged = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, foreach=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    signal = torch.tensor(NoiseTable.cosine(TRAINING_STEPS).alphas_cumprod, dtype=torch.float32)
    rows = torch.arange(batch)
    for _ in range(steps):
        chosen, t = torch.randint(len(chunks), (batch,)), torch.randint(TRAINING_STEPS, (batch,))
        a, noise = signal[t][:, None, None], torch.randn(batch, HORIZON, 2)
        noised = a.sqrt() * chunks[chosen] + (1 - a).sqrt() * noise
        loss = (network(noised, t.float(), None, {"obs": obs[chosen]}, rows) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - EMA)
    return averaged, statistics


def normalised(values: Tensor, statistics: dict[str, Tensor]) -> Tensor:
    low, high = statistics["min"], statistics["max"]
    return 2 * (values - low) / (high - low) - 1


def write_checkpoint(folder: Path, network: PolicyUNet, statistics: dict[str, dict[str, Tensor]]) -> None:
    """As `policy.save_pretrained(folder)` and those of its two processors do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=4))
    weights = {f"diffusion.unet.{their_name(name)}": tensor for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    features = CONFIG["input_features"] | CONFIG["output_features"]
    for name, kind in (
        ("policy_preprocessor", "normalizer_processor"), ("policy_postprocessor", "unnormalizer_processor")
    ):  # fmt: skip
        state = f"{name}_step_0_{kind}.safetensors"
        own = {"eps": 1e-8, "features": features, "norm_map": CONFIG["normalization_mapping"]}
        step = {"registry_name": kind, "config": own, "state_file": state}
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": [step]}, indent=2))
        save_file({f"{f}.{k}": v.clone() for f, own in statistics.items() for k, v in own.items()}, folder / state)


def their_name(name: str) -> str:
    """down.2.first.0.weight -> down_modules.1.0.conv1.block.0.weight, and so on."""
    for ours, theirs in (
        (r"^step\.0", "diffusion_step_encoder.1"), (r"^step\.2", "diffusion_step_encoder.3"),
        (r"^middle", "mid_modules"), (r"^shrink\.(\d+)", r"down_modules.\1.2"), (r"^grow\.(\d+)", r"up_modules.\1.2"),
        (r"^last", "final_conv.0.block"), (r"^outer", "final_conv.1"), (r"\.first\.", ".conv1.block."),
        (r"\.second\.", ".conv2.block."), (r"\.film", ".cond_encoder.1"), (r"\.skip", ".residual_conv"),
    ):  # fmt: skip
        name = re.sub(ours, theirs, name)
    return re.sub(r"^(down|up)\.(\d+)", lambda m: f"{m[1]}_modules.{int(m[2]) // 2}.{int(m[2]) % 2}", name)
