"""The scalar Jacobian g = tr(dD/dx)/d where no denoising-error curve is known: a secant per node.

Two evaluations at one node give g = <dD, dx> / <dx, dx>, clamped to [0, 1] and averaged half and half
with its last value. New nodes inherit the value of the last node before them.
"""

from typing import Any

from ncdeploy.sampling.arrays import device_of
from ncdeploy.sampling.window import WindowTables, inverse_by_lag


class OnlineJacobian:
    """Secant estimates for every slot of every lane; slots as in WindowTables."""

    def __init__(self, tables: WindowTables, xp: Any, like: Any, dim: int) -> None:
        self._tables, self._xp = tables, xp
        slots = tables.reach + tables.span
        self._x = self._D = xp.zeros((0, slots, dim), dtype=like.dtype, device=device_of(like))
        self._g = self._x[..., 0]
        self._seen = self._g > 0

    def tensors(self) -> tuple[Any, Any, Any, Any]:
        """All that it knows; `hold` takes it back."""
        return self._x, self._D, self._g, self._seen

    def hold(self, tensors: tuple[Any, ...]) -> None:
        """Go on from what `tensors` gave."""
        self._x, self._D, self._g, self._seen = tensors

    def update(self, x: Any, D: Any, a: Any, b: Any) -> tuple[Any, Any]:
        """Take in new evaluations D at x [n, slots, d]; returns g [n, span, 1] and the inverse [n, span, span].

        a, b [n, span, reach]: the plan's rows of the windows' nodes.
        """
        xp, t = self._xp, self._tables
        dx = x - self._x
        norm = xp.sum(dx * dx, axis=-1)
        usable = self._seen & (norm > 0)
        secant = xp.sum((D - self._D) * dx, axis=-1) / xp.where(usable, norm, xp.ones_like(norm))
        self._g = xp.where(usable, (self._g + xp.clip(secant, 0.0, 1.0)) / 2, self._g)
        self._x, self._D = xp.asarray(x, copy=True), xp.asarray(D, copy=True)
        self._seen = xp.ones_like(self._seen)

        rows = [a[..., h] + b[..., h] * self._g[:, t.reach - 1 - h : t.reach - 1 - h + t.span] for h in range(t.reach)]
        lag = inverse_by_lag(xp, xp.stack(rows, axis=-1), t.span)
        return self.values(), _dense(xp, lag)

    def values(self) -> Any:
        """g of the window's nodes, [n, span, 1]."""
        return self._g[:, self._tables.reach :, None]

    def slide(self, row: Any, state_slot: Any, output_slot: Any, known: Any) -> None:
        """Re-order lanes to `row` and move their slots; slots not `known` start anew."""
        self._x, self._D = self._x[row, state_slot], self._D[row, state_slot]
        self._g, self._seen = self._g[row, output_slot], self._seen[row, state_slot] & known

    def resize(self, tables: WindowTables) -> None:
        """Go on with windows of another size, from their first slot on; further slots have not been evaluated."""
        self._tables = tables
        slots = tables.reach + tables.span
        for name in ("_x", "_D", "_g", "_seen"):
            old = getattr(self, name)
            new = self._xp.zeros((len(old), slots, *old.shape[2:]), dtype=old.dtype, device=device_of(old))
            held = min(slots, old.shape[1])
            new[:, :held] = old[:, :held]
            if name == "_g":
                new[:, held:] = old[:, held - 1 : held]
            setattr(self, name, new)

    def extend(self, n: int) -> None:
        """Append n lanes that have not been evaluated."""
        xp = self._xp
        for name in ("_x", "_D", "_g", "_seen"):
            old = getattr(self, name)
            fresh = xp.zeros((n, *old.shape[1:]), dtype=old.dtype, device=device_of(old))
            setattr(self, name, xp.concat([old, fresh], axis=0))


def _dense(xp: Any, lag: Any) -> Any:
    """[n, span, lags] by lag -> lower-triangular [n, span, span]."""
    n, span = lag.shape[0], lag.shape[1]
    i = xp.arange(span, device=device_of(lag))
    column = i[:, None] - i[None, :]
    gathered = lag[:, i[:, None], xp.clip(column, 0, span - 1)]
    return xp.where((column >= 0)[None], gathered, xp.zeros((n, 1, 1), dtype=lag.dtype, device=gathered.device))
