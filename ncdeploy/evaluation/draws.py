"""Random numbers for integrals over noise levels and Gaussian noise, spread more evenly than independent ones.

Each number by itself has the law it should have, so that averages stay unbiased; together they cover it.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GOLDEN = (math.sqrt(5) - 1) / 2


def shifted_grid(rng: np.random.Generator, rows: int, count: int) -> Floats:
    """Quantiles [rows, count] in (0, 1), increasing: an even grid, moved by one uniform draw per row."""
    u = (np.arange(count) + rng.random((rows, 1))) / count
    return np.clip(u, 1e-12, 1 - 1e-12)


def spread_noise(rng: np.random.Generator, rows: int, count: int, *, dim: int) -> Floats:
    """Standard normal vectors [rows, count, dim].

    In each row, min(dim, count) vectors that follow one another are orthogonal, and the lengths are a Kronecker
    sequence in their own law, chi with dim degrees of freedom. Both make quadratic forms in the noise average out.
    """
    block = min(dim, count)
    blocks = -(-count // block)
    q, r = np.linalg.qr(rng.standard_normal((rows, blocks, dim, block)))
    q *= np.where(np.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[..., None, :]  # Haar measure asks for it
    directions = np.swapaxes(q, -1, -2).reshape(rows, blocks * block, dim)[:, :count]
    u = (np.arange(count) * _GOLDEN + rng.random((rows, 1))) % 1.0
    below, radius = _chi(dim)
    return np.asarray(directions * np.interp(u, below, radius)[..., None])


@lru_cache(maxsize=8)
def _chi(dim: int) -> tuple[Floats, Floats]:
    """The distribution of |n| for n standard normal in dim dimensions: cumulative probability, and radius."""
    edges = np.linspace(max(0.0, math.sqrt(dim) - 9), math.sqrt(dim) + 9, 100_001)
    middle = (edges[1:] + edges[:-1]) / 2
    log_density = (dim - 1) * np.log(middle) - middle**2 / 2
    below = np.concatenate([[0.0], np.cumsum(np.exp(log_density - log_density.max()))])
    return below / below[-1], edges
