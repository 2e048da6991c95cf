"""Network and contrast of Wu et al. 2024 as their scripts for points have them, written from what they compute.

The network predicts the noise on DDPM's 1000 steps: sines of the whole step are added in front of two residual blocks.
The contrast takes two points of a batch, noised or not by a coin, and estimates both log densities of each with 128
draws of its own: independent, where the library's share their levels and noise (`ncdeploy.training.contrastive`).
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, softplus

from ncdeploy import schedules
from ncdeploy.training.alphas import LogisticAlphas
from ncdeploy.training.denoising import Denoise

WIDTH, POINTS, DRAWS = 128, 2, 128
LEVELS = schedules.ddpm(1000)[-2::-1].copy()  # sigma of every step, increasing
REACH = 9.0  # of the logarithms of the signal-to-noise ratio around their middle, three times their scale


class StepNetwork(nn.Module):
    """x [B, 2] at the variance-preserving scale, ln of the signal-to-noise ratio [B] -> noise [B, 2]. 67 thousand
    weights; the nearest of the 1000 steps stands for the noise level."""

    sines: Tensor
    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        frequencies = 1e-4 ** (np.arange(WIDTH // 2) / (WIDTH // 2))
        phase = np.arange(len(LEVELS))[:, None] * frequencies
        sines = np.stack([np.cos(phase), np.sin(phase)], axis=2).reshape(len(LEVELS), WIDTH)
        self.register_buffer("sines", torch.from_numpy(sines).float(), persistent=False)
        middles = -np.log(LEVELS[1:] * LEVELS[:-1])[::-1].copy()  # of neighbours' ln ratios, increasing
        self.register_buffer("edges", torch.from_numpy(middles).float(), persistent=False)
        self.inner = nn.Linear(2, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.outer = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        sines = self.sines[len(self.edges) - torch.bucketize(log_snr, self.edges)]
        hidden = self.inner(x)
        for block in self.blocks:
            hidden = block(hidden, sines)
        output: Tensor = self.outer(hidden)
        return output


class Block(nn.Module):
    """LayerNorm(h + W2 gelu(W1 (h + sines)))."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, hidden: Tensor, sines: Tensor) -> Tensor:
        update = self.second(gelu(self.first(hidden + sines)))
        normed: Tensor = self.norm(hidden + update)
        return normed


def draw_contrast(variances: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Everything random of one contrast. variances: of the data on either axis [2].

    share: of signal in the alternative [P]; noised: whether the coin says so [P]; noise: on it [P, 2]; level, weight,
    draws [P, 2, K(, 2)]: of the two densities, that of the alternative first
    """
    loc = -float(variances.log().mean())
    tau = tuple(math.exp(-(loc + side * REACH) / 2) for side in (1, -1))
    alphas = LogisticAlphas(loc=loc, scale=REACH / 3, tau_min=tau[0], tau_max=tau[1])
    s, _ = alphas.at(torch.rand(POINTS, generator=generator))
    level, weight = alphas.at(torch.rand(POINTS, 2, DRAWS, generator=generator))
    return {
        "share": 1 / (1 + s**2).float(),
        "noised": torch.rand(POINTS, generator=generator) < 0.5,
        "noise": torch.randn(POINTS, 2, generator=generator),
        "level": level.float(),
        "weight": weight.float(),
        "draws": torch.randn(POINTS, 2, DRAWS, 2, generator=generator),
    }


def contrast(denoise: Denoise, x0: Tensor, drawn: dict[str, Tensor], variances: Tensor) -> Tensor:
    """The sum of the points' softplus of label times log-likelihood ratio, in nats. x0: [P, 2]."""
    share, noised, level = drawn["share"], drawn["noised"], drawn["level"]
    root = share.sqrt()[:, None]
    points = torch.where(noised[:, None], root * x0 + (1 - share).sqrt()[:, None] * drawn["noise"], x0)
    kept = torch.stack([share, torch.ones_like(share)], dim=1)[..., None]  # [P, 2, 1]: signal of either density
    # The point at ratio 1 / level^2 is a sample at level sigma of the process that the network was trained on.
    sigma = ((1 + level**2) / kept - 1).sqrt()
    y = (points[:, None, None] + level[..., None] * drawn["draws"]) / kept.sqrt()[..., None]
    denoised = denoise(y.flatten(0, 2), sigma.flatten(), None).reshape(y.shape)
    predicted = (y - denoised) / sigma[..., None]
    stretch = level / (kept.sqrt() * sigma)  # root of the shares of noise
    errors = (drawn["draws"] - stretch[..., None] * predicted).square().sum(-1)
    gaussian = (variances / (variances + level[..., None] ** 2)).sum(-1)
    surprise = 0.5 * (drawn["weight"] * (errors - gaussian)).mean(-1)  # [P, 2]: -log density, but for a constant
    label = 1 - 2 * noised.float()
    return softplus(label * (surprise[:, 1] - surprise[:, 0])).sum()
