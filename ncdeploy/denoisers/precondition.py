"""From what a network predicts to a denoiser: EDM's F, eps / v / x0 on discrete steps, or the two SDEs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ncdeploy.denoisers.base import Denoiser, base_config, over_rows
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.told import CONTINUOUS, NOISES, check_noise, told_by_sigma, told_by_step
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo

Prediction = Literal["eps", "v", "x0"]


class Preconditioned(Denoiser):
    """A denoiser around a network N(x [B, *shape], noise [B], labels int64 [B] or None) -> [B, *shape], which for a
    model with conditions is called N(x, noise, labels, conditions, sample), see `Denoiser.forward`."""

    def __init__(self, network: nn.Module, info: ModelInfo, config: dict[str, Any]) -> None:
        super().__init__(info, {**config, "network": network_config(network)})
        self.network = network

    def ask(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None,
        conditions: dict[str, Tensor] | None,
        sample: Tensor | None,
    ) -> Tensor:
        """The network's output. Raises InputError for labels and conditions that are missing or that it has not."""
        labels = self.fill_labels(noise, labels)
        if (conditions is None) != (not self.info.conditions):
            takes = ", ".join(c.describe() for c in self.info.conditions)
            raise InputError(f"conditions: this model takes {takes}" if takes else "conditions: this model has none")
        output: Tensor = (
            self.network(x, noise, labels) if conditions is None else self.network(x, noise, labels, conditions, sample)
        )
        return output


class EDM(Preconditioned):
    """D = c_skip x + c_out F(c_in x, c_noise[, labels]) (Karras et al. 2022, arXiv 2206.00364, table 1).

    network: a module F(x [B, *shape], c_noise [B], labels int64 [B] or None) -> [B, *shape]
    info:    its sigma_data fixes the coefficients
    noise:   what stands in the place of c_noise, see `ncdeploy.denoisers.told`
    """

    def __init__(self, network: nn.Module, info: ModelInfo, *, noise: str = "c-noise") -> None:
        check_noise(noise, CONTINUOUS, "a network of this scaling")
        super().__init__(network, info, {**base_config("edm", info), "noise": noise})
        self.noise = noise
        self.sigma_data = info.sigma_data

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data * variance.rsqrt()
        c_in = variance.rsqrt()
        c_noise = told_by_sigma(self.noise, sigma)
        F = self.ask(over_rows(c_in, x) * x, c_noise, labels, conditions, sample)
        return over_rows(c_skip, x) * x + over_rows(c_out, x) * F


class VP(Preconditioned):
    """A network of the variance-preserving scale, as a denoiser: trained on discrete steps (Ho et al. 2020), or on
    noise levels without any.

    With alpha = 1 / sqrt(1 + sigma^2) and s = sigma alpha, the network sees alpha x and, told in some way, sigma:

        eps:  D = x - sigma eps
        v:    D = alpha^2 x - s v        where v = alpha eps - s x0 (Salimans & Ho 2022, arXiv 2202.00512)
        x0:   D = x0

    network: a module N(x_vp [B, *shape], noise [B], labels int64 [B] or None) -> [B, *shape]
    noise:   what it is told, see `ncdeploy.denoisers.told`; without a table one that needs no steps
    table:   the training steps; sigma outside its range is clamped to the nearest step. At a training level t is the
             whole step itself, so that networks which look it up, or cut it to an integer, are asked at their own
    clip:    in eval mode D is cut to [-clip, clip], as samplers of that family do for pictures; None leaves it alone.
             While training it is not cut, because a cut value has no gradient
    """

    log_sigmas: Tensor

    def __init__(
        self,
        network: nn.Module,
        info: ModelInfo,
        *,
        predicts: Prediction,
        table: NoiseTable | None,
        noise: str = "step",
        clip: float | None = None,
    ) -> None:
        if predicts not in get_args(Prediction):
            raise InputError(f"predicts: got {predicts!r}, expected one of {', '.join(get_args(Prediction))}")
        if clip is not None and not 0 < clip < float("inf"):
            raise InputError(f"clip: got {clip}, expected a positive number, or None to leave D alone")
        if table is None:
            check_noise(noise, CONTINUOUS, "a network without training steps")
        check_noise(noise, NOISES, "a network")
        steps = None if table is None else table.to_config()
        parts = {"predicts": predicts, "table": steps, "noise": noise, "clip": clip}
        super().__init__(network, replace(info, clip=clip), {**base_config("vp", info), **parts})
        self.predicts, self.clip, self.noise = predicts, clip, noise
        # Rebuilt from the config, hence not saved. Kept in float64, because differences of neighbours are small.
        levels: Any = [] if table is None else table.log_sigmas()
        self.register_buffer("log_sigmas", torch.tensor(levels, dtype=torch.float64), persistent=False)

    def step(self, sigma: Tensor) -> Tensor:
        """t(sigma) [B]: the real-valued training step, piecewise linear in ln sigma, without any search.

        It is flat where rounding may have moved a training level to, and so that level's whole step, to the last bit.
        """
        rounding = 4 * torch.finfo(sigma.dtype).eps * self.log_sigmas.abs().clamp(min=1)
        low, high = (self.log_sigmas + rounding)[:-1], (self.log_sigmas - rounding)[1:]
        width = (high - low).clamp(min=1e-12)  # not 0 where a table is finer than the type
        position = (sigma.log()[:, None] - low.to(sigma.dtype)) / width.to(sigma.dtype)
        position = position.clamp(0, 1)
        # Whole steps and the one broken step apart: a float32 sum up to 999 would round, differently in each runtime.
        whole = position.floor()
        return whole.sum(1) + (position - whole).sum(1)

    def told(self, sigma: Tensor) -> Tensor:
        """What the network is told of the noise levels [B]."""
        if self.noise in CONTINUOUS:
            return told_by_sigma(self.noise, sigma)
        return told_by_step(self.noise, self.step(sigma), len(self.log_sigmas))

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        alpha = over_rows((1 + sigma**2).rsqrt(), x)
        output = self.ask(alpha * x, self.told(sigma), labels, conditions, sample)
        denoised = self._denoised(x, over_rows(sigma, x), alpha, output)
        return denoised if self.clip is None or self.training else denoised.clamp(-self.clip, self.clip)

    def _denoised(self, x: Tensor, sigma: Tensor, alpha: Tensor, output: Tensor) -> Tensor:
        if self.predicts == "eps":
            return x - sigma * output
        if self.predicts == "v":
            return alpha * (alpha * x - sigma * output)
        return output


class VPSDE(Preconditioned):
    """The variance-preserving diffusion in continuous time (Song et al. 2021; Karras et al. 2022, table 1, column VP).

        D = x - sigma F(x / sqrt(1 + sigma^2), (steps - 1) t(sigma)[, labels])
        t(sigma) = (sqrt(beta_min^2 + 2 beta_d ln(1 + sigma^2)) - beta_min) / beta_d

    network: a module F(x_vp [B, *shape], noise [B], labels int64 [B] or None) -> [B, *shape]
    steps:   of the discrete process that the network's noise input counts in, M in the table
    """

    def __init__(
        self, network: nn.Module, info: ModelInfo, *, beta_d: float = 19.9, beta_min: float = 0.1, steps: int = 1000
    ) -> None:
        if not (0 < beta_d < float("inf") and 0 < beta_min < float("inf") and steps > 1):
            raise InputError(f"beta_d, beta_min, steps: got {beta_d}, {beta_min}, {steps}; expected > 0, > 0 and > 1")
        parts = {"beta_d": beta_d, "beta_min": beta_min, "steps": steps}
        super().__init__(network, info, {**base_config("vp_sde", info), **parts})
        self.beta_d, self.beta_min, self.steps = beta_d, beta_min, steps

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        variance = 1 + sigma**2
        square = self.beta_min**2 + 2 * self.beta_d * rounded_once(torch.log, variance)
        t = (rounded_once(torch.sqrt, square) - self.beta_min) / self.beta_d
        c_noise, c_in = (self.steps - 1) * t, 1 / variance.sqrt()
        F = self.ask(over_rows(c_in, x) * x, c_noise, labels, conditions, sample)
        return x - over_rows(sigma, x) * F


class VESDE(Preconditioned):
    """The variance-exploding diffusion: D = x + sigma F(x, ln(sigma / 2)[, labels]) (the same, column VE).

    network: a module F(x [B, *shape], noise [B], labels int64 [B] or None) -> [B, *shape]
    """

    def __init__(self, network: nn.Module, info: ModelInfo) -> None:
        super().__init__(network, info, base_config("ve_sde", info))

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        F = self.ask(x, rounded_once(torch.log, sigma / 2), labels, conditions, sample)
        return x + over_rows(sigma, x) * F


def rounded_once(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) to the last bit. Runtimes disagree about that bit of a float32 root or logarithm, and the networks
    of the SDEs take sines of up to a thousand times that."""
    return function(x.double()).to(x.dtype)


def network_config(network: nn.Module) -> dict[str, Any]:
    """What the network says of itself; a foreign network without `config` cannot be rebuilt from a file."""
    config = getattr(network, "config", None)
    return dict(config) if isinstance(config, dict) else {"kind": type(network).__name__}
