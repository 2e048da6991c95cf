"""The one-dimensional U-Net of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): convolutions along the actions of
a horizon, with the observation and the training step as FiLM (Perez et al. 2018, arXiv 1709.07871) in every block."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mish

from ncdeploy.errors import InputError
from ncdeploy.ports import Condition

OBSERVATION = "obs"  # the name of its condition
PERIOD = 10000.0  # longest period of the sines of the training step, over 2 pi
LAST_GROUPS = 8  # of the norm before the output, whatever the others have


@dataclass(frozen=True, kw_only=True)
class PolicyUNetConfig:
    """The architecture.

    observation: values of the condition
    widths:      channels of each level; each level after the first halves the horizon
    embedding:   of the training step, an even number of channels
    kernel:      of the convolutions, an odd number
    groups:      of the norms
    scales:      the condition scales and shifts; otherwise it only shifts
    """

    observation: int
    widths: tuple[int, ...]
    embedding: int
    kernel: int = 5
    groups: int = 8
    scales: bool = True

    def __post_init__(self) -> None:
        if self.observation < 1:
            raise InputError(f"observation: got {self.observation}, expected at least 1 value")
        if not self.widths or self.groups < 1 or any(width < 1 or width % self.groups for width in self.widths):
            raise InputError(f"widths: got {self.widths}, expected multiples of {self.groups} groups, one per level")
        if self.widths[0] % LAST_GROUPS:
            raise InputError(f"widths: got {self.widths}, the first must be a multiple of {LAST_GROUPS}")
        if self.embedding < 4 or self.embedding % 2:
            raise InputError(f"embedding: got {self.embedding}, expected an even number, 4 or more")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"kernel: got {self.kernel}, expected an odd number")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError unless the network can take x of this shape, (horizon, actions)."""
        step = 2 ** (len(self.widths) - 1)
        if len(shape) != 2 or shape[0] % step:
            raise InputError(f"shape: got {shape}, expected (horizon, actions) with a horizon divisible by {step}")


class PolicyUNet(nn.Module):
    """x [B, horizon, actions], training step [B] (real), and of the condition obs [S, observation] the row that int64
    sample [B] names -> [B, horizon, actions]."""

    frequencies: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        config: PolicyUNetConfig,
        num_classes: int = 0,
        conditions: Sequence[Condition] = (),
    ) -> None:
        super().__init__()
        config.check(shape)
        if [(c.name, c.shape) for c in conditions] != [(OBSERVATION, (config.observation,))]:
            raise InputError(f"conditions: a policy takes one, {OBSERVATION} ({config.observation},)")
        if num_classes:
            raise InputError(f"num_classes: got {num_classes}, this network takes none")
        self.config: dict[str, Any] = {"kind": "policy", **asdict(config), "widths": list(config.widths)}
        widths, width = config.widths, config.embedding
        slope = -math.log(PERIOD) / (width // 2 - 1)
        self.register_buffer("frequencies", (slope * torch.arange(width // 2)).exp(), persistent=False)
        self.step = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise((shape[1], *widths)):
            self.down.extend([Residual(before, after, config), Residual(after, after, config)])
        self.middle = nn.ModuleList(Residual(widths[-1], widths[-1], config) for _ in range(2))
        for above, below in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.shrink.insert(0, nn.Conv1d(above, above, 3, stride=2, padding=1))
            self.up.extend([Residual(2 * below, above, config), Residual(above, above, config)])
            self.grow.append(nn.ConvTranspose1d(above, above, 4, stride=2, padding=1))
        self.last = Unit(widths[0], widths[0], config.kernel, LAST_GROUPS)
        self.outer = nn.Conv1d(widths[0], shape[1], 1)

    def forward(
        self, x: Tensor, step: Tensor, labels: Tensor | None, conditions: dict[str, Tensor], sample: Tensor
    ) -> Tensor:
        phase = step[:, None] * self.frequencies
        time = self.step(torch.cat([phase.sin(), phase.cos()], 1))
        told = mish(torch.cat([time, conditions[OBSERVATION].index_select(0, sample)], 1))
        h, skips = x.transpose(1, 2), []  # (B, C, T)
        for level in range(len(self.down) // 2):
            if level:
                h = self.shrink[level - 1](h)
            h = self.down[2 * level + 1](self.down[2 * level](h, told), told)
            skips.append(h)
        for block in self.middle:
            h = block(h, told)
        for level, grow in enumerate(self.grow):
            h = torch.cat([h, skips.pop()], 1)
            h = grow(self.up[2 * level + 1](self.up[2 * level](h, told), told))
        output: Tensor = self.outer(self.last(h)).transpose(1, 2)
        return output


class Residual(nn.Module):
    """h [B, before, T], condition [B, n] after its Mish -> [B, after, T]."""

    def __init__(self, before: int, after: int, config: PolicyUNetConfig) -> None:
        super().__init__()
        self.scales = config.scales
        self.first = Unit(before, after, config.kernel, config.groups)
        self.film = nn.Linear(config.embedding + config.observation, after * (2 if config.scales else 1))
        self.second = Unit(after, after, config.kernel, config.groups)
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        inner, film = self.first(h), self.film(told)[:, :, None]
        if self.scales:
            scale, shift = film.chunk(2, 1)
            inner = scale * inner + shift
        else:
            inner = inner + film
        output: Tensor = self.second(inner) + self.skip(h)
        return output


class Unit(nn.Sequential):
    """Convolution, group norm and Mish, [B, before, T] -> [B, after, T]."""

    def __init__(self, before: int, after: int, kernel: int, groups: int) -> None:
        super().__init__(nn.Conv1d(before, after, kernel, padding=kernel // 2), nn.GroupNorm(groups, after), nn.Mish())
