"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, arXiv 2312.02696, figure 21, configuration G).

Weights are kept as they are applied: normalised and scaled, gains inside (the paper's equations 47 and 66). The
network is for sampling; trained on, it would not keep its magnitudes.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from ncdeploy.denoisers.foreign.blocks import BOX, Resize
from ncdeploy.denoisers.foreign.trunk import check_levels
from ncdeploy.errors import InputError

EPS = 1e-4
SILU = 0.596  # magnitude of silu of noise (equation 81)


@dataclass(frozen=True, kw_only=True)
class EDM2Config:
    """The architecture.

    channels, multipliers, blocks: at full resolution, of it on each level, and residual blocks of a level
    attention:   heights of the feature maps that get self-attention, in heads of head_width channels
    width, features: of the conditioning vector, and of the waves of the noise
    label_balance, skip_balance, residual_balance, attention_balance: share of the second part in a sum or joint
    clip:        features are cut to -clip .. clip after each block; None leaves them
    taps:        of the filter that halves and doubles
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    width: int
    features: int
    head_width: int = 64
    label_balance: float = 0.5
    skip_balance: float = 0.5
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    clip: float | None = 256.0
    taps: tuple[float, ...] = BOX

    def __post_init__(self) -> None:
        if min(self.channels, self.blocks, self.width, self.features, self.head_width, *self.multipliers) < 1:
            raise InputError("channels, multipliers, blocks, width, features, head_width: expected positive numbers")
        balances = (self.label_balance, self.skip_balance, self.residual_balance, self.attention_balance)
        if not all(0 <= balance <= 1 for balance in balances):
            raise InputError(f"balances: got {balances}, expected 0 to 1")
        if len(self.taps) not in (2, 4) or not sum(self.taps) > 0:
            raise InputError(f"taps: got {self.taps}, expected 2 or 4 weights with a positive sum")


class EDM2UNet(nn.Module):
    """x [B, C, H, W], noise [B], labels int64 [B] or None -> [B, C, H, W]. Blocks have the names that files give them,
    which count in heights of feature maps."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, shape: tuple[int, ...], config: EDM2Config, num_classes: int = 0) -> None:
        super().__init__()
        levels = len(config.multipliers)
        check_levels(shape, levels, config.blocks)
        lists = {name: list(getattr(config, name)) for name in ("multipliers", "attention", "taps")}
        self.config: dict[str, Any] = {"kind": "edm2", **asdict(config), **lists}
        self.label_balance, self.skip_balance = config.label_balance, config.skip_balance
        self.register_buffer("frequencies", torch.zeros(config.features))
        self.register_buffer("phases", torch.zeros(config.features))
        self.emb_noise = nn.Linear(config.features, config.width, bias=False)
        self.emb_label = nn.Embedding(num_classes, config.width) if num_classes else None
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        sides = [shape[1] >> level for level in range(levels)]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{sides[0]}x{sides[0]}_conv"] = nn.Conv2d(shape[0] + 1, widths[0], 3, padding=1, bias=False)
        now, skips = widths[0], [widths[0]]
        for level, (side, after) in enumerate(zip(sides, widths, strict=True)):
            attends = side in config.attention
            if level:
                self.enc[f"{side}x{side}_down"] = Block(now, now, config, down=True, resize="halve")
                skips.append(now)
            for index in range(config.blocks):
                self.enc[f"{side}x{side}_block{index}"] = Block(now, after, config, down=True, attends=attends)
                now = after
                skips.append(now)
        for side, after in reversed(list(zip(sides, widths, strict=True))):
            if side == sides[-1]:
                self.dec[f"{side}x{side}_in0"] = Block(now, now, config, attends=True)
                self.dec[f"{side}x{side}_in1"] = Block(now, now, config)
            else:
                self.dec[f"{side}x{side}_up"] = Block(now, now, config, resize="double")
            for index in range(config.blocks + 1):
                block = Block(now + skips.pop(), after, config, attends=side in config.attention)
                self.dec[f"{side}x{side}_block{index}"] = block
                now = after
        self.out_conv = nn.Conv2d(now, shape[0], 3, padding=1, bias=False)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        waves = (noise[:, None] * self.frequencies + self.phases).cos() * math.sqrt(2)
        told = self.emb_noise(waves)
        if self.emb_label is not None:
            told = mixed(told, self.emb_label(labels), self.label_balance)
        told = silu(told) / SILU
        hidden = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # a channel of ones stands for biases
        skips = []
        for name, block in self.enc.items():
            hidden = block(hidden) if name.endswith("_conv") else block(hidden, told)
            skips.append(hidden)
        for name, block in self.dec.items():
            if "_block" in name:
                hidden = joined(hidden, skips.pop(), self.skip_balance)
            hidden = block(hidden, told)
        output: Tensor = self.out_conv(hidden)
        return output


class Block(nn.Module):
    """hidden [B, before, H, W], told [B, width] -> [B, after, ...]: a residual block, then self-attention if wanted."""

    def __init__(
        self, before: int, after: int, config: EDM2Config, *, down: bool = False, resize: str | None = None,
        attends: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.down, self.clip, self.head_width = down, config.clip, config.head_width
        self.residual_balance, self.attention_balance = config.residual_balance, config.attention_balance
        self.resize = Resize(config.taps, resize) if resize else nn.Identity()  # type: ignore[arg-type]
        self.conv_res0 = nn.Conv2d(after if down else before, after, 3, padding=1, bias=False)
        self.emb_linear = nn.Linear(config.width, after, bias=False)
        self.conv_res1 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.conv_skip = nn.Conv2d(before, after, 1, bias=False) if before != after else nn.Identity()
        self.attends = attends and after >= config.head_width
        if self.attends:
            if after % config.head_width:
                raise InputError(f"head_width: {after} channels cannot be shared among heads of {config.head_width}")
            self.attn_qkv = nn.Conv2d(after, 3 * after, 1, bias=False)
            self.attn_proj = nn.Conv2d(after, after, 1, bias=False)

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        hidden = self.resize(hidden)
        if self.down:
            hidden = unit(self.conv_skip(hidden), 1)
        inner = self.conv_res0(silu(hidden) / SILU)
        gain = self.emb_linear(told)[:, :, None, None] + 1
        inner = self.conv_res1(silu(inner * gain) / SILU)
        hidden = mixed(hidden if self.down else self.conv_skip(hidden), inner, self.residual_balance)
        if self.attends:
            hidden = mixed(hidden, self._attended(hidden), self.attention_balance)
        return hidden if self.clip is None else hidden.clamp(-self.clip, self.clip)

    def _attended(self, hidden: Tensor) -> Tensor:
        _, C, H, W = hidden.shape
        heads = self.attn_qkv(hidden).reshape(-1, C // self.head_width, self.head_width, 3, H * W)
        q, k, v = (part.transpose(-1, -2) for part in unit(heads, 2).unbind(3))  # (B, heads, H * W, head_width)
        seen = scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        result: Tensor = self.attn_proj(seen.reshape(-1, C, H, W))
        return result


def unit(x: Tensor, axis: int) -> Tensor:
    """x over its root mean square along an axis."""
    norm = x.square().sum(axis, keepdim=True).sqrt()
    return x / (norm / math.sqrt(x.shape[axis]) + EPS)


def mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """(1 - share) first + share second, of the magnitude that both have (equation 88)."""
    return ((1 - share) * first + share * second) / math.hypot(1 - share, share)


def joined(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Both along the channels, their contributions weighed (equation 103)."""
    a, b = first.shape[1], second.shape[1]
    scale = math.sqrt(a + b) / math.hypot(1 - share, share)
    return torch.cat([scale * (1 - share) / math.sqrt(a) * first, scale * share / math.sqrt(b) * second], dim=1)
