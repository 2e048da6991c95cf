"""The one contract of every model: denoised = D(x, sigma[, labels[, conditions]]), with everything else inside."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ncdeploy.errors import InputError
from ncdeploy.formats.parts import Role
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Value


class Denoiser(nn.Module, ABC):
    """An estimate of the clean sample x0 from x = x0 + sigma n, n standard normal.

    Subclasses are final. They may compute in any floating dtype: `denoiser.double()` serves gradient checks.

    Attributes:
        notes: what an importer left out or chose, for people; not saved
        parts: the encoder and the decoder that an importer found beside it; not saved
        info: what the model says of itself (shape, noise range, classes ...)
        config: JSON-able; `ncdeploy.denoisers.build(config)` makes the same architecture again
    """

    info: ModelInfo
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    parts: "tuple[PartModule, ...]" = ()

    def __init__(self, info: ModelInfo, config: dict[str, Any]) -> None:
        super().__init__()
        self.info = info
        self.config = config

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        """x [B, *shape], sigma [B] > 0, labels int64 [B] or None (= unconditional) -> denoised [B, *shape].

        conditions: of a model that has some (info.conditions): [S, *shape] each, with sample int64 [B] in 0 .. S - 1,
        which says whose each row is.

        Every row has its own sigma. Raises InputError as `fill_labels` does.
        """

    def fill_labels(self, sigma: Tensor, labels: Tensor | None) -> Tensor | None:
        """The labels to condition on: those given, else "unconditional" for every row, else None without classes.

        Raises:
            InputError: for labels where there are no classes, and for none where there is no unconditional class
        """
        if self.info.num_classes == 0:
            if labels is not None:
                raise InputError("labels: this model is unconditional and takes none")
            return None
        if labels is None:
            if self.info.null_label is None:
                raise InputError(f"labels: this model needs one per row, {self.info.describe_labels()}")
            return torch.full_like(sigma, self.info.null_label, dtype=torch.int64)
        return labels


@dataclass(frozen=True, kw_only=True)
class PartModule:
    """What runs once a sample before or after a denoiser, as `ncdeploy.export_part` takes it."""

    role: Role
    module: nn.Module
    inputs: tuple[Value, ...] | None
    outputs: tuple[str, ...]


def over_rows(values: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1], to scale the rows of x [B, *shape]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def base_config(kind: str, info: ModelInfo) -> dict[str, Any]:
    """The part of a config that all kinds share."""
    conditions = {"conditions": [asdict(c) for c in info.conditions]} if info.conditions else {}
    return {
        **conditions,
        "kind": kind,
        "shape": list(info.shape),
        "num_classes": info.num_classes,
        "unconditional": info.unconditional,
        "sigma_min": info.sigma_min,
        "sigma_max": info.sigma_max,
        "sigma_data": info.sigma_data,
    }
