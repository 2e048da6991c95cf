"""Flow matching (Lipman et al. 2023, arXiv 2210.02747) as a denoiser: its x_t = (1 - t) x0 + t n is x, scaled."""

from typing import Any, Literal, get_args

from torch import Tensor, nn

from ncdeploy.denoisers.base import base_config, over_rows
from ncdeploy.denoisers.precondition import Preconditioned
from ncdeploy.denoisers.told import check_noise
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo

Towards = Literal["noise", "data"]
TIMES = ("time01", "time1000", "time01-reversed", "time1000-reversed")


class Flow(Preconditioned):
    """With sigma = t / (1 - t), the network sees x_t = x / (1 + sigma) and the time, and D = x_t - t v.

    network: a module v(x_t [B, *shape], time [B], labels int64 [B] or None) -> [B, *shape]
    towards: "noise" for v = n - x0 (Stable Diffusion 3, Flux), "data" for v = x0 - n
    noise:   time01 for t, 1 at noise, time1000 for 1000 t; time01-reversed and time1000-reversed for 1 - t, 1 at data
    """

    def __init__(self, network: nn.Module, info: ModelInfo, *, towards: Towards, noise: str) -> None:
        if towards not in get_args(Towards):
            raise InputError(f"towards: got {towards!r}, expected one of {', '.join(get_args(Towards))}")
        check_noise(noise, TIMES, "a model of flow matching")
        parts: dict[str, Any] = {"towards": towards, "noise": noise}
        super().__init__(network, info, {**base_config("flow", info), **parts})
        self.sign = -1.0 if towards == "noise" else 1.0
        self.reversed = noise.endswith("-reversed")
        self.factor = 1000.0 if noise.startswith("time1000") else 1.0

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        clean = 1 / (1 + sigma)  # 1 - t, which t loses near 1
        t = sigma * clean
        time = self.factor * (clean if self.reversed else t)
        x_t = over_rows(clean, x) * x
        return x_t + self.sign * over_rows(t, x) * self.ask(x_t, time, labels, conditions, sample)
