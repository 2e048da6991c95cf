"""The parallel driver: a fixed-point iteration over a sliding window of a plan's nodes.

One sweep evaluates D at every node of every sample's window in one network call, then solves the plan's
rows for new states. The linear part of the rows is exact, and with the scalar Jacobian g (the mean
diagonal of dD/dx) the solve also accounts for how D follows the states: D(x_new) is taken as
D(x_old) + g (x_new - x_old), which leaves the fixed point where it was. Nodes that stopped moving are
accepted from the front, at least one a sweep, because the first node of a window is exact. Nodes at the
far end that still jump by a good part of their noise level are dropped and start anew later: evaluating
them is waste, and a wrong iterate there would have to be unlearned.

A node new to a window has no output yet. Along the trajectory of an ODE plan D hardly changes, so it
starts from the last D before it; in an SDE plan D is a martingale driven by the injected noise, so it also
moves by g times that noise. The first window of all starts from the data mean.

The iteration is that of Shih et al. 2023 ("Parallel Sampling of Diffusion Models") with the linear part
exact, frozen outputs instead of frozen states for new nodes, and the Jacobian in the linear part.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_namespace
from numpy.typing import NDArray

from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.jacobian import OnlineJacobian
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.noise_window import NoiseWindow
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.result import Sweep
from ncdeploy.sampling.window import WindowTables, device_of, to_host

Ints = NDArray[np.int64]

_JUMP = 0.3  # a node whose state changed by more than this part of its noise level is not worth keeping
_KEEP = 16  # but this many nodes behind the base always are


class ParallelRun:
    """Samples in lanes; a lane that finishes takes the next sample, so nobody waits for the slowest.

    window:    evaluated nodes per sample and sweep
    tolerance: a node holds when the rms of its change is at most tolerance * hypot(sigma, floor)
    jacobian:  float64 [nodes], g at every node, or None to estimate it from the iterates
    mean:      [dim], the data mean, first guess of D; or None for zero
    lanes:     samples worked on at once
    """

    def __init__(
        self,
        evaluator: Evaluator,
        plan: Plan,
        *,
        seeds: list[int],
        dim: int,
        window: int,
        tolerance: float,
        floor: float,
        jacobian: Floats | None,
        mean: Floats | None,
        lanes: int,
        like: Any,
    ) -> None:
        self.evaluator, self.plan, self.seeds, self.dim = evaluator, plan, seeds, dim
        self.tolerance, self.capacity, self.like, self.xp = tolerance, lanes, like, array_namespace(like)
        self.on_host = is_numpy_namespace(self.xp)
        self.tables = WindowTables(plan, window, jacobian, floor, self.xp, like)
        self.online = OnlineJacobian(self.tables, self.xp, like, dim) if jacobian is None else None
        self.noise = NoiseWindow(self.tables, plan, seeds, dim, self.xp, like)
        self.mean = self.tables.on_device(np.zeros(dim) if mean is None else mean)
        self.samples = self._zeros(len(seeds))
        self.sweeps = np.zeros(len(seeds), np.int64)
        self.residual = np.zeros(len(seeds))
        self.accepted = np.zeros(len(seeds), np.int64)

        self.waiting = deque(range(len(seeds)))
        self.lanes, self.base, self.stop = (np.zeros(0, np.int64) for _ in range(3))
        slots = self.tables.reach + self.tables.span
        self.x, self.D = self._zeros(0, slots), self._zeros(0, slots)

    def run(self) -> Iterator[Sweep]:
        """Yield after every sweep, until every sample is accepted to its last node."""
        nobody = np.zeros(0, np.int64)
        self._slide(nobody, nobody, nobody)
        while self.lanes.size:
            yield self._sweep()

    def _sweep(self) -> Sweep:
        t, xp, reach = self.tables, self.xp, self.tables.reach
        lanes, base, stop = self.lanes, self.base, self.stop
        self._evaluate()

        x_old = self.x[:, reach:]
        if self.online is None:
            g = t.jacobian[self.k][..., None]
            inverse = t.triangle(t.inverse_jacobian, self.k)
        else:
            g, inverse = self.online.update(self.x, self.D, self.a, self.b)
        v = xp.asarray(self.D, copy=True)
        v[:, reach:] -= g * x_old
        x_new = self._solve(inverse, v)
        change = x_new - x_old
        self.D[:, reach:] += g * change
        self.x[:, reach:] = x_new

        node, inside = self.node[:, 1:], self.due[:, 1:]
        residual = np.sqrt(to_host(xp.sum(change * change, axis=-1)) / self.dim) * t.residual_scale[node]
        accepted = _first(inside & ~(residual <= self.tolerance), base + 1, stop)
        jumping = ~(residual <= _JUMP) & (node > (accepted + _KEEP)[:, None])
        steady = _first(inside & jumping, base + 1, t.final)

        held = inside & (node < accepted[:, None])
        self.residual[lanes] = np.maximum(self.residual[lanes], np.where(held, residual, 0).max(1))
        self.sweeps[lanes] += 1
        self.accepted[lanes] = accepted + (accepted == t.final)
        finished = np.flatnonzero(accepted == t.final)
        if finished.size:
            self.samples[lanes[finished]] = self.x[finished, t.final - base[finished] + reach - 1]
        shown, rows = residual * (node <= stop[:, None]), int(np.count_nonzero(self.due))
        self._slide(np.flatnonzero(accepted < t.final), accepted, steady)
        return Sweep(
            calls=self.evaluator.calls, rows=rows, accepted=self.accepted.copy(), nodes=len(self.plan),
            lanes=lanes, base=base, residual=shown, _estimate=self._estimate,
        )  # fmt: skip

    def _evaluate(self) -> None:
        """D at every evaluated node of every window, in one call."""
        t, xp = self.tables, self.xp
        lane, place = self.due.nonzero()
        node = self.base[lane] + place
        index = self._index(lane * (t.reach + t.span) + (t.reach - 1) + place)
        rows = xp.reshape(self.x, (-1, self.dim))[index]
        flat = xp.reshape(self.D, (-1, self.dim))
        flat[index] = self.evaluator(rows, t.sigmas[node], node, self.lanes[lane])
        self.D = xp.reshape(flat, tuple(self.x.shape))

    def _solve(self, inverse: Any, v: Any) -> Any:
        """New states of the windows: inverse @ (outputs v + carry from accepted states + noise)."""
        t = self.tables
        u = self.noise.now
        for h in range(t.reach):
            first = t.reach - 1 - h
            u = u + self.b[:, :, h, None] * v[:, first : first + t.span]
        for h in range(t.reach):
            first, rows = t.reach - 1 - h, min(h + 1, t.span)
            u[:, :rows] += self.a[:, :rows, h, None] * self.x[:, first : first + rows]
        return self.xp.matmul(inverse, u)

    def _slide(self, keep: Ints, accepted: Ints, steady: Ints) -> None:
        """Move the windows of the lanes `keep` to their accepted nodes and let waiting samples in.

        accepted, steady: per old lane, the new base, and the first node that jumped too far to keep.
        """
        t = self.tables
        slots = np.arange(t.reach + t.span)
        move = (accepted - self.base)[keep][:, None]
        last = (t.previous[np.minimum(steady, self.stop)[keep]] - self.base[keep] + t.reach - 1)[:, None]
        known = slots + move <= last
        row, state_slot, output_slot = (
            self._index(i) for i in (keep[:, None], np.minimum(slots + move, slots[-1]), np.minimum(slots + move, last))
        )
        self.x, self.D = self.x[row, state_slot], self.D[row, output_slot]
        if self.online is not None:
            self.online.slide(row, state_slot, output_slot, self._index(known))
        self.lanes, self.base = self.lanes[keep], accepted[keep]
        self.stop = np.minimum(t.stop[self.base], t.next[steady[keep]])
        if self.waiting:
            known = np.concatenate([known, self._admit()])
        if not self.lanes.size:
            return

        self.noise.place(keep, self.lanes, self.base)
        self.node = self.base[:, None] + np.arange(t.span + 1)
        self.due = t.evaluated[self.node] & (self.node < self.stop[:, None])
        self.k = self._index(self.node[:, 1:])
        self.a, self.b = t.state[self.k], t.denoised[self.k]
        if self.plan.stochastic:
            g = t.jacobian[self.k] if self.online is None else self.online.values()
            g = g * self._index(~known[:, t.reach :])
            self.D[:, t.reach :] += self.xp.matmul(t.running_sum, g[..., None] * self.noise.now)
        self.x[:, t.reach :] = self._solve(t.triangle(t.inverse, self.k), self.D)

    def _admit(self) -> NDArray[np.bool_]:
        """Give free lanes to waiting samples; returns which of their slots hold outputs worth keeping: none."""
        t, xp = self.tables, self.xp
        n = min(self.capacity - self.lanes.size, len(self.waiting))
        slots = t.reach + t.span
        if n:
            fresh = [self.waiting.popleft() for _ in range(n)]
            draws = normal(xp, [self.seeds[i] for i in fresh], [[0]] * n, self.dim, device=device_of(self.like))
            x = self._zeros(n, slots)
            x[:, t.reach - 1] = xp.astype(draws[:, 0] * float(self.plan.noise[0]), x.dtype)
            self.x = xp.concat([self.x, x], axis=0)
            self.D = xp.concat([self.D, xp.broadcast_to(self.mean, (n, slots, self.dim))], axis=0)
            if self.online is not None:
                self.online.extend(n)
            self.lanes = np.concatenate([self.lanes, np.array(fresh, np.int64)])
            self.base = np.concatenate([self.base, np.zeros(n, np.int64)])
            self.stop = np.concatenate([self.stop, np.full(n, t.stop[0])])
        return np.zeros((n, slots), bool)

    def _estimate(self) -> Any:
        estimate = self.xp.asarray(self.samples, copy=True)
        if self.lanes.size:
            slot = self.tables.previous[self.stop] - self.base + self.tables.reach - 1
            estimate[self.lanes] = self.D[np.arange(self.lanes.size), slot]
        return self.xp.reshape(estimate, (-1, *self.evaluator.shape))

    def _index(self, array: Any) -> Any:
        """Host indices as an array of the run's kind, on its device."""
        return array if self.on_host else self.xp.asarray(array, device=device_of(self.like))

    def _zeros(self, *shape: int) -> Any:
        return self.xp.zeros((*shape, self.dim), dtype=self.like.dtype, device=device_of(self.like))


def _first(mask: NDArray[np.bool_], start: Ints, default: Ints | int) -> Ints:
    """Per lane, the first node where the mask over nodes start, start + 1, ... holds; `default` where it never does."""
    place = mask.argmax(axis=1)
    return np.where(mask[np.arange(len(mask)), place], start + place, default)
