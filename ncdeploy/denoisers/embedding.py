"""What every network of ours is told beside x: the noise level and the class, as one vector."""

import math

import torch
from torch import Tensor, nn


class Conditioning(nn.Module):
    """noise [B], labels int64 [B] or None -> [B, width].

    noise passes through sines and cosines of geometrically spaced frequencies, then two linear layers; the label
    adds a learned vector before the second. Class num_classes is "unconditional".

    frequencies: lowest and highest, in radians per unit of noise. EDM's c_noise = ln(sigma) / 4 spans about 3
    units and its training target is smooth in it, so (0.5, 16) resolves it; training steps want (1e-4, 1).
    """

    frequencies: Tensor

    def __init__(self, width: int, num_classes: int, frequencies: tuple[float, float]) -> None:
        super().__init__()
        low, high = frequencies
        spaced = torch.linspace(math.log(low), math.log(high), width // 4).exp()
        self.register_buffer("frequencies", spaced, persistent=False)
        self.first = nn.Linear(2 * spaced.numel(), width)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.second = nn.Linear(width, width)

    def forward(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        phase = noise[:, None] * self.frequencies  # (B, width / 4)
        hidden = self.first(torch.cat([phase.cos(), phase.sin()], dim=1))
        if self.label is not None:
            hidden = hidden + self.label(labels)
        return nn.functional.silu(self.second(nn.functional.silu(hidden)))
