"""The noise of the nodes in a sliding window, drawn ahead and scaled by the plan's coefficients."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.window import WindowTables, device_of

Ints = NDArray[np.int64]


class NoiseWindow:
    """Per lane, noise[k] xi_k for a block of nodes three windows long, so that draws come in large batches."""

    def __init__(self, tables: WindowTables, plan: Plan, seeds: list[int], dim: int, xp: Any, like: Any) -> None:
        self._tables, self._seeds, self._dim, self._xp, self._like = tables, seeds, dim, xp, like
        self._active = plan.stochastic
        self._length = min(3 * tables.span, len(plan) - 1 + tables.span)
        self._first = np.zeros(0, np.int64)
        self._block = self._empty(0)

    def place(self, keep: Ints, lanes: Ints, base: Ints) -> None:
        """Lanes were re-ordered: the first keep.size ones are old lanes `keep`, the rest are new; all have moved."""
        if not self._active:
            return
        n = len(lanes)
        block = self._empty(n)
        block[: keep.size] = self._block[self._xp.asarray(keep, device=device_of(self._like))]
        first = np.full(n, -self._length)
        first[: keep.size] = self._first[keep]
        short = np.flatnonzero(base + 1 + self._tables.span > first + self._length)
        if short.size:
            first[short] = base[short] + 1
            node = first[short][:, None] + np.arange(self._length)
            device = device_of(self._like)
            draws = normal(self._xp, [self._seeds[i] for i in lanes[short]], node, self._dim, device=device)
            # Nodes behind the plan's end have coefficient 0; the table is padded by one span only.
            node = np.minimum(node, len(self._tables.sigmas) - 1)
            scale = self._tables.noise[self._xp.asarray(node, device=device)]
            scaled = scale[..., None] * self._xp.astype(draws, self._like.dtype)
            block[self._xp.asarray(short, device=device)] = scaled
        self._block, self._first = block, first

    def scaled(self, base: Ints) -> Any:
        """noise[k] xi_k for nodes base + 1 ... base + span of every lane, a fresh array [n, span, dim]."""
        xp, span, device = self._xp, self._tables.span, device_of(self._like)
        if not self._active:
            return xp.zeros((len(base), span, self._dim), dtype=self._like.dtype, device=device)
        offset = (base + 1 - self._first)[:, None] + np.arange(span)
        return self._block[xp.arange(len(base), device=device)[:, None], xp.asarray(offset, device=device)]

    def _empty(self, n: int) -> Any:
        return self._xp.zeros((n, self._length, self._dim), dtype=self._like.dtype, device=device_of(self._like))
