"""The U-Net of improved- and guided-diffusion (Nichol & Dhariwal 2021, arXiv 2102.09672; Dhariwal & Nichol 2021,
arXiv 2105.05233, section 3): what its published weights need, and nothing that does not change the output.

Two of its settings are absorbed into the weights when they are imported: the order in which attention splits heads
and queries, keys, values; and the half of the output that holds a learned variance, which no D needs.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from ncdeploy.denoisers.mlp import zeroed
from ncdeploy.denoisers.unet import Attention
from ncdeploy.errors import InputError

PERIOD = 10000.0  # longest period of the sines of the time step, over 2 pi
GROUPS = 32

Direction = Literal["down", "up"]


@dataclass(frozen=True, kw_only=True)
class GuidedUNetConfig:
    """The architecture.

    channels:    of the time embedding, an even number; the conditioning vector is four times as wide
    widths:      channels of each level, multiples of 32; each level halves the sides
    blocks:      residual blocks per level on the way down, one more on the way up
    attention:   levels with self-attention, 0 being full resolution; the middle always has it
    heads:       attention heads, or 0 if head_width says how many
    heads_up:    attention heads on the way up, or 0 for as many as `heads`
    head_width:  channels per attention head, or 0 if `heads` says how wide they are
    scale_shift: the condition scales and shifts the second norm; otherwise it is added before it
    resampling:  how sides are halved and doubled: by a residual block, a convolution, or averaging and repetition
    time_scale:  factor on the training step, 1000 / steps for networks trained with rescaled time steps
    dropout:     probability inside residual blocks
    """

    channels: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...] = ()
    heads: int = 0
    heads_up: int = 0
    head_width: int = 0
    scale_shift: bool = True
    resampling: Literal["residual", "convolution", "plain"] = "convolution"
    time_scale: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.channels < 2 or self.channels % 2:
            raise InputError(f"channels: got {self.channels}, expected an even number")
        if not self.widths or any(width < 1 or width % GROUPS for width in self.widths):
            raise InputError(f"widths: got {self.widths}, expected multiples of {GROUPS}, one per level")
        if self.blocks < 1:
            raise InputError(f"blocks: got {self.blocks}, expected at least 1")
        if any(level not in range(len(self.widths)) for level in self.attention):
            raise InputError(f"attention: got levels {self.attention}, there are {len(self.widths)} counted from 0")
        if self.heads < 0 or self.head_width < 0 or (self.heads == 0) == (self.head_width == 0):
            raise InputError(
                f"heads, head_width: got {self.heads} and {self.head_width}, expected one of them and 0 for the other"
            )
        if self.heads_up < 0 or (self.heads_up and not self.heads):
            raise InputError(f"heads_up: got {self.heads_up} with heads {self.heads}, expected 0 without `heads`")
        for width in {self.widths[level] for level in (*self.attention, -1)}:
            for number in {self.heads or self.head_width, self.heads_up or 1}:
                if width % number:
                    which = f"{number} heads" if self.heads else f"heads of {number}"
                    raise InputError(f"heads: {width} channels cannot be split into {which}")
        if self.resampling not in ("residual", "convolution", "plain"):
            raise InputError(f"resampling: got {self.resampling!r}, expected residual, convolution or plain")
        if not 0 < self.time_scale < math.inf:
            raise InputError(f"time_scale: got {self.time_scale}, expected a positive number")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout: got {self.dropout}, expected 0 <= dropout < 1")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError unless the network can take x of this shape, (C, H, W)."""
        step = 2 ** (len(self.widths) - 1)
        if len(shape) != 3 or shape[1] % step or shape[2] % step:
            raise InputError(f"shape: got {shape}, expected (channels, height, width) with sides divisible by {step}")


class GuidedUNet(nn.Module):
    """x [B, C, H, W], training step [B] (real), labels int64 [B] or None -> [B, C, H, W].

    num_classes classes, and none of them is "unconditional".
    """

    def __init__(self, shape: tuple[int, ...], config: GuidedUNetConfig, num_classes: int = 0) -> None:
        super().__init__()
        config.check(shape)
        lists = {"widths": list(config.widths), "attention": list(config.attention)}
        self.config: dict[str, Any] = {"kind": "guided", **asdict(config), **lists}
        if not config.heads_up:  # a setting that earlier versions do not know
            del self.config["heads_up"]
        widths, last = config.widths, len(config.widths) - 1
        self.embedding = StepEmbedding(config, num_classes)
        self.inner = nn.Conv2d(shape[0], widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        now, skips = widths[0], [widths[0]]
        for level, after in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(Stage(now, after, config, attention=level in config.attention))
                skips.append(after)
                now = after
            if level < last:
                self.shrink.append(resampler(now, config, "down"))
                skips.append(now)
        self.middle = Stage(now, now, config, attention=True)
        self.middle_end = Residual(now, now, config)
        for level, after in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                attention = level in config.attention
                self.up.append(Stage(now + skips.pop(), after, config, attention=attention, heads=config.heads_up))
                now = after
            if level:
                self.grow.append(resampler(now, config, "up"))
        self.norm = nn.GroupNorm(GROUPS, now)
        self.outer = zeroed(nn.Conv2d(now, shape[0], 3, padding=1))
        self.blocks = config.blocks

    def forward(self, x: Tensor, step: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = self.embedding(step, labels)
        hidden = self.inner(x)
        skips = [hidden]
        for index, stage in enumerate(self.down):
            level, block = divmod(index, self.blocks)
            if level and block == 0:
                hidden = self.shrink[level - 1](hidden, condition)
                skips.append(hidden)
            hidden = stage(hidden, condition)
            skips.append(hidden)
        hidden = self.middle_end(self.middle(hidden, condition), condition)
        for index, stage in enumerate(self.up):
            level, block = divmod(index, self.blocks + 1)  # counted from the lowest
            if level and block == 0:
                hidden = self.grow[level - 1](hidden, condition)
            hidden = stage(torch.cat([hidden, skips.pop()], dim=1), condition)
        output: Tensor = self.outer(silu(self.norm(hidden)))
        return output


class StepEmbedding(nn.Module):
    """step [B], labels int64 [B] or None -> the condition [B, 4 channels] of every residual block."""

    frequencies: Tensor

    def __init__(self, config: GuidedUNetConfig, num_classes: int) -> None:
        super().__init__()
        half, width = config.channels // 2, 4 * config.channels
        spaced = torch.exp(-math.log(PERIOD) * torch.arange(half) / half)
        self.register_buffer("frequencies", spaced, persistent=False)
        self.time_scale = config.time_scale
        self.first = nn.Linear(config.channels, width)
        self.second = nn.Linear(width, width)
        self.label = nn.Embedding(num_classes, width) if num_classes else None

    def forward(self, step: Tensor, labels: Tensor | None) -> Tensor:
        phase = (step * self.time_scale)[:, None] * self.frequencies  # (B, channels / 2)
        hidden = self.second(silu(self.first(torch.cat([phase.cos(), phase.sin()], dim=1))))
        if self.label is not None:
            hidden = hidden + self.label(labels)
        return silu(hidden)


class Stage(nn.Module):
    """A residual block, then self-attention if wanted, of so many heads or of as many as the config says."""

    def __init__(self, before: int, after: int, config: GuidedUNetConfig, *, attention: bool, heads: int = 0) -> None:
        super().__init__()
        self.residual = Residual(before, after, config)
        self.attention: nn.Module = nn.Identity()
        if attention:
            attend = Attention(after, config.head_width or after // (heads or config.heads))
            attend.norm = nn.GroupNorm(GROUPS, after)
            self.attention = attend

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        output: Tensor = self.attention(self.residual(x, condition))
        return output


class Residual(nn.Module):
    """Two convolutions around the condition, beside a shortcut; `to` resamples in front of the first one."""

    def __init__(self, before: int, after: int, config: GuidedUNetConfig, to: Direction | None = None) -> None:
        super().__init__()
        self.direction, self.scale_shift = to, config.scale_shift
        self.norm1 = nn.GroupNorm(GROUPS, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.film = nn.Linear(4 * config.channels, 2 * after if config.scale_shift else after)
        self.norm2 = nn.GroupNorm(GROUPS, after)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.conv1(resampled(silu(self.norm1(x)), self.direction))
        film = self.film(condition)[:, :, None, None]
        if self.scale_shift:
            scale, shift = film.chunk(2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + film)
        output: Tensor = self.skip(resampled(x, self.direction)) + self.conv2(self.dropout(silu(hidden)))
        return output


class Resample(nn.Module):
    """Halved or doubled sides without a residual block; takes the condition only to be called like one."""

    def __init__(self, channels: int, to: Direction, *, convolve: bool) -> None:
        super().__init__()
        self.direction = to
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if to == "down" else 1, padding=1) if convolve else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if self.conv is None:
            return resampled(x, self.direction)
        output: Tensor = self.conv(x if self.direction == "down" else resampled(x, "up"))
        return output


def resampler(channels: int, config: GuidedUNetConfig, to: Direction) -> nn.Module:
    """What stands between two levels."""
    if config.resampling == "residual":
        return Residual(channels, channels, config, to)
    return Resample(channels, to, convolve=config.resampling == "convolution")


def resampled(x: Tensor, to: Direction | None) -> Tensor:
    """Sides halved by averaging, doubled by repetition, or as they are."""
    if to is None:
        return x
    return avg_pool2d(x, 2) if to == "down" else interpolate(x, scale_factor=2.0, mode="nearest")
