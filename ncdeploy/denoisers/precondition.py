"""From what a network predicts to a denoiser: EDM's F, or eps / v / x0 on discrete variance-preserving steps."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ncdeploy.denoisers.base import Denoiser, base_config, over_rows
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo

Prediction = Literal["eps", "v", "x0"]


class EDM(Denoiser):
    """D = c_skip x + c_out F(c_in x, c_noise[, labels]) (Karras et al. 2022, arXiv 2206.00364, table 1).

    network: a module F(x [B, *shape], c_noise [B], labels int64 [B] or None) -> [B, *shape]
    info:    its sigma_data fixes the coefficients
    """

    def __init__(self, network: nn.Module, info: ModelInfo) -> None:
        super().__init__(info, {**base_config("edm", info), "network": network_config(network)})
        self.network = network
        self.sigma_data = info.sigma_data

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data * variance.rsqrt()
        c_in = variance.rsqrt()
        c_noise = sigma.log() / 4
        F: Tensor = self.network(over_rows(c_in, x) * x, c_noise, self.fill_labels(sigma, labels))
        return over_rows(c_skip, x) * x + over_rows(c_out, x) * F


class VP(Denoiser):
    """A network trained on discrete variance-preserving steps (Ho et al. 2020), as a denoiser.

    With alpha = 1 / sqrt(1 + sigma^2) and s = sigma alpha, the network sees alpha x and the step t(sigma):

        eps:  D = x - sigma eps
        v:    D = alpha^2 x - s v        where v = alpha eps - s x0 (Salimans & Ho 2022, arXiv 2202.00512)
        x0:   D = x0

    network: a module N(x_vp [B, *shape], t [B] real in 0 .. T - 1, labels int64 [B] or None) -> [B, *shape]
    table:   the training steps; sigma outside its range is clamped to the nearest step
    """

    log_sigmas: Tensor

    def __init__(self, network: nn.Module, info: ModelInfo, *, predicts: Prediction, table: NoiseTable) -> None:
        if predicts not in get_args(Prediction):
            raise InputError(f"predicts: got {predicts!r}, expected one of {', '.join(get_args(Prediction))}")
        parts = {"network": network_config(network), "predicts": predicts, "table": table.to_config()}
        super().__init__(info, {**base_config("vp", info), **parts})
        self.network = network
        self.predicts = predicts
        # Rebuilt from the config, hence not saved. Kept in float64, because differences of neighbours are small.
        self.register_buffer("log_sigmas", torch.tensor(table.log_sigmas(), dtype=torch.float64), persistent=False)

    def step(self, sigma: Tensor) -> Tensor:
        """t(sigma) [B]: the real-valued training step, piecewise linear in ln sigma, without any search."""
        low = self.log_sigmas[:-1]
        position = (sigma.log()[:, None] - low.to(sigma.dtype)) / (self.log_sigmas[1:] - low).to(sigma.dtype)
        position = position.clamp(0, 1)
        # Whole steps and the one broken step apart: a float32 sum up to 999 would round, differently in each runtime.
        whole = position.floor()
        return whole.sum(1) + (position - whole).sum(1)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha = over_rows((1 + sigma**2).rsqrt(), x)
        output: Tensor = self.network(alpha * x, self.step(sigma), self.fill_labels(sigma, labels))
        if self.predicts == "eps":
            return x - over_rows(sigma, x) * output
        if self.predicts == "v":
            return alpha * (alpha * x - over_rows(sigma, x) * output)
        return output


def network_config(network: nn.Module) -> dict[str, Any]:
    """What the network says of itself; a foreign network without `config` cannot be rebuilt from a file."""
    config = getattr(network, "config", None)
    return dict(config) if isinstance(config, dict) else {"kind": type(network).__name__}
