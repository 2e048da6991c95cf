"""The loss of one step: which rows, which noise, labels and conditions, all from (seed, step, process)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import take_all
from ncdeploy.training.alphas import LogisticAlphas, principal_variances
from ncdeploy.training.config import ContrastiveConfig, TrainConfig
from ncdeploy.training.contrastive import Draws, contrastive_loss, draw, vp_scale
from ncdeploy.training.data import Dataset
from ncdeploy.training.denoising import Denoise, denoising_loss, draw_levels


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss to descend, a scalar tensor, and its parts; contrastive in nats, or None without it."""

    total: Tensor
    denoising: Tensor
    contrastive: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """What the contrastive loss draws for the first S samples of a batch: the alternative's noise levels s [S] and its
    noise [S, *shape], and the draws of their ratios."""

    s: Tensor
    noise: Tensor
    draws: Draws


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything that is drawn for one step, on the device: its loss is a function of this and of the denoiser.

    x0, noise: [B, *shape]; sigma, weight: [B]; labels: int64 [B] or None; conditions: [B, *shape] each
    """

    x0: Tensor
    sigma: Tensor
    weight: Tensor
    noise: Tensor
    labels: Tensor | None
    conditions: dict[str, Tensor]
    contrast: Contrast | None


class Objective:
    """Draws a batch and computes its loss.

    All draws are made on the CPU from a generator seeded by (seed, step, process): a resumed run sees what an
    uninterrupted one would have seen, on any device.

    info: of the model: what a dropped label becomes (info.null_label; None drops none), and conditions that it takes

    Raises InputError for conditions that the data do not have so.
    """

    def __init__(
        self,
        data: Dataset,
        config: TrainConfig,
        *,
        info: ModelInfo,
        batch: int,
        process: int,
        device: torch.device,
    ) -> None:
        self.x = torch.from_numpy(data.x)
        self.labels = torch.from_numpy(data.labels) if config.conditional and data.labels is not None else None
        self.null_label = info.null_label
        given = take_all(info.conditions, data.conditions, len(data.x))
        self.conditions = {name: torch.from_numpy(values) for name, values in given.items()}
        self.nulls = {c.name: torch.from_numpy(np.array(c.none())) for c in info.conditions if c.null is not None}
        self.config, self.batch, self.process, self.device = config, batch, process, device
        self.sigma_data = data.sigma_data
        self.variances = principal_variances(self.x)

    def generator(self, step: int) -> torch.Generator:
        """The only source of random numbers of a step."""
        state = np.random.SeedSequence([self.config.seed, step, self.process]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))

    def __call__(self, denoise: Denoise, step: int) -> Loss:
        return self.loss(denoise, self.draw(step), step)

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        generator, to = self.generator(step), self.device
        rows = torch.randint(len(self.x), (self.batch,), generator=generator)
        x0 = self.x[rows]
        labels, conditions = self._seen(rows, generator)
        sigma, weight = draw_levels(
            self.config.weighting,
            self.batch,
            generator,
            sigma_min=self.config.sigma_min,
            sigma_max=self.config.sigma_max,
            sigma_data=self.sigma_data,
            variances=self.variances,
        )
        noise = torch.randn(x0.shape, generator=generator)
        options = self.config.contrastive
        return Batch(
            x0=x0.to(to),
            sigma=sigma.to(to),
            weight=weight.to(to),
            noise=noise.to(to),
            labels=None if labels is None else labels.to(to),
            conditions={name: values.to(to) for name, values in conditions.items()},
            contrast=None if options is None else self._draw_contrast(tuple(x0.shape[1:]), options, generator),
        )

    def _draw_contrast(
        self, shape: tuple[int, ...], options: ContrastiveConfig, generator: torch.Generator
    ) -> Contrast:  # fmt: skip
        samples, unit, to = options.points(self.batch) // 2, self.sigma_data, self.device
        low, high = math.log(options.s_min * unit), math.log(options.s_max * unit)
        s = torch.exp(low + (high - low) * torch.rand(samples, generator=generator))
        noise = torch.randn(samples, *shape, generator=generator)
        alphas = LogisticAlphas.within(options.tau_min * unit, options.tau_max * unit)
        draws = draw(alphas, samples, options.terms, shape, generator)
        return Contrast(s=s.to(to), noise=noise.to(to), draws=draws.to(to))

    def loss(self, denoise: Denoise, batch: Batch, step: int) -> Loss:
        """The loss of a batch; the number of the step says how far the contrastive loss has warmed up."""
        denoise, given = _given(denoise, batch)
        x0 = batch.x0
        denoising = denoising_loss(denoise, x0, batch.sigma, batch.noise, given, weight=batch.weight)
        options, contrast = self.config.contrastive, batch.contrast
        if options is None or contrast is None:
            return Loss(total=denoising, denoising=denoising.detach(), contrastive=None)
        samples = len(contrast.s)
        first = None if given is None else given[:samples]
        contrastive = self._contrastive(denoise, x0[:samples], first, options, contrast)
        total = denoising + options.weight_at(step) * contrastive / x0[0].numel()
        return Loss(total=total, denoising=denoising.detach(), contrastive=contrastive.detach())

    def _contrastive(
        self, denoise: Denoise, x0: Tensor, labels: Tensor | None, options: ContrastiveConfig, contrast: Contrast
    ) -> Tensor:
        sign = torch.tensor([1.0, -1.0], device=x0.device).repeat_interleave(len(x0))
        x0, s, noise = (torch.cat([v, v]) for v in (x0, contrast.s, contrast.noise))
        labels = None if labels is None else torch.cat([labels, labels])
        base = options.base_share(x0[0].numel()) * s
        unit = self.sigma_data
        scale = vp_scale(s, unit) / vp_scale(base, unit) if options.contrast == "vp" else None
        return contrastive_loss(
            denoise, x0, s, noise, sign, contrast.draws.twice(), labels, scale=scale, base=base
        )  # fmt: skip

    def _seen(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Labels and conditions of these rows, some of them dropped."""
        labels = None if self.labels is None else self.labels[rows]
        conditions = {name: values[rows] for name, values in self.conditions.items()}
        if self.nulls or (labels is not None and self.null_label is not None):
            dropped = torch.rand(len(rows), generator=generator) < self.config.label_dropout
            if labels is not None and self.null_label is not None:
                labels = torch.where(dropped, self.null_label, labels)
            for name, null in self.nulls.items():
                conditions[name][dropped] = null
        return labels, conditions


def _given(denoise: Denoise, batch: Batch) -> tuple[Denoise, Tensor | None]:
    """The denoiser, and what it is given of each row: labels, or where there are conditions whose row it is."""
    labels, conditions = batch.labels, batch.conditions
    if not conditions:
        return denoise, labels

    def of_samples(x: Tensor, sigma: Tensor, sample: Tensor | None) -> Tensor:
        own = labels if labels is None or sample is None else labels[sample]
        denoised: Tensor = denoise(x, sigma, own, conditions, sample)
        return denoised

    return of_samples, torch.arange(len(batch.x0), device=batch.x0.device)
