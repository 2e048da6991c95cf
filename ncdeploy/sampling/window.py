"""A plan's coefficients, laid out for a window that slides along the nodes.

A lane (one sample) keeps `reach` accepted nodes, the last of them its base, and `span` nodes after it.
Slot s of a lane with base b holds node b - (reach - 1) + s. All tables are padded with zeros beyond the
last node, so that a window may hang over the end.

The linear part of the rows is a lower-triangular system (I - M) X = u. Its inverse, restricted to
consecutive nodes, is a block of the inverse over the whole plan, so it is computed once, in float64 on the
host, and kept by lag: inverse[k, m] = ((I - M)^-1)[k, k - m].
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.plan import Floats, Plan


class WindowTables:
    """Tables of one plan for windows of `window` evaluated nodes; floats live on the sampling device.

    Host side, int64 [n]: `stop[b]`, the node behind the window that starts at base b; `next[k]`, the first
    node >= k that is evaluated or final; `previous[k]`, the last evaluated node < k.
    """

    def __init__(self, plan: Plan, window: int, jacobian: Floats | None, floor: float, xp: Any, like: Any) -> None:
        n, self.reach, self.final = len(plan), plan.reach, len(plan) - 1
        evaluated = np.flatnonzero(plan.evaluated)
        behind = np.append(evaluated, self.final)
        rank = np.searchsorted(evaluated, np.arange(n))
        self.next = behind[rank]
        self.stop = behind[np.minimum(rank + window, evaluated.size)]
        self.previous = evaluated[np.maximum(rank, 1) - 1]
        self.span = int(np.max((self.stop - np.arange(n))[evaluated]))
        self.evaluated = self._pad(plan.evaluated)
        self.sigmas = self._pad(plan.sigmas)
        with np.errstate(divide="ignore"):
            self.residual_scale = self._pad(1.0 / np.hypot(plan.sigmas, floor))

        self._xp, self._like = xp, like
        self.state = self.on_device(self._pad(plan.state))
        self.denoised = self.on_device(self._pad(plan.denoised))
        self.noise = self.on_device(self._pad(plan.noise))
        self.inverse = self.on_device(self._by_lag(plan.state))
        if jacobian is not None:
            g = np.where(plan.evaluated, jacobian, 0.0)
            back = np.maximum(np.arange(n)[:, None] - 1 - np.arange(self.reach), 0)
            self.jacobian = self.on_device(self._pad(g))
            self.inverse_jacobian = self.on_device(self._by_lag(plan.state + plan.denoised * g[back]))

        i = np.arange(self.span)
        self.running_sum = self.on_device(i[:, None] >= i)
        self._corner = xp.asarray(
            i[:, None] * (2 * self.span - 1) + (i[:, None] - i) + self.span - 1, device=device_of(like)
        )

    def on_device(self, array: Any) -> Any:
        """A host array as floats of the run's dtype on its device."""
        return self._xp.asarray(np.asarray(array), dtype=self._like.dtype, device=device_of(self._like))

    def triangle(self, by_lag: Any, k: Any) -> Any:
        """The inverse over consecutive nodes k [n, span] (on the device), [n, span, span] for n windows."""
        index = k[:, :1, None] * (2 * self.span - 1) + self._corner
        return self._xp.reshape(by_lag, (-1,))[index]

    def _pad(self, table: Any) -> Any:
        return np.concatenate([table, np.zeros((self.span, *table.shape[1:]), table.dtype)])

    def _by_lag(self, rows: Floats) -> Floats:
        """[n + span, 2 span - 1]: lags 1 - span ... span - 1; the negative ones are the zeros above the diagonal."""
        table = np.zeros((len(rows) + self.span, 2 * self.span - 1))
        table[:, self.span - 1 :] = inverse_by_lag(np, self._pad(rows), self.span)
        return table


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


def device_of(array: Any) -> Any:
    """The device of an array, None where the library has no such notion."""
    return getattr(array, "device", None)


def to_host(array: Any) -> NDArray[Any]:
    """An array of any library and device as a NumPy array."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)
