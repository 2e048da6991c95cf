"""ADM of Dhariwal & Nichol 2021 (arXiv 2105.05233, section 3), as Karras et al. 2022 trained it at 64x64."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ncdeploy.denoisers.foreign.blocks import BOX, Style
from ncdeploy.denoisers.foreign.song import PERIOD
from ncdeploy.denoisers.foreign.trunk import Trunk, check_levels
from ncdeploy.errors import InputError

HEAD_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class ADMConfig:
    """The architecture.

    channels:    at full resolution, and sines and cosines of the noise together: an even number
    multipliers: of `channels`, one per level; each level halves the sides
    blocks:      residual blocks per level on the way down; one more on the way up
    attention:   heights of the feature maps that get self-attention, in heads of 64 channels
    width:       of the conditioning vector
    dropout:     probability inside residual blocks
    """

    channels: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (32, 16, 8)
    width: int = 768
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 2:
            raise InputError(f"channels: got {self.channels}, expected an even number, at least 4")


class ADM(nn.Module):
    """x [B, C, H, W], noise [B], labels int64 [B] or None -> [B, C, H, W]. Class num_classes is "unconditional"."""

    def __init__(self, shape: tuple[int, ...], config: ADMConfig, num_classes: int = 0) -> None:
        super().__init__()
        check_levels(shape, len(config.multipliers), config.blocks)
        lists = {name: list(getattr(config, name)) for name in ("multipliers", "attention")}
        self.config: dict[str, Any] = {"kind": "adm", **asdict(config), **lists}
        style = Style(
            width=config.width, dropout=config.dropout, eps=1e-5, scale=True, gain=1.0, projected=False, taps=BOX,
            head_width=HEAD_WIDTH,
        )  # fmt: skip
        channels = [config.channels * m for m in config.multipliers]
        self.conditioning = ADMConditioning(config, num_classes)
        self.trunk = Trunk(
            shape[0], style, first=channels[0], channels=channels, blocks=config.blocks,
            attends=[shape[1] >> i in config.attention for i in range(len(channels))],
            attends_once=False, pyramid=False,
        )  # fmt: skip

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.trunk(x, self.conditioning(noise, labels))
        return output


class ADMConditioning(nn.Module):
    """noise [B], labels int64 [B] or None -> [B, width]; the label joins after the second layer."""

    frequencies: Tensor

    def __init__(self, config: ADMConfig, num_classes: int) -> None:
        super().__init__()
        half = config.channels // 2
        self.register_buffer("frequencies", (1 / PERIOD) ** (torch.arange(half) / half), persistent=False)
        self.first = nn.Linear(config.channels, config.width)
        self.second = nn.Linear(config.width, config.width)
        self.label = nn.Embedding(num_classes + 1, config.width) if num_classes else None

    def forward(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        phase = noise[:, None] * self.frequencies  # (B, channels / 2)
        hidden = self.second(silu(self.first(torch.cat([phase.cos(), phase.sin()], dim=1))))
        if self.label is not None:
            hidden = hidden + self.label(labels)
        return silu(hidden)
