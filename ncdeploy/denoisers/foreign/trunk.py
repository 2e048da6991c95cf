"""The U-shaped part that DDPM++, NCSN++ and ADM share: levels of blocks, skips across, attention in the middle."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ncdeploy.denoisers.foreign.blocks import Block, Resize, Style, group_norm, margin
from ncdeploy.denoisers.mlp import zeroed
from ncdeploy.errors import InputError


class Trunk(nn.Module):
    """x [B, C, H, W], condition [B, width] -> [B, C, H, W].

    first:         channels of the first convolution
    channels:      one count per level, each with half the sides of the one before
    blocks:        per level on the way down; one more on the way up
    attends:       per level, whether its blocks have self-attention
    attends_once:  on the way up, only the last block of such a level has it
    pyramid:       the input, halved again and again, is added to every level (NCSN++'s residual encoder)
    """

    def __init__(
        self, picture: int, style: Style, *, first: int, channels: Sequence[int], blocks: int,
        attends: Sequence[bool], attends_once: bool, pyramid: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.inner = nn.Conv2d(picture, first, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, side, skips = first, picture, [first]
        for level, after in enumerate(channels):
            self.down.append(Down(now, after, style, blocks, attends[level], side if pyramid else 0, first=level == 0))
            skips += [now] * (level > 0) + [after] * blocks
            if level:
                side = now
            now = after
        for level, after in reversed(list(enumerate(channels))):
            wide = [skips.pop() for _ in range(blocks + 1)]
            lowest = level == len(channels) - 1
            self.up.append(Up(now, after, style, wide, attends[level], once=attends_once, lowest=lowest))
            now = after
        self.norm = group_norm(now, style.eps)
        self.outer = zeroed(nn.Conv2d(now, picture, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.inner(x)
        side, skips = x, [hidden]
        for down in self.down:
            hidden, side = down(hidden, side, condition, skips)
        for up in self.up:
            hidden = up(hidden, condition, skips)
        output: Tensor = self.outer(silu(self.norm(hidden)))
        return output


class Down(nn.Module):
    """One level on the way down; `enter` halves what comes from the level above, `side` what the pyramid holds.

    Adds what the way up wants to `skips`, and returns the features and the pyramid.
    """

    enter: Block | None
    side: nn.Sequential | None

    def __init__(
        self, before: int, after: int, style: Style, blocks: int, attention: bool, side: int, *, first: bool
    ) -> None:
        super().__init__()
        self.gain = style.gain
        self.enter = None if first else Block(before, before, style, resize="halve")
        # The zeros that the filter wants beside the picture go before the convolution.
        convolution = nn.Conv2d(side, before, 3, padding=1 + margin(style.taps)) if side and not first else None
        self.side = nn.Sequential(convolution, Resize(style.taps, "halve", padded=False)) if convolution else None
        widths = [before] + [after] * (blocks - 1)
        self.blocks = nn.ModuleList(Block(width, after, style, attention=attention) for width in widths)

    def forward(
        self, hidden: Tensor, side: Tensor, condition: Tensor, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor]:  # (B, C, H, W) both
        if self.enter is not None:
            hidden = self.enter(hidden, condition)
            if self.side is not None:
                side = hidden = self.gain * (hidden + self.side(side))
            skips.append(hidden)
        for block in self.blocks:
            hidden = block(hidden, condition)
            skips.append(hidden)
        return hidden, side


class Up(nn.Module):
    """One level on the way up; `enter` doubles what comes from below, or is the middle of the U at the lowest level."""

    def __init__(
        self, before: int, after: int, style: Style, skips: Sequence[int], attention: bool, *, once: bool, lowest: bool
    ) -> None:
        super().__init__()
        if lowest:
            enter = [Block(before, before, style, attention=True), Block(before, before, style)]
        else:
            enter = [Block(before, before, style, resize="double")]
        self.enter = nn.ModuleList(enter)
        self.blocks = nn.ModuleList()
        now = before
        for index, skip in enumerate(skips):
            attends = attention and (not once or index == len(skips) - 1)
            self.blocks.append(Block(now + skip, after, style, attention=attends))
            now = after

    def forward(self, hidden: Tensor, condition: Tensor, skips: list[Tensor]) -> Tensor:
        for block in self.enter:
            hidden = block(hidden, condition)
        for block in self.blocks:
            hidden = block(torch.cat([hidden, skips.pop()], dim=1), condition)
        return hidden


def check_levels(shape: tuple[int, ...], levels: int, blocks: int) -> None:
    """Raise InputError unless pictures of this shape can be halved levels - 1 times."""
    if len(shape) != 3:
        raise InputError(f"shape: got {shape}, a U-Net takes (channels, height, width)")
    if not 1 <= levels <= 16 or not 1 <= blocks <= 256:
        raise InputError(f"levels, blocks: got {levels}, {blocks}; expected 1 to 16 levels of 1 to 256 blocks")
    step = 2 ** (levels - 1)
    if shape[1] % step or shape[2] % step:
        raise InputError(f"shape: got {shape}, {levels} levels need height and width divisible by {step}")
