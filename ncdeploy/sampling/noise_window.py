"""The noise of the nodes in a sliding window, drawn ahead and scaled by the plan's coefficients."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.arrays import device_of
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.window import WindowTables

Ints = NDArray[np.int64]

_WINDOWS = 6  # a window's length of every block is drawn twice
_LEAST = 32  # nodes of a block: the generator works best on many values


class NoiseWindow:
    """Per lane, noise[k] xi_k for a block of several windows of nodes, so that draws come in large batches.

    now: the noise of the windows as placed, [n, span, dim]; only for plans that draw any
    """

    def __init__(self, tables: WindowTables, plan: Plan, seeds: list[int], dim: int, xp: Any, like: Any) -> None:
        self._tables, self._seeds, self._dim, self._xp, self._like = tables, seeds, dim, xp, like
        self._nodes = len(plan)
        self._length = min(max(_WINDOWS * tables.span, _LEAST), len(plan) - 1 + tables.span)
        self._first = np.zeros(0, np.int64)
        self._block = self.now = self._empty(0)

    def place(self, keep: Ints, lanes: Ints, base: Ints) -> None:
        """Lanes were re-ordered: the first keep.size ones are old lanes `keep`, the rest are new; all have moved."""
        xp, span, device = self._xp, self._tables.span, device_of(self._like)
        n = len(lanes)
        block, first = self._block, self._first
        if not keep.size == n == len(first):
            block, first = self._empty(n), np.full(n, -self._length)
            if len(self._first):  # else nothing has been placed yet
                block[: keep.size] = self._block[xp.asarray(keep, device=device)]
                first[: keep.size] = self._first[keep]
        short = np.flatnonzero(base + 1 + span > first + self._length)
        if short.size:
            first[short] = base[short] + 1
            # Nodes behind the plan's end have coefficient 0, so that any draw does: blocks end there, where all do.
            drawn = min(self._length, self._nodes - int(first[short].min()))
            node = first[short][:, None] + np.arange(drawn)
            draws = normal(xp, [self._seeds[i] for i in lanes[short]], node, self._dim, device=device)
            scale = self._tables.noise[xp.asarray(np.minimum(node, self._nodes), device=device)]
            at = xp.asarray(short, device=device)
            block[at, :drawn] = scale[..., None] * xp.astype(draws, self._like.dtype)
            block[at, drawn:] = 0.0
        self._block, self._first = block, first
        if n == 1:
            begin = int(base[0] + 1 - first[0])
            self.now = block[:, begin : begin + span]
        else:
            offset = (base + 1 - first)[:, None] + np.arange(span)
            self.now = block[xp.arange(n, device=device)[:, None], xp.asarray(offset, device=device)]

    def _empty(self, n: int) -> Any:
        return self._xp.zeros((n, self._length, self._dim), dtype=self._like.dtype, device=device_of(self._like))
