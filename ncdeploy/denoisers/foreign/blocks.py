"""The residual block that DDPM++, NCSN++ and ADM are made of, and the filters that halve and double pictures.

Song et al. 2021, arXiv 2011.13456, appendix H, and Dhariwal & Nichol 2021, arXiv 2105.05233, section 3, in the form
that Karras et al. 2022, arXiv 2206.00364, appendix F.2, trained both.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, silu

from ncdeploy.denoisers.mlp import zeroed
from ncdeploy.denoisers.unet import Attention
from ncdeploy.errors import InputError

BOX = (1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the blocks of one network have in common.

    width:      of the conditioning vector
    dropout:    probability before the second convolution
    eps:        of the group norms
    scale:      the conditioning scales the features beside shifting them
    gain:       factor on every sum with a shortcut, which keeps its variance
    projected:  the shortcut is convolved wherever the sides change
    taps:       of the low-pass filter along one axis
    head_width: channels per attention head, or None for one head
    """

    width: int
    dropout: float
    eps: float
    scale: bool
    gain: float
    projected: bool
    taps: tuple[float, ...]
    head_width: int | None

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout: got {self.dropout}, expected 0 <= dropout < 1")
        if len(self.taps) not in (2, 4) or not sum(self.taps) > 0:
            raise InputError(f"taps: got {self.taps}, expected 2 or 4 weights with a positive sum")

    def heads(self, channels: int) -> int:
        """Attention heads at so many channels; 0 where they are narrower than one head: no attention there."""
        return 1 if self.head_width is None else channels // self.head_width


class Block(nn.Module):
    """Two convolutions with the conditioning between them, a shortcut, then self-attention if wanted.

    resize: "halve" or "double" the sides before the first convolution
    """

    def __init__(
        self, before: int, after: int, style: Style, *,
        resize: Literal["halve", "double"] | None = None, attention: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale, self.gain = style.scale, style.gain
        self.norm1 = group_norm(before, style.eps)
        self.resize = Resize(style.taps, resize) if resize else nn.Identity()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.film = nn.Linear(style.width, 2 * after if style.scale else after)
        self.norm2 = group_norm(after, style.eps)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = zeroed(nn.Conv2d(after, after, 3, padding=1))
        projects = before != after or (style.projected and resize is not None)
        self.skip = nn.Conv2d(before, after, 1) if projects else nn.Identity()
        heads = style.heads(after) if attention else 0
        self.attention = attend(after, heads, style.eps) if heads else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.conv1(self.resize(silu(self.norm1(x))))
        film = self.film(condition)[:, :, None, None]
        if self.scale:
            scale, shift = film.chunk(2, dim=1)
            hidden = silu(self.norm2(hidden) * (1 + scale) + shift)
        else:
            hidden = silu(self.norm2(hidden + film))
        output: Tensor = self.gain * (self.skip(self.resize(x)) + self.conv2(self.dropout(hidden)))
        return output if self.attention is None else self.gain * self.attention(output)


class Resize(nn.Module):
    """Halves or doubles the sides through a separable low-pass filter: (1, 1) averages and repeats pixels.

    padded: a halved picture is filtered beyond its border, as if zeros were there
    """

    kernel: Tensor

    def __init__(self, taps: tuple[float, ...], to: Literal["halve", "double"], *, padded: bool = True) -> None:
        super().__init__()
        one = torch.tensor(taps)
        self.register_buffer("kernel", (one[:, None] * one / one.sum() ** 2)[None, None], persistent=False)
        self.halves, self.box = to == "halve", len(taps) == 2 and taps[0] == taps[1]
        self.margin = margin(taps) if padded else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.box:
            return avg_pool2d(x, 2) if self.halves else interpolate(x, scale_factor=2.0, mode="nearest")
        C = x.shape[1]
        kernel = self.kernel.expand(C, -1, -1, -1)
        if self.halves:
            return conv2d(x, kernel, stride=2, padding=self.margin, groups=C)
        return conv_transpose2d(x, 4 * kernel, stride=2, padding=self.margin, groups=C)


def margin(taps: tuple[float, ...]) -> int:
    """Zeros beside a picture with which filtering and dropping every other pixel halves it exactly."""
    return (len(taps) - 1) // 2


def attend(channels: int, heads: int, eps: float) -> Attention:
    """Our self-attention under the norm of these networks."""
    if channels % heads:
        raise InputError(f"channels: {channels} cannot be shared among {heads} attention heads")
    attention = Attention(channels, channels // heads)
    attention.norm = group_norm(channels, eps)
    return attention


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """32 groups, fewer where they would have less than 4 channels."""
    groups = min(32, channels // 4)
    if groups < 1 or channels % groups:
        raise InputError(f"channels: {channels} cannot be normalised in {groups} equal groups; expected 4 n, or 32 n")
    return nn.GroupNorm(groups, channels, eps)
