"""Schedules: decreasing noise levels sigma, float64 [steps + 1], ending in exactly 0.

karras, exponential   chosen levels between sigma_min and sigma_max
ddpm, cosine          levels of a variance-preserving training table, sigma = sqrt((1 - abar) / abar)
table                 levels of a training table of one's own, which an imported model brings with it
flow                  equal steps of the time t of flow matching, sigma = t / (1 - t)

sigma is in units of the data. Every function raises InputError for arguments out of range.
"""

import operator
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError

Floats = NDArray[np.float64]
Spacing = Literal["leading", "trailing", "linspace"]

MOST_STEPS = 1 << 16  # far beyond any training table
FLOW_START = 1e6  # sigma that stands for t = 1, where it is infinite: float32 does not see the difference
SPACINGS: tuple[str, ...] = get_args(Spacing)


def karras(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Floats:
    """Equal steps in sigma^(1/rho), from sigma_max to sigma_min, then 0 (Karras et al. 2022, eq. 5).

    One step starts at sigma_max.
    """
    n = _check_steps(steps)
    _check_range(sigma_min, sigma_max)
    if not 0 < rho < np.inf:
        raise InputError(f"rho: got {rho}, expected a positive number; 7 is usual")
    levels = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n) ** rho
    return _ending_in_zero(levels, ends=(sigma_max, sigma_min))


def exponential(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Floats:
    """Equal steps in ln sigma, from sigma_max to sigma_min, then 0. One step starts at sigma_max."""
    n = _check_steps(steps)
    _check_range(sigma_min, sigma_max)
    return _ending_in_zero(np.geomspace(sigma_max, sigma_min, n), ends=(sigma_max, sigma_min))


def ddpm(
    steps: int,
    *,
    spacing: Spacing = "leading",
    train_steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    offset: int = 0,
) -> Floats:
    """A selection of the training levels of DDPM, beta linear in t (Ho et al. 2020, section 4).

    spacing: how `steps` of the `train_steps` timesteps are chosen (Lin et al. 2023, table 2)
    offset:  added to every timestep of "leading" spacing (1 for Stable Diffusion)
    """
    if not 0 < beta_start <= beta_end < 1:
        raise InputError(f"beta: got {beta_start} .. {beta_end}, expected 0 < beta_start <= beta_end < 1")
    t = _timesteps(steps, train_steps, spacing, offset)
    return _table_levels(np.linspace(beta_start, beta_end, train_steps), t)


def cosine(steps: int, *, spacing: Spacing = "leading", train_steps: int = 1000) -> Floats:
    """A selection of the training levels of improved DDPM (Nichol & Dhariwal 2021, eq. 17).

    abar(t) is a squared cosine and beta is capped at 0.999, so the highest level of 1000 is about 2e4.
    """
    t = _timesteps(steps, train_steps, spacing, 0)
    abar = np.cos((np.arange(train_steps + 1) / train_steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return _table_levels(np.minimum(1 - abar[1:] / abar[:-1], 0.999), t)


def table(
    steps: int, *, levels: ArrayLike, spacing: Spacing = "leading", offset: int = 0, ends_at: float = 0.0
) -> Floats:
    """A selection of the training levels of a variance-preserving model.

    levels:  [T] sigma of training step 0 .. T - 1, increasing from above 0
    offset:  as for `ddpm`
    ends_at: the level of the sample, below the others; Stable Diffusion's ends at levels[0], with that noise in it
    """
    own = np.asarray(levels, np.float64)
    if own.ndim != 1 or own.size < 1 or not (np.all(own > 0) and np.all(np.diff(own) > 0) and np.isfinite(own[-1])):
        raise InputError("levels: expected one list of finite noise levels that increase from above 0")
    chosen = own[_timesteps(steps, own.size, spacing, offset)]
    if not 0 <= ends_at < chosen[-1]:
        raise InputError(f"ends_at: got {ends_at}, expected 0 or more, and less than the last level, {chosen[-1]:.4g}")
    return np.append(chosen, ends_at)


def flow(steps: int, *, shift: float = 1.0, t_last: float | None = None) -> Floats:
    """Equal steps of t from 1 to 0, shifted to shift t / (1 + (shift - 1) t) (Esser et al. 2024, arXiv 2403.03206, eq.
    23): above 1 it spends more steps on noise, as pictures of high resolution need. sigma = t / (1 - t).

    t_last: of the last evaluation, before the shift, with equal steps from 1 to it; None = 1 / steps, so that the step
            from there to 0 is as long as the others
    """
    n = _check_steps(steps)
    if not 0 < shift < np.inf:
        raise InputError(f"shift: got {shift}, expected a positive number; 1 is none, 3 usual for large pictures")
    if t_last is not None and not 0 < t_last < 1:
        raise InputError(f"t_last: got {t_last}, expected a number between 0 and 1")
    t = 1 - np.arange(1, n) * (1 / n if t_last is None else (1 - t_last) / max(n - 1, 1))
    t = shift * t / (1 + (shift - 1) * t)
    return np.concatenate([[FLOW_START], t / (1 - t), [0.0]])


def check_sigmas(sigmas: ArrayLike) -> list[float]:
    """The levels as floats, if a solver can run on them: >= 2 strictly decreasing, only the last may be 0.

    Raises InputError saying which rule is broken.
    """
    levels = np.asarray(sigmas, np.float64)
    if levels.ndim != 1 or levels.size < 2:
        raise InputError(f"sigmas: got shape {levels.shape}, expected one list of at least 2 levels")
    if not np.all(np.isfinite(levels)) or np.any(levels < 0):
        raise InputError("sigmas: every level must be finite and >= 0")
    if np.any(np.diff(levels) >= 0):
        k = int(np.argmax(np.diff(levels) >= 0))
        raise InputError(f"sigmas: levels must decrease, but {levels[k]:g} is followed by {levels[k + 1]:g}")
    return [float(s) for s in levels]


def _timesteps(steps: int, train_steps: int, spacing: str, offset: int) -> NDArray[np.int64]:
    """`steps` decreasing indices into a table of train_steps entries."""
    n = _check_steps(steps)
    if train_steps < 1 or n > train_steps:
        raise InputError(f"steps: got {n} with a training table of {train_steps}; take at most {train_steps} steps")
    if spacing not in SPACINGS:
        raise InputError(f"spacing: got {spacing!r}, expected one of {', '.join(SPACINGS)}")
    if offset and spacing != "leading":
        raise InputError(f"offset: got {offset} with {spacing} spacing; only leading spacing has an offset")
    if spacing == "trailing":
        return (np.round(train_steps - np.arange(n) * (train_steps / n)) - 1).astype(np.int64)
    if n == 1:
        # Both remaining formulas would start one step at the cleanest level, where noise is no valid state.
        t = np.array([train_steps - 1])
    elif spacing == "linspace":
        t = np.round(np.linspace(0, train_steps - 1, n))[::-1].astype(np.int64)
    else:
        t = (np.arange(n) * (train_steps // n))[::-1]
    room = train_steps - 1 - int(t[0])
    if not 0 <= offset <= room:
        raise InputError(f"offset: got {offset}, expected 0 to {room} for {n} steps of {train_steps}")
    return t + offset


def _table_levels(betas: Floats, t: NDArray[np.int64]) -> Floats:
    abar = np.cumprod(1 - betas)
    return np.append(np.sqrt((1 - abar[t]) / abar[t]), 0.0)


def _ending_in_zero(levels: Floats, *, ends: tuple[float, float]) -> Floats:
    levels[0] = ends[0]
    if levels.size > 1:
        levels[-1] = ends[1]  # the power of a root is off by a rounding, and users compare with what they typed
    if np.any(np.diff(levels) >= 0):
        raise InputError(f"sigma range: {ends[1]} .. {ends[0]} is too narrow for {levels.size} distinct levels")
    return np.append(levels, 0.0)


def _check_steps(steps: int) -> int:
    try:
        n = operator.index(steps)
    except TypeError as e:
        raise InputError(f"steps: got {steps!r:.60}, expected an integer of at least 1") from e
    if not 1 <= n <= MOST_STEPS:
        raise InputError(f"steps: got {str(n)[:20]}, expected 1 to {MOST_STEPS}")
    return n


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < np.inf:
        raise InputError(f"sigma range: got {sigma_min} .. {sigma_max}, expected 0 < sigma_min < sigma_max")
