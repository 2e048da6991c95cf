"""The discrete noise levels of a variance-preserving model: alphas_cumprod, and sigma = sqrt((1 - a) / a)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError
from ncdeploy.sampling import schedules

USUAL_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class NoiseTable:
    """alphas_cumprod of training step 0 .. T - 1: the share of signal variance left, decreasing, inside (0, 1)."""

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        a = np.asarray(self.alphas_cumprod, float)
        if a.ndim != 1 or a.size < 2:
            raise InputError(f"alphas_cumprod: got shape {a.shape}, expected a list of at least 2 values")
        if not (np.all(a > 0) and np.all(a < 1) and np.all(np.diff(a) < 0)):
            raise InputError("alphas_cumprod: the values must decrease and lie strictly between 0 and 1")

    @classmethod
    def given(cls, alphas_cumprod: ArrayLike) -> "NoiseTable":
        """From any list or array of T values."""
        return cls(alphas_cumprod=tuple(np.asarray(alphas_cumprod, float).ravel().tolist()))

    @classmethod
    def linear(cls, train_steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> "NoiseTable":
        """beta linear in the step (Ho et al. 2020, section 4)."""
        return cls.given(np.cumprod(1 - np.linspace(beta_start, beta_end, train_steps)))

    @classmethod
    def scaled_linear(
        cls, train_steps: int = 1000, *, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> "NoiseTable":
        """sqrt(beta) linear in the step (Rombach et al. 2022, in the code of latent diffusion)."""
        return cls.given(np.cumprod(1 - np.linspace(beta_start**0.5, beta_end**0.5, train_steps) ** 2))

    @classmethod
    def with_finite_end(cls, alphas_cumprod: ArrayLike) -> "NoiseTable":
        """From a table that may end in exactly 0, "zero terminal SNR" (Lin et al. 2023, arXiv 2305.08891).

        There sigma is infinite, and no x = x0 + sigma n exists. That last step stays, as a sixteenth of the
        entry before it, which is sigma times four: the network is still asked at the last step, where it learned to
        start from noise alone, and the signal that x then holds is some thousand times weaker than the noise.
        """
        a = np.array(alphas_cumprod, np.float64).ravel()
        if a.size > 1 and abs(a[-1]) < 1e-12:
            a[-1] = a[-2] / 16
        return cls.given(a)

    @classmethod
    def cosine(cls, train_steps: int = 1000, *, max_beta: float = 0.999) -> "NoiseTable":
        """alphas_cumprod follows a squared cosine (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17)."""
        f = np.cos((np.arange(train_steps + 1) / train_steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return cls.given(np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], max_beta)))

    def sigmas(self) -> NDArray[np.float64]:
        """[T] noise level of each step in variance-exploding units, increasing."""
        a = np.asarray(self.alphas_cumprod, np.float64)
        return np.sqrt((1 - a) / a)

    def log_sigmas(self) -> NDArray[np.float64]:
        """[T] natural logarithm of `sigmas`."""
        return np.log(self.sigmas())

    def plan(
        self, *, solver: str = "ddim", steps: int = 50, spacing: str | None = None, offset: int = 0,
        ends_at_first: bool = False, within: float = 0.0,
    ) -> dict[str, Any]:  # fmt: skip
        """Arguments of `ncdeploy.make_plan` for a solver on these training levels, at most as many as there are.

        The usual tables go by name, all others as a list of their levels.

        offset: added to every training step, as for `ncdeploy.schedules.table`; ends_at_first: the sample keeps the
                noise of training step 0, which takes an offset
        within: steps that the levels of a name may be off, for a network that takes real-valued ones
        """
        levels = self.sigmas()
        chosen: dict[str, Any] = {"solver": solver, "steps": min(steps, levels.size)}
        if spacing is not None:
            chosen["spacing"] = spacing
        if offset:
            chosen["offset"] = offset
        if ends_at_first:
            chosen["ends_at"] = float(levels[0])
        if levels.size == USUAL_STEPS and not offset:
            logs = np.log(levels)
            nearest = np.minimum(np.diff(logs, append=np.inf), np.diff(logs, prepend=-np.inf))
            for name, usual in (("ddpm", schedules.ddpm), ("cosine", schedules.cosine)):
                if np.all(np.abs(np.log(usual(USUAL_STEPS)[-2::-1]) - logs) <= 1e-9 + within * nearest):
                    return {**chosen, "schedule": name}
        return {**chosen, "schedule": "table", "levels": levels.tolist()}

    def to_config(self) -> dict[str, Any]:
        """JSON-able."""
        return {"alphas_cumprod": list(self.alphas_cumprod)}
