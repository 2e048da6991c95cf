"""DDPM++ and NCSN++ of Song et al. 2021 (arXiv 2011.13456, appendix H), as Karras et al. 2022 trained them."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ncdeploy.denoisers.foreign.blocks import BOX, Style
from ncdeploy.denoisers.foreign.trunk import Trunk, check_levels
from ncdeploy.errors import InputError

PERIOD = 10000.0


@dataclass(frozen=True, kw_only=True)
class SongConfig:
    """The architecture; the defaults are DDPM++ at 32x32.

    channels:    at full resolution
    multipliers: of `channels`, one per level; each level halves the sides
    blocks:      residual blocks per level on the way down; one more on the way up
    attention:   heights of the feature maps that get self-attention
    width:       of the conditioning vector
    dropout:     probability inside residual blocks
    embedding:   of the noise: "positional" (DDPM++) or "fourier" (NCSN++)
    features:    sines and cosines of that embedding together, an even number
    pyramid:     NCSN++'s residual encoder: the input, halved again and again, joins every level
    taps:        of the filter that halves and doubles: (1, 1) in DDPM++, (1, 3, 3, 1) in NCSN++
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    width: int = 512
    dropout: float = 0.1
    embedding: Literal["positional", "fourier"] = "positional"
    features: int = 128
    pyramid: bool = False
    taps: tuple[float, ...] = BOX

    def __post_init__(self) -> None:
        if self.embedding not in ("positional", "fourier"):
            raise InputError(f"embedding: got {self.embedding!r}, expected positional or fourier")
        if self.features < 4 or self.features % 2:
            raise InputError(f"features: got {self.features}, expected an even number, at least 4")


class Song(nn.Module):
    """x [B, C, H, W], noise [B], labels int64 [B] or None -> [B, C, H, W]. Class num_classes is "unconditional"."""

    def __init__(self, shape: tuple[int, ...], config: SongConfig, num_classes: int = 0) -> None:
        super().__init__()
        check_levels(shape, len(config.multipliers), config.blocks)
        lists = {name: list(getattr(config, name)) for name in ("multipliers", "attention", "taps")}
        self.config: dict[str, Any] = {"kind": "song", **asdict(config), **lists}
        style = Style(
            width=config.width, dropout=config.dropout, eps=1e-6, scale=False, gain=math.sqrt(0.5), projected=True,
            taps=config.taps, head_width=None,
        )  # fmt: skip
        self.conditioning = SongConditioning(config, num_classes)
        self.trunk = Trunk(
            shape[0], style, first=config.channels, channels=[config.channels * m for m in config.multipliers],
            blocks=config.blocks, attends=[shape[1] >> i in config.attention for i in range(len(config.multipliers))],
            attends_once=True, pyramid=config.pyramid,
        )  # fmt: skip

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.trunk(x, self.conditioning(noise, labels))
        return output


class SongConditioning(nn.Module):
    """noise [B], labels int64 [B] or None -> [B, width]; the label joins the sines and cosines of the noise."""

    frequencies: Tensor

    def __init__(self, config: SongConfig, num_classes: int) -> None:
        super().__init__()
        half = config.features // 2
        drawn = config.embedding == "fourier"  # once, at random, and kept: they are weights
        spaced = 2 * math.pi * 16 * torch.randn(half) if drawn else (1 / PERIOD) ** (torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", spaced, persistent=drawn)
        self.label = nn.Embedding(num_classes + 1, config.features) if num_classes else None
        self.first = nn.Linear(config.features, config.width)
        self.second = nn.Linear(config.width, config.width)

    def forward(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        phase = noise[:, None] * self.frequencies  # (B, features / 2)
        hidden = torch.cat([phase.sin(), phase.cos()], dim=1)
        if self.label is not None:
            hidden = hidden + self.label(labels)
        return silu(self.second(silu(self.first(hidden))))
