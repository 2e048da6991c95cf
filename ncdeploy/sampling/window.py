"""A plan's coefficients, laid out for a window that slides along the nodes.

A lane (one sample) keeps `reach` accepted nodes, the last of them its base, and `span` nodes after it.
Slot s of a lane with base b holds node b - (reach - 1) + s. All tables are padded with zeros beyond the
last node, so that a window may hang over the end.

The linear part of the rows is a lower-triangular system (I - M) X = u. Its inverse, restricted to
consecutive nodes, is a block of the inverse over the whole plan, so it is computed once, in float64 on the
host, and kept by lag: inverse[k, m] = ((I - M)^-1)[k, k - m].
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.arrays import device_of, lower_matmul
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.plan import Floats, Plan


class WindowTables:
    """Tables of one plan for windows of `window` evaluated nodes; floats live on the sampling device.

    Host side, int64 [n]: `stop[b]`, the node behind the window that starts at base b; `next[k]`, the first
    node >= k that is evaluated or final; `previous[k]`, the last evaluated node < k. `dense`: every node but the last
    is evaluated.
    `rows`: [n + span, 2 reach + 1], the coefficients of a node's row (state, denoised) and its own g; of a plan that
    cuts D its share in that stands before g, and so is the last column of `b` below.
    `residual_scale`: float64 [n + span], what makes the norm of a change a residual; 0 at nodes that are neither
    evaluated nor final.
    `corner`: int64 [span, span], where a lane's inverse lies in the table by lag, from the place of its first node on.
    `rank[k]`: evaluated nodes before node k; `ranked[r]`: the evaluated node with r before it, the final one at last.
    """

    def __init__(
        self,
        plan: Plan,
        window: int,
        curve: ErrorCurve | None,
        dim: int,
        floor: float,
        xp: Any,
        dtype: Any,
        device: Any,
    ) -> None:
        self.window, self.reach, self.final = window, plan.reach, len(plan) - 1
        n = len(plan)
        evaluated = np.flatnonzero(plan.evaluated)
        self.ranked = np.append(evaluated, self.final)
        self.rank = rank = np.searchsorted(evaluated, np.arange(n))
        self.next = self.ranked[rank]
        self.stop = self.ranked[np.minimum(rank + window, evaluated.size)]
        self.previous = evaluated[np.maximum(rank, 1) - 1]
        self.span = int(np.max((self.stop - np.arange(n))[evaluated]))
        self.evaluated, self.nodes = self._pad(plan.evaluated), np.arange(n + self.span)
        self.dense = bool(plan.evaluated[:-1].all())
        self.sigmas = self._pad(plan.sigmas)
        counts = plan.evaluated | (np.arange(n) == self.final)
        self.residual_scale = self._pad(counts / (np.hypot(plan.sigmas, floor) * np.sqrt(dim)))

        self._xp, self._dtype, self._device = xp, dtype, device
        g = np.zeros(n) if curve is None else np.where(plan.evaluated, curve.jacobian(plan.sigmas), 0.0)
        self.clip = plan.clip
        cut = np.zeros((n, 0)) if plan.cut is None else plan.cut[:, None]
        self.rows = self.on_device(self._pad(np.concatenate([plan.state, plan.denoised, cut, g[:, None]], axis=1)))
        self.state_reach = 1 + max(np.flatnonzero(np.any(plan.state, axis=0)), default=0)
        self.noise = self.on_device(self._pad(plan.noise))
        back = np.maximum(np.arange(n)[:, None] - 1 - np.arange(self.reach), 0)
        both = self._by_lag(np.stack([plan.state, plan.state + plan.denoised * g[back]]))
        self.inverse, self.inverse_jacobian = (xp.reshape(self.on_device(table), (-1,)) for table in both)
        self.slots = np.arange(self.reach + self.span)
        i = np.arange(self.span)
        self.running_sum = self.on_device(i[:, None] >= i)
        self.corner = xp.asarray(i[:, None] * (2 * self.span - 1) + i + self.span - 1, device=device)

    def on_device(self, array: Any) -> Any:
        """A host array as floats of the run's dtype on its device."""
        return self._xp.asarray(np.asarray(array), dtype=self._dtype, device=self._device)

    def solve(self, by_lag: Any, first: NDArray[np.int64], u: Any) -> Any:
        """inverse @ u, [n, span, d], over the nodes first, first + 1, ... of n windows."""
        xp = self._xp
        if self.span == 1:
            return u
        if len(first) > 1 and xp is not np:  # one product of gathered triangles beats many calls on a GPU
            corner = xp.asarray(first * 2 * self.span, device=self._device)[:, None, None]
            return xp.matmul(by_lag[corner + self.corner], u)
        out = xp.empty_like(u)
        for i, k in enumerate(first.tolist()):
            out[i] = lower_matmul(xp, self.triangle(by_lag, k), u[i])
        return out

    def from_outputs(self, b: Any, D: Any, follows: Any = None) -> Any:
        """What outputs D of all slots alone add to the states of windows, [n, span, d]; b: of the windows' rows.

        follows: [n, span, d], what is missing of the windows' outputs, because it is in the inverse; only who cuts
                 whole outputs asks for it
        """
        last, whole = self.reach - 1, D
        if self.clip is not None and follows is not None:
            whole = self._xp.concat([D[:, : self.reach], D[:, self.reach :] + follows], axis=1)
        for h in range(self.reach):
            slots = slice(last - h, last - h + self.span)
            taken = D[:, slots]
            if self.clip is not None:  # as `Plan.taken`
                output = whole[:, slots]
                taken = taken + b[:, :, -1:] * (self._xp.clip(output, -self.clip, self.clip) - output)
            if h == 0:
                u = b[:, :, :1] * taken
            else:
                u += b[:, :, h, None] * taken
        return u

    def right_side(self, a: Any, b: Any, x: Any, D: Any, follows: Any = None) -> Any:
        """Outputs and what is carried from accepted states, of which a solve makes those of windows, [n, span, d]."""
        last, u = self.reach - 1, self.from_outputs(b, D, follows)
        for h in range(self.state_reach):
            u[:, : h + 1] += a[:, : h + 1, h, None] * x[:, last - h : last + 1][:, : self.span]
        return u

    def filled(self, base: NDArray[np.int64], stop: NDArray[np.int64], near: Callable[[int], int]) -> NDArray[np.int64]:
        """Stops that make the call a full one: without the last nodes of the windows, or with nodes that had been
        dropped, as many as there are places that would be padding. near: the call's size by its rows."""
        before = self.rank[base]
        rows, full = self.rank[stop] - before, self.rank[self.stop[base]] - before
        total, size = int(rows.sum()), near(int(rows.sum()))
        if 2 * rows.size <= size < total:
            rows = np.maximum(rows * size // total, 1)
        room = full - rows
        filled: NDArray[np.int64] = self.ranked[
            before + rows + np.clip(size - rows.sum() - (np.cumsum(room) - room), 0, room)
        ]
        return filled

    def triangle(self, by_lag: Any, first: int) -> Any:
        """The inverse over the nodes first, first + 1, ...: a view [span, span]."""
        width = 2 * self.span
        corner = first * width + self.span - 1
        block = by_lag[corner : corner + self.span * (width - 1)]
        return self._xp.reshape(block, (self.span, width - 1))[:, : self.span]

    def consecutive(self, table: Any, first: NDArray[np.int64], length: int) -> Any:
        """Rows first, first + 1, ... of a table for n windows: [n, length, ...], a view for a single one."""
        if len(first) == 1:
            return table[int(first[0]) : int(first[0]) + length][None]
        index = first[:, None] + np.arange(length)
        return table[index if isinstance(table, np.ndarray) else self._xp.asarray(index, device=self._device)]

    def _pad(self, table: Any) -> Any:
        return np.concatenate([table, np.zeros((self.span, *table.shape[1:]), table.dtype)])

    def _by_lag(self, rows: Floats) -> Floats:
        """[..., n + span, 2 span], the inverse by falling lag, from span - 1 to -span.

        The negative lags are the zeros above the diagonal. So rows that begin one place further left each, as
        those of a flat view 2 span - 1 wide do, form the triangle.
        """
        *sets, n, _ = rows.shape
        table = np.zeros((*sets, n + self.span, 2 * self.span))
        table[..., :n, : self.span] = inverse_by_lag(np, rows, self.span)[..., ::-1]
        table[..., n:, self.span - 1] = 1.0
        return table


@lru_cache(maxsize=16)
def window_tables(
    plan: Plan, window: int, curve: ErrorCurve | None, dim: int, floor: float, xp: Any, dtype: Any, device: Any
) -> WindowTables:
    """The tables of a run, kept for the next ones: who serves samples runs the same plan over and over."""
    return WindowTables(plan, window, curve, dim, floor, xp, dtype, device)


def inverse_by_lag(xp: Any, rows: Any, lags: int) -> Any:
    """(I - M)^-1 by lag, [..., n, lags], of the banded strictly lower-triangular M[k, k-1-h] = rows[..., k, h].

    Row recursion: inverse[k, m] = sum_h M[k, k-1-h] inverse[k-1-h, m-1-h], inverse[k, 0] = 1. Entries whose
    column lies before the first row are 0.
    """
    n, reach = rows.shape[-2], rows.shape[-1]
    table = xp.zeros((lags, *rows.shape[:-1]), dtype=rows.dtype, device=device_of(rows))
    table[0] += 1
    for m in range(1, lags):
        for h in range(min(m, reach, n)):
            table[m, ..., h + 1 :] += rows[..., h + 1 :, h] * table[m - 1 - h, ..., : n - 1 - h]
    return xp.moveaxis(table, 0, -1)


def shifted(xp: Any, slots: Any, move: int, last: int) -> Any:
    """Slots [1, s, d] from `move` on, as slots 0 ...; those behind the old slot `last` repeat it."""
    kept = max(last + 1 - move, 0)
    out = xp.empty_like(slots)
    out[:, :kept] = slots[:, move : last + 1]
    out[:, kept:] = slots[:, last : last + 1]
    return out
