"""Classifier-free guidance inside the graph: one more input, and both halves in one batch of twice the rows."""

from dataclasses import replace

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser, over_rows
from ncdeploy.guidance import guidable


class GuidedDenoiser(Denoiser):
    """w D(x, sigma, labels) + (1 - w) D(x, sigma, unconditional), for export; `sampling.guidance.Guided` in PyTorch.

    Raises InputError for a model without classes or without an unconditional one.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(replace(guidable(denoiser.info), guidance=True), denoiser.config)
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        """x [B, *shape], sigma [B], labels int64 [B] or None, guidance [B] or None (= 1) -> guided [B, *shape]."""
        null = torch.full_like(sigma, self.info.num_classes, dtype=torch.int64)
        both = torch.cat([null if labels is None else labels, null])
        D = self.denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), both).reshape(2, -1, *x.shape[1:])
        w = over_rows(torch.ones_like(sigma) if guidance is None else guidance, x)
        guided: Tensor = w * D[0] + (1 - w) * D[1]
        return guided
