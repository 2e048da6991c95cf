"""The loss of one step: which rows, which noise, which labels, all from (seed, step, process)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ncdeploy.training.config import ContrastiveConfig, TrainConfig
from ncdeploy.training.contrastive import LogisticAlphas, balanced_signs, contrastive_loss
from ncdeploy.training.data import Dataset
from ncdeploy.training.denoising import Denoise, NoiseLevels, denoising_loss


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss to descend, a scalar tensor, and its parts; contrastive in nats, or None without it."""

    total: Tensor
    denoising: Tensor
    contrastive: Tensor | None


class Objective:
    """Draws a batch and computes its loss.

    All draws are made on the CPU from a generator seeded by (seed, step, process): a resumed run sees what an
    uninterrupted one would have seen, on any device.

    null_label: what a dropped label becomes (ModelInfo.null_label); None drops none
    """

    def __init__(
        self,
        data: Dataset,
        config: TrainConfig,
        *,
        null_label: int | None,
        batch: int,
        process: int,
        device: torch.device,
    ) -> None:
        self.x = torch.from_numpy(data.x)
        self.labels = torch.from_numpy(data.labels) if config.conditional and data.labels is not None else None
        self.null_label = null_label
        self.config, self.batch, self.process, self.device = config, batch, process, device
        self.sigma_data = data.sigma_data
        self.levels = NoiseLevels(sigma_min=config.sigma_min, sigma_max=config.sigma_max)

    def generator(self, step: int) -> torch.Generator:
        """The only source of random numbers of a step."""
        state = np.random.SeedSequence([self.config.seed, step, self.process]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))

    def __call__(self, denoise: Denoise, step: int) -> Loss:
        generator = self.generator(step)
        rows = torch.randint(len(self.x), (self.batch,), generator=generator)
        x0 = self.x[rows].to(self.device)
        labels = self._draw_labels(rows, generator)
        sigma = self.levels.draw(self.batch, generator).to(self.device)
        noise = torch.randn(x0.shape, generator=generator).to(self.device)
        denoising = denoising_loss(denoise, x0, sigma, noise, labels, sigma_data=self.sigma_data)
        options = self.config.contrastive
        if options is None:
            return Loss(total=denoising, denoising=denoising.detach(), contrastive=None)
        first = None if labels is None else labels[: options.points]
        contrastive = self._contrastive(denoise, x0[: options.points], first, options, generator)
        total = denoising + options.weight * contrastive / x0[0].numel()
        return Loss(total=total, denoising=denoising.detach(), contrastive=contrastive.detach())

    def _contrastive(
        self,
        denoise: Denoise,
        x0: Tensor,
        labels: Tensor | None,
        options: ContrastiveConfig,
        generator: torch.Generator,
    ) -> Tensor:
        points, unit = len(x0), self.sigma_data
        low, high = math.log(options.s_min * unit), math.log(options.s_max * unit)
        s = torch.exp(low + (high - low) * torch.rand(points, generator=generator))
        noise = torch.randn(x0.shape, generator=generator)
        sign = balanced_signs(points, generator)
        alphas = LogisticAlphas.within(options.tau_min * unit, options.tau_max * unit)
        draws = alphas.draw(points, options.terms, tuple(x0.shape[1:]), generator).to(self.device)
        to = self.device
        return contrastive_loss(denoise, x0, s.to(to), noise.to(to), sign.to(to), draws, labels)

    def _draw_labels(self, rows: Tensor, generator: torch.Generator) -> Tensor | None:
        if self.labels is None:
            return None
        if self.null_label is None:
            return self.labels[rows].to(self.device)
        dropped = torch.rand(len(rows), generator=generator) < self.config.label_dropout
        return torch.where(dropped, self.null_label, self.labels[rows]).to(self.device)
