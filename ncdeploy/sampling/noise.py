"""Noise that depends on the seed, the node and nothing else.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a counter-based
generator: a block of four 32-bit words is a pure function of (seed, node, block). Box-Muller turns
them into four standard normals. So a sample is the same alone or in a batch, whatever the window,
and any language can draw the same numbers:

    key     = (seed & 0xffffffff, seed >> 32)
    counter = (block, node, 0, 0);  value i of a draw is lane i % 4 of block i // 4
    lanes   = r0, r1, r2, r3  ->  sqrt(-2 ln u(r0)) (cos, sin)(2 pi u(r1)), the same with r2, r3
    u(r)    = (r + 0.5) / 2^32
"""

import math
from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.sampling.arrays import device_of

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def check_seeds(seeds: Sequence[int] | Any) -> list[int]:
    """The seeds as a list of ints. Raises InputError unless each is an integer that fits 64 unsigned bits."""
    try:
        values = [index(s) for s in seeds]
    except TypeError as e:
        hint = f": seeds=range({seeds}) for {seeds}, seeds=[{seeds}] for one" if isinstance(seeds, int) else ""
        raise InputError(f"seeds: got {seeds!r}; expected one integer per sample{hint}") from e
    if not values:
        raise InputError("seeds: got none; give one per sample, for example seeds=range(16)")
    for s in values:
        if not 0 <= s < 2**64:
            raise InputError(f"seeds: got {s}; a seed lies in 0 .. 2^64 - 1")
    return values


def normal(xp: Any, seeds: Sequence[int], nodes: Any, dim: int, *, device: Any = None) -> Any:
    """Standard normal draws, float64 [n, m, dim], for n seeds at nodes [n, m] (int64, host).

    `xp` is an array-API namespace; the draws are made on `device` with its integer arithmetic.
    """
    keys = xp.asarray(round_keys(seeds), device=device)
    return normal_at(xp, keys, xp.asarray(np.array(nodes, np.int64), device=device), dim)


def normal_at(xp: Any, keys: Any, nodes: Any, dim: int) -> Any:
    """As `normal`, for seeds of which there are `round_keys` [10, 2, n], at nodes int64 [n, m], both on one device."""
    node = nodes[:, :, None]
    block = xp.arange(-(-dim // 4), dtype=xp.int64, device=device_of(nodes))[None, None, :]
    r = _philox(block, node, keys[..., None, None])
    shape = tuple(node.shape[:2])
    pairs = [part for a, b in (r[:2], r[2:]) for part in _box_muller(xp, a, b)]
    draws = xp.stack([xp.broadcast_to(p, (*shape, block.shape[-1])) for p in pairs], axis=-1)
    return xp.reshape(draws, (*shape, -1))[..., :dim]


def round_keys(seeds: Sequence[int]) -> NDArray[np.int64]:
    """[10, 2, n]: both words of the key of n seeds in every round."""
    words = np.array([[s & _MASK for s in seeds], [s >> 32 for s in seeds]], np.int64)
    rounds: NDArray[np.int64] = np.arange(_ROUNDS)[:, None, None]
    return np.asarray((words + rounds * np.array(_WEYL)[:, None]) & _MASK)


def _philox(c0: Any, c1: Any, keys: Any) -> tuple[Any, Any, Any, Any]:
    """Ten rounds on 32-bit words held in int64, whose products wrap modulo 2^64."""
    # Multipliers above 2^31 are taken modulo 2^64 as signed numbers; the wrapped product is the same.
    m0, m1 = _MULTIPLIERS
    c2 = c3 = c0 & 0
    for key in keys:
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ key[0], p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ key[1], p0 & _MASK
    return c0, c1, c2, c3


def _box_muller(xp: Any, a: Any, b: Any) -> tuple[Any, Any]:
    radius = xp.sqrt(-2.0 * xp.log((xp.astype(a, xp.float64) + 0.5) * 2.0**-32))
    angle = (xp.astype(b, xp.float64) + 0.5) * (2.0 * math.pi * 2.0**-32)
    return radius * xp.cos(angle), radius * xp.sin(angle)
