"""The one contract of every model: denoised = D(x, sigma[, labels]), with everything else inside."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo


class Denoiser(nn.Module, ABC):
    """An estimate of the clean sample x0 from x = x0 + sigma n, n standard normal.

    info:   what the model says of itself (shape, noise range, classes ...)
    config: JSON-able; `ncdeploy.denoisers.build(config)` makes the same architecture again

    Subclasses are final. They may compute in any floating dtype: `denoiser.double()` serves gradient checks.
    """

    info: ModelInfo
    config: dict[str, Any]

    def __init__(self, info: ModelInfo, config: dict[str, Any]) -> None:
        super().__init__()
        self.info = info
        self.config = config

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, *shape], sigma [B] > 0, labels int64 [B] or None (= unconditional) -> denoised [B, *shape].

        Every row has its own sigma. Raises InputError if an unconditional model is given labels.
        """

    def fill_labels(self, sigma: Tensor, labels: Tensor | None) -> Tensor | None:
        """The labels to condition on: those given, else "unconditional" for every row, else None without classes."""
        if self.info.num_classes == 0:
            if labels is not None:
                raise InputError("labels: this model is unconditional and takes none")
            return None
        if labels is None:
            return torch.full_like(sigma, self.info.num_classes, dtype=torch.int64)
        return labels


def over_rows(values: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1], to scale the rows of x [B, *shape]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def base_config(kind: str, info: ModelInfo) -> dict[str, Any]:
    """The part of a config that all kinds share."""
    return {
        "kind": kind,
        "shape": list(info.shape),
        "num_classes": info.num_classes,
        "sigma_min": info.sigma_min,
        "sigma_max": info.sigma_max,
        "sigma_data": info.sigma_data,
    }
