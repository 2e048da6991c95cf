"""One step of denoising, of a noise level that is known or found out.

The residual energy (see `ncdeploy.sampling.energy`) crosses its expectation where the level that is claimed is the true
one: asked about too little noise a denoiser leaves too much of it, asked about too much it takes from the picture. So
one call with a ladder of levels finds it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Backend
from ncdeploy.errors import InputError
from ncdeploy.health.probe import Floats, Probe
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.energy import expected_energy

RUNGS = 25
LEAST, MOST = 0.02, 7.0  # of the ladder, over the standard deviation of the data


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoised:
    """samples: float32 [n, *shape], model units; sigma: float64 [n], the noise that was taken from each, in model units

    Attributes:
        outside: bool [n], whether the level was to be found and is not on the ladder: it is an end of it then
    """

    samples: NDArray[np.float32]
    sigma: Floats
    outside: NDArray[np.bool_]


def denoise_samples(engine: Backend, y: NDArray[Any], *, sigma: float | None = None) -> Denoised:
    """D of noisy samples y [n, *shape] in model units, at the noise level sigma, in model units; None finds it out.

    A model with classes is asked without one.

    Raises:
        InputError: for samples of another shape, a sigma out of range, a model that needs a class or conditions, and
            where sigma is to be found out, for one without an error curve
    """
    info = engine.info
    if y.shape[1:] != info.shape or not len(y):
        raise InputError(f"samples: got {y.shape}; this model takes {info.shape}")
    given = _nothing(info, len(y))
    if sigma is not None and not info.sigma_min <= sigma <= info.sigma_max:
        raise InputError(f"sigma: got {sigma}, the model was trained on {info.sigma_min:g} to {info.sigma_max:g}")
    probe, rows = Probe(engine, given, len(y)), y.reshape(len(y), -1).astype(np.float64)
    if sigma is None:
        levels, outside = _levels(probe, rows)
    else:
        levels, outside = np.full(len(y), float(sigma)), np.zeros(len(y), bool)
    out = probe(rows, levels, np.arange(len(y)))
    return Denoised(samples=out.reshape(y.shape).astype(np.float32), sigma=levels, outside=outside)


def _levels(probe: Probe, y: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The noise level of each row [n, d], and whether it is off the ladder."""
    info = probe.info
    if info.error_curve is None:
        raise InputError("sigma: the model file has no error curve to find it with; say how much noise there is")
    ends = np.clip(np.array([LEAST, MOST]) * info.sigma_data, info.sigma_min, info.sigma_max)
    ladder = np.geomspace(ends[0], ends[1], RUNGS)
    whose = np.arange(len(y)).repeat(RUNGS)
    asked = np.tile(ladder, len(y))
    rows = y[whose]
    energy = np.mean((rows - probe(rows, asked, whose)) ** 2, axis=1).reshape(len(y), RUNGS) / ladder**2
    tiny = np.finfo(np.float32).tiny
    gap = np.log(np.maximum(energy, tiny)) - np.log(np.maximum(expected_energy(info.error_curve, ladder), tiny))
    falls = (gap[:, :-1] > 0) & (gap[:, 1:] <= 0)
    found = falls.any(axis=1)
    last = RUNGS - 2 - falls[:, ::-1].argmax(axis=1)  # of several crossings, that of the most noise
    at = np.arange(len(y))
    above, below = gap[at, last], gap[at, last + 1]
    part = np.where(found, above / np.where(found, above - below, 1), 0)
    log = np.log(ladder)
    level = np.exp(log[last] + part * (log[last + 1] - log[last]))
    return np.where(found, level, np.where(gap[:, 0] <= 0, ends[0], ends[1])), ~found


def _nothing(info: ModelInfo, n: int) -> dict[str, Any]:
    """What n samples are given that are under no class and no condition."""
    if info.num_classes and info.null_label is None:
        raise InputError("this model needs a class for every sample; denoising asks without one")
    without = [c.name for c in info.conditions if c.null is None]
    if without:
        raise InputError(f"this model needs {', '.join(without)} for every sample; denoising asks without")
    labels = {} if info.null_label is None else {"labels": np.full(n, info.null_label)}
    return {**labels, **{c.name: np.repeat(c.none()[None], n, axis=0) for c in info.conditions}}
