"""Distances between two sets of samples.

`energy_distance` and `mmd` are V-statistics, zero for equal sets and never negative. A V-statistic counts each point's
distance to itself, so its value between two finite draws from one distribution is above zero and falls with the sizes.
Always read it beside a floor: the same number between two sets of real data of those sizes.

`estimate_energy_distance` is the U-statistic, which leaves those out: right in the mean whatever the sizes, about zero
for two draws from one distribution and then as often below as above, with a standard error.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.errors import InputError

Floats = NDArray[np.float64]

_CHUNK_VALUES = 1 << 22  # distances held at a time: 32 MiB


def energy_distance(a: ArrayLike, b: ArrayLike) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| with x, x' from a [n, ...] and y, y' from b [m, ...].

    Euclidean distance over all axes but the first, in the units of the data. Zero only for equal
    distributions (Szekely and Rizzo 2013, "Energy statistics", eq. 5). Raises InputError when the
    sets are empty, do not match or hold NaN.
    """
    return _v_statistic(a, b, lambda square: -np.sqrt(square))


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """A mean over samples, or what behaves like one.

    shares: for every sample of each set the value is taken over, how much more than the value it speaks for; the
            value's error is that of a mean of them
    """

    value: float
    shares: tuple[Floats, ...]

    @property
    def error(self) -> float:
        """Standard error of the value."""
        return _error(self.shares)

    def beyond(self, other: "Estimate") -> tuple[float, float]:
        """This value less that of another over the same samples or seeds, and the standard error of the difference:
        far less than that of either where what they share makes most of it."""
        return self.value - other.value, _error([a - b for a, b in zip(self.shares, other.shares, strict=True)])


def _error(shares: Sequence[Floats]) -> float:
    return float(np.sqrt(sum(share.var(ddof=1) / len(share) for share in shares)))


def estimate_energy_distance(a: ArrayLike, b: ArrayLike) -> Estimate:
    """`energy_distance` as a U-statistic, with the standard error of its linear part (the infinitesimal jackknife).

    a [n, ...], b [m, ...], both of 2 or more samples. Where both are from one distribution the linear part is zero, and
    the error errs upwards. Raises InputError as `energy_distance` does, and for single samples.
    """
    x, y = _matched(a, b)
    if min(len(x), len(y)) < 2:
        raise InputError(f"sets of samples: got {len(x)} and {len(y)}, expected at least 2 of each")
    across = np.zeros(len(y))
    to_y = np.concatenate([_add(across, np.sqrt(block)) for block in _squares(x, y)]) / len(y)
    within_x, within_y = (
        np.concatenate([np.sqrt(block).sum(axis=1) for block in _squares(z, z)]) / (len(z) - 1) for z in (x, y)
    )
    value = float(2 * to_y.mean() - within_x.mean() - within_y.mean())
    shares = (2 * (to_y - within_x), 2 * (across / len(x) - within_y))
    return Estimate(value=value, shares=tuple(share - share.mean() for share in shares))


def _add(columns: Floats, block: Floats) -> Floats:
    """Row sums of a block, whose column sums are added to `columns`."""
    columns += block.sum(axis=0)
    return np.asarray(block.sum(axis=1))


def mmd(a: ArrayLike, b: ArrayLike, *, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy under the kernel exp(-|x - y|^2 / 2 bandwidth^2).

    a [n, ...], b [m, ...]; bandwidth in the units of the data, by default `median_distance(a, b)`
    (Gretton et al. 2012, "A kernel two-sample test", eq. 5). Raises InputError as `energy_distance`
    does, and for a bandwidth that is not positive.
    """
    if bandwidth is None:
        bandwidth = median_distance(a, b)
    if not 0 < bandwidth < np.inf:
        raise InputError(f"bandwidth: got {bandwidth}, expected a positive number (are all samples equal?)")
    return _v_statistic(a, b, lambda square: np.exp(-square / (2 * bandwidth**2)))


def median_distance(a: ArrayLike, b: ArrayLike, *, most: int = 1000) -> float:
    """Median Euclidean distance between different points of a and b together, the usual bandwidth.

    At most `most` points are looked at, evenly spread over both sets, so the answer is the same every time.
    """
    points = np.concatenate(_matched(a, b))
    points = points[np.linspace(0, len(points) - 1, min(most, len(points))).astype(int)]
    square = np.concatenate(list(_squares(points, points)))
    return float(np.sqrt(np.median(square[np.triu_indices(len(points), 1)])))


def _v_statistic(a: ArrayLike, b: ArrayLike, kernel: Callable[[Floats], Floats]) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) for a kernel of the squared distance."""
    x, y = _matched(a, b)
    within = _mean(x, x, kernel) + _mean(y, y, kernel)
    return max(within - 2 * _mean(x, y, kernel), 0.0)  # rounding can leave -1e-16


def _mean(x: Floats, y: Floats, kernel: Callable[[Floats], Floats]) -> float:
    return float(sum(kernel(block).sum() for block in _squares(x, y)) / (len(x) * len(y)))


def _squares(x: Floats, y: Floats) -> Iterator[Floats]:
    """Squared distances [rows, len(y)], a block of rows of x at a time."""
    norm_x, norm_y = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
    rows = max(1, _CHUNK_VALUES // len(y))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        square = norm_x[part, None] + norm_y - 2 * x[part] @ y.T
        # Below the rounding of that difference the points coincide, and sqrt would make much of it.
        square[square < 1e-13 * (norm_x[part, None] + norm_y)] = 0.0
        yield square


def _matched(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Both sets as float64 [n, d] and [m, d], moved to a common centre (distances do not notice, rounding does)."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(x.ndim, y.ndim) < 2 or x.shape[1:] != y.shape[1:] or 0 in x.shape or 0 in y.shape:
        raise InputError(f"sets of samples: got shapes {x.shape} and {y.shape}, expected (n, ...) and (m, ...) alike")
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("sets of samples: hold NaN or infinity")
    centre = (x.mean(axis=0) + y.mean(axis=0)) / 2
    return x - centre, y - centre
