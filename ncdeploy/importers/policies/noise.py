"""The noise of a policy, by the settings of diffusers' DDPM and DDIM schedulers."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import Prediction
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers.arguments import Arguments

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
MOST_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class PolicyNoise:
    """How a policy was trained and is sampled. clip: where the model cuts D; plan: arguments of `ncdeploy.make_plan`.

    The plan of ddim cuts instead of the model: as in diffusers it follows the noise of the D that is not cut.
    """

    table: NoiseTable
    predicts: Prediction
    clip: float | None
    plan: dict[str, Any]


def read_noise(settings: Arguments, solver: str, steps: int | None) -> PolicyNoise:
    """Of a scheduler's settings, those that are not there having diffusers' defaults.

    solver: "ddpm" or "ddim"
    steps:  of the sampler, None for all training steps

    Raises FileError for settings that make no sense or are not known.
    """
    try:
        table = NoiseTable.given(_alphas_cumprod(settings).double().numpy())
    except InputError as e:
        raise FileError(f"its betas give no noise table: {e}") from e
    trained = len(table.alphas_cumprod)
    if steps is not None and not 1 <= steps <= trained:
        raise FileError(f"num_inference_steps: is {steps}, expected 1 to {trained}, its training steps")
    clip = settings.real("clip_sample_range", 1.0) if settings.flag("clip_sample", True) else None
    if clip is not None and not 0 < clip < math.inf:
        raise FileError(f"clip_sample_range: is {clip}, expected a positive number")
    plan = table.plan(solver=solver, steps=steps or trained)
    if solver == "ddpm":
        variance = settings.choice("variance_type", "fixed_small", ("fixed_small", "fixed_small_log", "fixed_large"))
        if variance == "fixed_large":
            plan["variance"] = "beta"
    elif clip is not None:
        plan |= {"clip": clip, "raw_noise": True}
        clip = None
    predicts = PREDICTIONS[settings.choice("prediction_type", "epsilon", tuple(PREDICTIONS))]
    return PolicyNoise(table=table, predicts=predicts, clip=clip, plan=plan)


def _alphas_cumprod(settings: Arguments) -> torch.Tensor:
    """[T] float32, rounded as diffusers rounds it: at the noisy end of a squared cosine that changes sigma by 1e-5."""
    steps = settings.whole("num_train_timesteps", 1000, least=2)
    if steps > MOST_STEPS:
        raise FileError(f"num_train_timesteps: is {steps}, expected at most {MOST_STEPS}")
    schedule = settings.choice("beta_schedule", "linear", SCHEDULES)
    first, last = settings.real("beta_start", 1e-4), settings.real("beta_end", 0.02)
    if schedule == "squaredcos_cap_v2":
        signal = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
        betas = torch.tensor([min(1 - signal[t + 1] / signal[t], 0.999) for t in range(steps)], dtype=torch.float32)
    elif not 0 < first <= last < 1:
        raise FileError(f"beta_start, beta_end: are {first} and {last}, expected 0 < beta_start <= beta_end < 1")
    elif schedule == "linear":
        betas = torch.linspace(first, last, steps, dtype=torch.float32)
    else:
        betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, 0)
