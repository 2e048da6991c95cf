"""The exponential moving average of the weights: what is saved, measured and sampled from."""

import copy

import torch

from ncdeploy.denoisers.base import Denoiser


class EMA:
    """A second copy of the model that follows the first, w <- k w + (1 - k) w_now.

    The decay starts short, k = min(decay, (1 + step) / (10 + step)), so that a short run does not keep its
    random beginning.
    """

    def __init__(self, denoiser: Denoiser, decay: float) -> None:
        self.decay = decay
        self.denoiser = copy.deepcopy(denoiser).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, denoiser: Denoiser, step: int) -> None:
        """Follow the weights as they are after step number `step`; buffers are copied."""
        weight = 1 - decay_at(self.decay, step)
        for average, now in zip(self.denoiser.parameters(), denoiser.parameters(), strict=True):
            average.lerp_(now.to(average.device), weight)
        for kept, current in zip(self.denoiser.buffers(), denoiser.buffers(), strict=True):
            kept.copy_(current)


def decay_at(decay: float, step: int) -> float:
    """k of update number `step` = 0, 1, ..."""
    return min(decay, (1 + step) / (10 + step))
