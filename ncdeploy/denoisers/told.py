"""What a network is told of the noise level, by name. There is no usual one: asked with another, it answers wrongly.

step           training step 0 .. T - 1, real between two of them
step-int       the nearest whole step, for networks that look it up
time01         step / (T - 1); of flow matching t, 1 at noise
time1000       1000 step / T; of flow matching 1000 t
log-snr        -2 ln sigma
c-noise        ln(sigma) / 4, as EDM
sigma          sigma itself, in the scale x = x0 + sigma n
"""

from typing import Literal, get_args

from torch import Tensor

from ncdeploy.errors import InputError

Noise = Literal["step", "step-int", "time01", "time1000", "log-snr", "c-noise", "sigma"]
NOISES: tuple[str, ...] = get_args(Noise)
CONTINUOUS = ("log-snr", "c-noise", "sigma")  # those that need no training steps


def check_noise(noise: str, allowed: tuple[str, ...], what: str) -> None:
    """Raise InputError, saying what there is, unless it is one of the names that fit."""
    if noise not in allowed:
        raise InputError(f"noise: got {noise!r}; {what} is told one of {', '.join(allowed)}")


def told_by_sigma(noise: str, sigma: Tensor) -> Tensor:
    """One of CONTINUOUS, [B]."""
    return {"log-snr": lambda: -2 * sigma.log(), "c-noise": lambda: sigma.log() / 4, "sigma": lambda: sigma}[noise]()


def told_by_step(noise: str, step: Tensor, steps: int) -> Tensor:
    """One of the others, [B], from the real-valued training step."""
    match noise:
        case "step-int":
            return step.round()
        case "time01":
            return step / (steps - 1)
        case "time1000":
            return step * (1000 / steps)
    return step
