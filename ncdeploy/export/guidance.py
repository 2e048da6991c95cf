"""Classifier-free guidance inside the graph: one more input, and both halves in one batch of twice the rows."""

from dataclasses import replace

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser, over_rows
from ncdeploy.guidance import guidable, with_null


class GuidedDenoiser(Denoiser):
    """w D(x, sigma, given) + (1 - w) D(x, sigma, null), for export; `ncdeploy.guidance.Guided` in PyTorch.

    Raises InputError for a model without an unconditional class and without a condition that has a null value.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(replace(guidable(denoiser.info), guidance=True), denoiser.config)
        self.denoiser = denoiser

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """As `Denoiser.forward`, with guidance [B] or None (= 1) -> guided [B, *shape]."""
        null = None if self.info.null_label is None else torch.full_like(sigma, self.info.null_label, dtype=torch.int64)
        labels = self.fill_labels(sigma, labels)
        both = None if labels is None else torch.cat([labels, labels if null is None else null])
        if conditions is not None and sample is not None:
            sample = torch.cat([sample, sample + next(iter(conditions.values())).shape[0]])
            conditions = {c.name: with_null(conditions[c.name], c) for c in self.info.conditions}
        D = self.denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), both, conditions, sample)
        D = D.reshape(2, -1, *x.shape[1:])
        w = over_rows(torch.ones_like(sigma) if guidance is None else guidance, x)
        guided: Tensor = w * D[0] + (1 - w) * D[1]
        return guided
