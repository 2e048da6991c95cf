"""The residual energy: does a state look like what its denoiser was trained on?

    T = |x - D(x, sigma)|^2 / (d sigma^2)

Where x is a sample of the data with noise sigma on it, and D its posterior mean, E T = 1 - mse(sigma) / sigma^2: the
noise, less what D leaves of it in the sample. The denoising error is known of a model, so T tells states that are none
of its data with that noise, and engines whose rows, levels or values got mixed up, where D is evaluated anyway.

For Gaussian data T is a mean of d squares, which the error takes (d - tr dD/dx) of: its variance is about 2 E T / d.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.arrays import device_of, namespace, to_host
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.plan import Plan

Floats = NDArray[np.float64]

RELATIVE, ABSOLUTE, DEVIATIONS = 0.3, 0.05, 8.0  # how far T may be from what is expected
_CALLS = 12  # of a sequential run, that are measured
_PER_DECADE = 2  # groups of noise levels


def expected_energy(curve: ErrorCurve, sigma: Any) -> Floats:
    """E T at noise levels [...], for data that the curve was measured on."""
    return 1 - curve.jacobian(sigma)


def allowance(expected: Floats, dim: int, samples: Any) -> Floats:
    """How far the mean of T over so many samples may be from its expectation in a sound run.

    Networks miss the expectation by some per cent, and where the error of the data is all but the noise by more.
    """
    return np.asarray(RELATIVE * expected + ABSOLUTE + DEVIATIONS * np.sqrt(2 * expected / (dim * samples)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Energy:
    """The residual energy of a run by noise level.

    sigmas: float64 [m], mean noise level of each group, decreasing
    ratio:  float64 [m], mean of T over samples and levels of a group, over its expectation: 1 is as expected
    band:   float64 [m], how far from 1 that may be
    """

    sigmas: Floats
    ratio: Floats
    band: Floats

    def remark(self) -> str | None:
        """One line on the group farthest outside its band; None where all lie in theirs."""
        outside = np.abs(self.ratio - 1) / self.band
        worst = int(outside.argmax())
        if outside[worst] <= 1:
            return None
        return (
            f"x does not look like what this model was trained on: its residual is {self.ratio[worst]:.3g} x what the "
            f"model file expects at sigma {self.sigmas[worst]:.2g}; ncdeploy check looks for the cause"
        )

    def to_dict(self) -> dict[str, list[float]]:
        """JSON-able."""
        return {name: values.tolist() for name, values in vars(self).items()}


class EnergyMeter:
    """Collects T of the states that are final when they are evaluated: the first row of a sample in a call.

    plan: of the run. all_calls: measure in each call, as parallel runs do, which make few; of a sequential one some are
    enough, evenly over its nodes, the last one among them.
    """

    def __init__(self, plan: Plan, *, all_calls: bool) -> None:
        nodes = plan.evaluated.nonzero()[0]
        self._watched = None if all_calls else frozenset(nodes[:: -max(1, -(-len(nodes) // _CALLS))].tolist())
        self._squares: list[Any] = []
        self._sigmas: list[Floats] = []

    def add(self, x: Any, denoised: Any, sigma: Floats, node: NDArray[np.int64], sample: NDArray[np.int64]) -> None:
        """Of one call: rows [B, d], their levels and nodes [B], and whose they are, [B] or [1] of all."""
        if self._watched is not None and int(node[0]) not in self._watched:
            return
        if len(sample) == 1:
            x, denoised, sigma = x[:1], denoised[:1], sigma[:1]
        elif (again := sample[1:] == sample[:-1]).any():
            first = np.append(0, 1 + (~again).nonzero()[0])
            at = first if isinstance(x, np.ndarray) else namespace(x).asarray(first, device=device_of(x))
            x, denoised, sigma = x[at], denoised[at], sigma[first]
        difference = x - denoised
        self._squares.append(namespace(x).vecdot(difference, difference))
        self._sigmas.append(sigma)

    def saw(self, squares: Floats, sigma: Floats) -> None:
        """As `add`, of |x - D|^2 of the first row of each sample."""
        self._squares.append(squares)
        self._sigmas.append(sigma)

    def energy(self, curve: ErrorCurve, dim: int, samples: int) -> Energy:
        """What was found, beside what the curve leads to expect of so many samples."""
        sigma = np.concatenate(self._sigmas)
        squares = np.asarray(to_host(namespace(self._squares[0]).concat(self._squares)), np.float64)
        level = np.log10(sigma)
        group = np.floor(_PER_DECADE * level).astype(np.int64)
        group = group.max() - group
        count = np.bincount(group)
        kept = count > 0
        count = count[kept]
        T, expected, level = (
            np.bincount(group, weights=values)[kept] / count
            for values in (squares / (dim * sigma**2), expected_energy(curve, sigma), level)
        )
        band = allowance(expected, dim, np.minimum(count, samples))
        scale = np.maximum(expected, np.finfo(np.float32).eps)
        return Energy(sigmas=10**level, ratio=T / scale, band=band / scale)
