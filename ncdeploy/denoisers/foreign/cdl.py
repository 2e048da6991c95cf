"""The small networks of Wu et al. 2024 (arXiv 2407.08946) for points in a plane and on a line, which predict eps.

Modules are named as in their files.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ncdeploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CDLNetworkConfig:
    """The architecture.

    width, depth: of the hidden layers, and how many linear layers (perceptron) or residual blocks there are
    steps:        that have an embedding, for residual blocks; None is a perceptron, which takes any number
    """

    width: int
    depth: int
    steps: int | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.steps or 1) < 1 or (self.steps is None and self.depth < 2):
            raise InputError("width, depth, steps: expected positive numbers, and two layers at least")


class CDLNetwork(nn.Module):
    """x [B, d], noise [B] -> [B, d]. With `steps`, noise is rounded to one of 0 .. steps - 1."""

    def __init__(self, shape: tuple[int, ...], config: CDLNetworkConfig, num_classes: int = 0) -> None:
        super().__init__()
        if len(shape) != 1 or num_classes:
            raise InputError(f"shape, num_classes: got {shape}, {num_classes}; expected (d,) and no classes")
        self.config: dict[str, Any] = {"kind": "cdl", **asdict(config)}
        self.steps = config.steps
        if config.steps is None:
            widths = [shape[0] + 1, *[config.width] * (config.depth - 1), shape[0]]
            linear = [nn.Linear(before, after) for before, after in pairwise(widths)]
            self.layers = nn.ModuleDict({str(2 * index): layer for index, layer in enumerate(linear)})
            return
        self.lin_in, self.lin_out = nn.Linear(shape[0], config.width), nn.Linear(config.width, shape[0])
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.steps) for _ in range(config.depth))

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.steps is None:
            hidden = torch.cat([x, noise[:, None]], dim=1)
            for index, layer in enumerate(self.layers.values()):
                hidden = layer(hidden if index == 0 else hidden.relu())
            return hidden
        step = noise.round().long().clamp(0, self.steps - 1)
        hidden = self.lin_in(x)
        for block in self.blocks:
            hidden = block(hidden, step)
        result: Tensor = self.lin_out(hidden)
        return result


class ResidualBlock(nn.Module):
    """hidden [B, width], step int64 [B] -> [B, width], normed after the sum. The embedding is a table in the file."""

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.emb = nn.Module()
        self.emb.register_buffer("pos_enc", torch.zeros(steps, width))
        self.lin1, self.lin2 = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, step: Tensor) -> Tensor:
        told = self.emb.get_buffer("pos_enc").index_select(0, step)
        result: Tensor = self.norm(hidden + self.lin2(gelu(self.lin1(hidden + told))))
        return result
