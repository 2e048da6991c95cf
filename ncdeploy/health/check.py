"""Is an engine sound? Found out with nothing but the engine itself and what its model file says.

It draws a few samples, puts noise of several levels on them, and asks for all of them in one call, mixed, and for some
alone. A row must not depend on the others; every stretch of an input must make a difference, and every output must
differ between rows; and the residual energy at each level must be what the error curve leads to expect (see
`ncdeploy.sampling.energy`): what is scaled, or data of another range, leave more of it, above all at little noise.
"""

import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Backend
from ncdeploy.errors import InputError, NcdeployWarning, NumericalError
from ncdeploy.health.probe import Probe
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity.inputs import draw_samples
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.arrays import to_host
from ncdeploy.sampling.energy import allowance, expected_energy

SAMPLES, STEPS = 8, 16  # drawn, and the steps it takes
LEVELS = (0.015, 0.05, 0.15, 0.5, 1.5, 5.0)  # of noise, over the standard deviation of the data
MOST_DATA = 64  # samples of the data that are looked at
_ALONE = 6  # rows that are asked for alone as well
_DIFFERENT = 0.1  # rms over the standard deviation of the data from which on two answers differ; bf16 makes 0.01
_STRETCHES = 64  # of an input, that are changed in turn
_DEAD = 1e-4  # over the standard deviation of the data: less of a difference is none
_SPREAD = 2.0  # factor between standard deviations from which on data have another range

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Level:
    """Residual energy at one noise level: what was found, what is expected, and how far apart they may be."""

    sigma: float
    found: float
    expected: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether it is as expected."""
        return abs(self.found - self.expected) <= self.allowed


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What a check found.

    Attributes:
        faults: one line each; none for a sound engine
        levels: of the samples that the engine drew
        data_levels: of the data. Empty without an error curve
        curve: whether there is one; without it only rows and noise levels were checked
        seconds: that the check took
    """

    faults: tuple[str, ...]
    levels: tuple[Level, ...]
    data_levels: tuple[Level, ...]
    curve: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"ok": self.ok, **asdict(self)}


def check_engine(engine: Backend, *, data: NDArray[Any] | None = None, seed: int = 0) -> Checkup:
    """Check an engine, and with data [n, *shape], in model units, whether they are such as it was trained on.

    Args:
        seed: of the noise, the samples and which rows are asked for alone

    Raises:
        InputError: for data of another shape
    """
    start, info = time.perf_counter(), engine.info
    if data is not None and (data.shape[1:] != info.shape or not len(data)):
        raise InputError(f"data: got {data.shape}; this model takes samples of {info.shape}")
    rng = np.random.default_rng(seed)
    sigmas = np.unique(np.clip(np.array(LEVELS) * info.sigma_data, info.sigma_min, info.sigma_max))
    try:
        x0, given = _draw(engine, rng, seed)
        probe = Probe(engine, given, len(x0))
        faults, levels = _check_rows(probe, x0, sigmas, rng)
        data_levels: tuple[Level, ...] = ()
        if data is not None and not faults:
            some = data[rng.permutation(len(data))[:MOST_DATA]].reshape(-1, info.dim).astype(np.float64)
            found, data_levels = _check_data(probe, some, sigmas, rng)
            faults += found
    except NumericalError as e:
        faults, levels, data_levels = [str(e)], (), ()
    return Checkup(
        faults=tuple(faults), levels=levels, data_levels=data_levels, curve=info.error_curve is not None,
        seconds=time.perf_counter() - start,
    )  # fmt: skip


def _level(info: ModelInfo, squares: Floats, sigma: float) -> Level | None:
    """The residual energy of n rows, |y - D|^2 / d each, beside what is expected; None if nobody knows that."""
    if info.error_curve is None:
        return None
    expected = expected_energy(info.error_curve, np.array(sigma))
    return Level(
        sigma=float(sigma), found=float(squares.mean() / sigma**2), expected=float(expected),
        allowed=float(allowance(expected, info.dim, len(squares))),
    )  # fmt: skip


def _draw(engine: Backend, rng: np.random.Generator, seed: int) -> tuple[Floats, dict[str, Any]]:
    """Samples of the engine's own, and what they were drawn under."""
    info = engine.info
    given = draw_samples(info, SAMPLES, rng)
    low, high = LEVELS[0] * info.sigma_data, max(80.0, 20 * info.sigma_data)
    low, high = (float(np.clip(s, info.sigma_min, info.sigma_max)) for s in (low, high))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NcdeployWarning)
        plan = info.plan("dpmpp_2m", STEPS, schedule="karras", sigma_min=low, sigma_max=high)
    options = SampleOptions(like=engine.like, max_rows=getattr(engine, "max_rows", None))
    drawn = sample(engine, plan, seeds=range(seed, seed + SAMPLES), conditions=given, options=options)
    return to_host(drawn.samples).reshape(SAMPLES, -1).astype(np.float64), given


def _check_rows(
    probe: Probe, x0: Floats, sigmas: Floats, rng: np.random.Generator
) -> tuple[list[str], tuple[Level, ...]]:
    order = rng.permutation(len(x0) * len(sigmas))
    sample, at = order // len(sigmas), order % len(sigmas)
    sigma = sigmas[at]
    y = x0[sample] + sigma[:, None] * rng.standard_normal((len(order), x0.shape[1]))
    together = probe(y, sigma, sample)
    # Of the least noise and the most, where rows that were mixed up differ most.
    some = np.concatenate([np.flatnonzero(at == k)[: _ALONE // 2] for k in (0, len(sigmas) - 1)])
    fault = _mixed(probe, y, sigma, sample, together, some)
    squares = np.mean((y - together) ** 2, axis=1)
    levels = [_level(probe.info, squares[at == k], s) for k, s in enumerate(sigmas)]
    known = tuple(level for level in levels if level is not None)
    fault = fault or _dead(probe, x0[0], together)
    if fault is not None:
        return [fault], known
    wrong = [level for level in known if not level.ok]
    if not wrong:
        return [], known
    least = at == int(np.searchsorted(sigmas, wrong[0].sigma))
    return [_scaled(y[least] - together[least], y[least], together[least], wrong)], known


def _mixed(
    probe: Probe, y: Floats, sigma: Floats, sample: NDArray[np.int64], together: Floats, some: NDArray[np.int64]
) -> str | None:
    """What is wrong if rows of a call are not what they are alone."""

    def alone(levels: Floats) -> Floats:
        return np.concatenate([probe(y[[i]], levels[[i]], sample[[i]]) for i in some])

    def rms(difference: Floats) -> Floats:
        return np.asarray(np.sqrt(np.mean(difference**2, axis=-1)) / probe.info.sigma_data)

    own = alone(sigma)
    off = rms(own - together[some])
    if not off.max() > _DIFFERENT:
        return None
    nearest = rms(own[:, None] - together).argmin(axis=1)
    if rms(own - together[nearest]).max() <= _DIFFERENT:
        pairs = ", ".join(f"{j} for {i}" for i, j in zip(some, nearest, strict=True) if i != j)
        return f"rows come back in another order than they went in: of a call of {len(y)} rows, {pairs}"
    for name, level in (("its first row", sigma[0]), ("its last row", sigma[-1]), ("the mean", sigma.mean())):
        if rms(alone(np.full_like(sigma, level)) - together[some]).max() <= _DIFFERENT:
            return f"sigma is not per row: a call takes that of {name} for all"
    return (
        f"a row depends on the others of its call: rms {off.max():.2g} standard deviations of the data from the same "
        "row alone"
    )


def _dead(probe: Probe, x0: Floats, together: Floats) -> str | None:
    """Values of x that change nothing, or of D that never change."""
    unit = probe.info.sigma_data
    still = np.flatnonzero(np.ptp(together, axis=0) <= _DEAD * unit)
    if still.size:
        return f"{_values(still, x0.size)} of the output are the same in every row"
    stretches = np.array_split(np.arange(x0.size), min(x0.size, _STRETCHES))
    y = np.tile(x0, (1 + len(stretches), 1))
    for i, stretch in enumerate(stretches, 1):
        y[i, stretch] += unit
    rows = np.arange(len(y))
    out = probe(y, np.full(len(y), unit / 2), 0 * rows)
    change = np.abs(out - out[0]).max(axis=1)[1:]
    dead = [stretch for stretch, most in zip(stretches, change, strict=True) if most <= _DEAD * unit]
    return f"{_values(np.concatenate(dead), x0.size)} of the input make no difference" if dead else None


def _values(at: NDArray[np.int64], of: int) -> str:
    return f"{len(at)} of {of} values ({', '.join(map(str, at[:8]))}{', ...' if len(at) > 8 else ''})"


def _scaled(residual: Floats, y: Floats, denoised: Floats, wrong: list[Level]) -> str:
    """Whether residual that should not be there, at the least noise that has any, is that of a scaled output."""
    worst = max(wrong, key=lambda level: abs(level.found - level.expected) / level.allowed)
    told = (
        f"the residual is {worst.found / max(worst.expected, 1e-3):.3g} x what the model file expects at sigma "
        f"{worst.sigma:.2g}"
    )
    slope = float((denoised * y).sum() / (y * y).sum())
    if abs(slope - 1) > 0.02:
        return f"{told}: the output, or the input, is scaled by about {slope:.2g}"
    return f"{told}: it is another network, or its inputs or outputs are wired wrongly"


def _check_data(
    probe: Probe, data: Floats, sigmas: Floats, rng: np.random.Generator
) -> tuple[list[str], tuple[Level, ...]]:
    info, mean = probe.info, 0.0 if probe.info.mean is None else np.array(probe.info.mean)
    levels = []
    for s in sigmas[: -2 if len(sigmas) > 3 else None]:
        y = data + s * rng.standard_normal(data.shape)
        squares = np.mean((y - probe(y, np.full(len(y), s), np.arange(len(y)))) ** 2, axis=1)
        levels.append(_level(info, squares, float(s)))
    known = tuple(level for level in levels if level is not None)
    spread = float(np.sqrt(np.mean((data - mean) ** 2))) / info.sigma_data
    unlike = info.mean is not None and not 1 / _SPREAD <= spread <= _SPREAD
    wrong = [level for level in known if not level.ok]
    if not (wrong or unlike):
        return [], known
    found = f"the data lie in {data.min():.3g} .. {data.max():.3g}, mean {data.mean():.3g}, in model units"
    if info.mean is not None:
        found += f"; the model was trained on mean {np.mean(mean):.3g} with standard deviation {info.sigma_data:.3g}"
    if wrong:
        worst = max(wrong, key=lambda level: abs(level.found - level.expected) / level.allowed)
        ratio = worst.found / max(worst.expected, 1e-3)
        found += f"; their residual is {ratio:.3g} x what the model file expects at sigma {worst.sigma:.2g}"
    return [f"the data do not look like what this model was trained on: {found}"], known
