"""A U-Net from 1x8x8 digits to 3x64x64 pictures: residual blocks, self-attention; noise, class, conditions by FiLM."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from ncdeploy.denoisers.embedding import Conditioning
from ncdeploy.denoisers.mlp import zeroed
from ncdeploy.errors import InputError
from ncdeploy.ports import Condition


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The architecture.

    channels:    at full resolution
    multipliers: of `channels`, one per level; each level halves the sides
    blocks:      residual blocks per level, on the way down and again on the way up
    attention:   heights of the feature maps that get self-attention
    head_width:  channels per attention head
    width:       of the conditioning vector (a multiple of 4)
    dropout:     probability inside residual blocks
    frequencies: lowest and highest of the noise embedding, radians per unit
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    head_width: int = 32
    width: int = 256
    dropout: float = 0.0
    frequencies: tuple[float, float] = (0.5, 16.0)

    def __post_init__(self) -> None:
        if self.channels < 8 or self.channels % 8:
            raise InputError(f"channels: got {self.channels}, expected a multiple of 8")
        if not self.multipliers or any(m < 1 for m in self.multipliers):
            raise InputError(f"multipliers: got {self.multipliers}, expected positive integers, one per level")
        if self.blocks < 1:
            raise InputError(f"blocks: got {self.blocks}, expected at least 1")
        if self.width < 8 or self.width % 4:
            raise InputError(f"width: got {self.width}, expected a multiple of 4, at least 8")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout: got {self.dropout}, expected 0 <= dropout < 1")
        if not 0 < self.frequencies[0] < self.frequencies[1]:
            raise InputError(f"frequencies: got {self.frequencies}, expected 0 < lowest < highest")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError unless the network can take x of this shape, (C, H, W)."""
        if len(shape) != 3:
            raise InputError(f"shape: got {shape}, a U-Net takes (channels, height, width); use an MLP for vectors")
        step = 2 ** (len(self.multipliers) - 1)
        if shape[1] % step or shape[2] % step:
            raise InputError(
                f"shape: got {shape}, {len(self.multipliers)} levels need height and width divisible by {step}; "
                "crop or pad the pictures, or use fewer multipliers"
            )
        heights = [shape[1] >> level for level in range(len(self.multipliers))]
        for height in self.attention:
            if height not in heights:
                raise InputError(f"attention: got height {height}, the feature maps of {shape} have heights {heights}")
            channels = self.channels * self.multipliers[heights.index(height)]
            if self.head_width < 1 or channels % self.head_width:
                raise InputError(f"head_width: got {self.head_width}, which does not divide {channels} channels")


class UNet(nn.Module):
    """x [B, C, H, W], noise [B], labels int64 [B] or None, conditions of real numbers -> [B, C, H, W]. The last layer
    starts at zero."""

    def __init__(
        self,
        shape: tuple[int, ...],
        config: UNetConfig,
        num_classes: int = 0,
        conditions: tuple[Condition, ...] = (),
    ) -> None:
        super().__init__()
        config.check(shape)
        lists = {name: list(getattr(config, name)) for name in ("multipliers", "attention", "frequencies")}
        self.config: dict[str, Any] = {"kind": "unet", **asdict(config), **lists}
        channels = [config.channels * m for m in config.multipliers]
        attends = [shape[1] >> level in config.attention for level in range(len(channels))]

        def stage(before: int, after: int, level: int) -> Stage:
            return Stage(before, after, config, attention=attends[level])

        self.conditioning = Conditioning(config.width, num_classes, config.frequencies, conditions)
        self.inner = nn.Conv2d(shape[0], config.channels, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        self.blocks = config.blocks
        now = config.channels
        for level, after in enumerate(channels):
            if level:
                self.shrink.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
            for _ in range(config.blocks):
                self.down.append(stage(now, after, level))
                now = after
        self.middle = stage(now, now, -1)
        for level, after in reversed(list(enumerate(channels))):
            for _ in range(config.blocks):
                self.up.append(stage(now + after, after, level))
                now = after
            if level:
                self.grow.append(nn.Conv2d(now, channels[level - 1], 3, padding=1))
                now = channels[level - 1]
        self.norm = group_norm(now)
        self.outer = zeroed(nn.Conv2d(now, shape[0], 3, padding=1))

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        condition = self.conditioning(noise, labels, conditions, sample)
        hidden = self.inner(x)
        skips = []
        for index, stage in enumerate(self.down):
            level, block = divmod(index, self.blocks)
            if level and block == 0:
                hidden = self.shrink[level - 1](hidden)
            hidden = stage(hidden, condition)
            skips.append(hidden)
        hidden = self.middle(hidden, condition)
        for index, stage in enumerate(self.up):
            level, block = divmod(index, self.blocks)
            if level and block == 0:
                # Convolving before the enlargement costs a quarter of convolving after it.
                hidden = interpolate(self.grow[level - 1](hidden), scale_factor=2.0, mode="nearest")
            hidden = stage(torch.cat([hidden, skips.pop()], dim=1), condition)
        output: Tensor = self.outer(silu(self.norm(hidden)))
        return output


class Stage(nn.Module):
    """A residual block with FiLM from the conditioning vector, then self-attention if wanted."""

    def __init__(self, before: int, after: int, config: UNetConfig, *, attention: bool) -> None:
        super().__init__()
        self.norm1 = group_norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.film = nn.Linear(config.width, 2 * after)
        self.norm2 = group_norm(after)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.attention = Attention(after, config.head_width) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(silu(self.norm1(x)))
        hidden = silu(self.norm2(hidden) * (1 + scale) + shift)
        hidden = self.skip(x) + self.conv2(self.dropout(hidden))
        output: Tensor = self.attention(hidden)
        return output


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, added to its input; starts as the identity."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = group_norm(channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.outer = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        _, C, H, W = x.shape
        heads = self.query_key_value(self.norm(x)).reshape(-1, 3, C // self.head_width, self.head_width, H * W)
        q, k, v = heads.transpose(-1, -2).unbind(1)  # (B, heads, H * W, head_width)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        output: Tensor = x + self.outer(mixed.transpose(-1, -2).reshape(-1, C, H, W))
        return output


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of at least 4 channels, at most 32 groups; every channel count here is a multiple of 8."""
    groups = max(g for g in range(1, min(32, channels // 4) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)
