"""The arms: DDPM's noise levels, the likelihood's and EDM's, each without and with a contrast."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.contrastive.claim.batched import Batched, Drawn
from benchmarks.contrastive.claim.released import LEVELS, POINTS, StepNetwork, contrast, draw_contrast
from ncdeploy.denoisers import Denoiser
from ncdeploy.denoisers.precondition import EDM, VP
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.training import ContrastiveConfig, Dataset, TrainConfig
from ncdeploy.training.contrastive import Draws
from ncdeploy.training.denoising import Denoise
from ncdeploy.training.objective import Batch, Contrast, Objective

BATCH, RATE, EMA = 128, 1e-3, 0.999
OURS = ContrastiveConfig(weight=1.0, fraction=0.02)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """weighting of noise levels, and of the network's scaling (EDM's for edm); contrast: none, ours or released."""

    weighting: str
    contrast: str | None = None


ARMS = {
    "ddpm": Arm(weighting="ddpm"),
    "likelihood": Arm(weighting="likelihood"),
    "likelihood + contrast": Arm(weighting="likelihood", contrast="released"),
    "edm": Arm(weighting="edm"),
    "ddpm + contrast": Arm(weighting="ddpm", contrast="ours"),
    "edm + contrast": Arm(weighting="edm", contrast="ours"),
}


def settings(arm: Arm, *, steps: int, seed: int) -> TrainConfig:
    """Batch, noise levels and average of the study; nothing is clipped, as in the release."""
    return TrainConfig(
        steps=steps, batch=BATCH, lr=RATE, ema=EMA, clip=1e9, weighting=arm.weighting, seed=seed, device="cpu",
        sigma_min=float(LEVELS[0]), sigma_max=float(LEVELS[-1]), contrastive=OURS if arm.contrast == "ours" else None,
    )  # fmt: skip


def model(arm: Arm, data: Dataset, seed: int) -> Denoiser:
    """The network of the release with weights of the seed, the same in every arm."""
    info = ModelInfo(
        shape=data.shape, sigma_min=float(LEVELS[0]), sigma_max=float(LEVELS[-1]), sigma_data=data.sigma_data
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StepNetwork()
    if arm.weighting == "edm":
        return EDM(network, info, noise="log-snr")
    return VP(network, info, predicts="eps", table=None, noise="log-snr")


class ArmLoss:
    """The loss of one seed of an arm: the library's own, with the contrast of the release on top where it asks so."""

    def __init__(self, arm: Arm, data: Dataset, config: TrainConfig, info: ModelInfo) -> None:
        device = torch.device("cpu")
        self.objective = Objective(data, config, info=info, batch=config.batch, process=0, device=device)
        self.released = arm.contrast == "released"
        self.variances = torch.from_numpy(data.x).var(dim=0)

    def draw(self, step: int) -> Drawn:
        batch = self.objective.draw(step)
        drawn = {name: getattr(batch, name) for name in ("x0", "sigma", "weight", "noise")}
        if batch.contrast is not None:
            own, draws = batch.contrast, batch.contrast.draws
            drawn |= {"s": own.s, "s noise": own.noise, "tau": draws.tau, "its": draws.weight, "draws": draws.noise}
        if self.released:
            state = np.random.SeedSequence([self.objective.config.seed, step, 0, 1]).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
            drawn |= {f"released {k}": v for k, v in draw_contrast(self.variances, generator).items()}
        return drawn

    def loss(self, denoise: Denoise, drawn: Drawn) -> Tensor:
        plain = {name: drawn[name] for name in ("x0", "sigma", "weight", "noise")}
        own = None
        if "s" in drawn:
            draws = Draws(tau=drawn["tau"], weight=drawn["its"], noise=drawn["draws"])
            own = Contrast(s=drawn["s"], noise=drawn["s noise"], draws=draws)
        batch = Batch(**plain, labels=None, conditions={}, contrast=own)
        total = self.objective.loss(denoise, batch, 0).total
        released = {k.removeprefix("released "): v for k, v in drawn.items() if k.startswith("released ")}
        if released:
            x0 = drawn["x0"]
            total = total + contrast(denoise, x0[:POINTS], released, self.variances.to(x0.device)) / x0.numel()
        return total


def start(
    arm: Arm, data: Dataset, *, seeds: int, steps: int, device: str = "cpu", compiled: bool = False
) -> Batched:  # fmt: skip
    """All seeds of an arm, at the constant rate of the release."""
    models = [model(arm, data, seed) for seed in range(seeds)]
    configs = [settings(arm, steps=steps, seed=seed) for seed in range(seeds)]
    losses = [ArmLoss(arm, data, config, models[0].info) for config in configs]
    return Batched(models, losses, configs[0], device=device, rate=lambda step: RATE, compiled=compiled)
