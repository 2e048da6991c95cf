"""The parallel driver: a fixed-point iteration over a sliding window of a plan's nodes.

One sweep evaluates D at every node of every sample's window in one network call, then solves the plan's
rows for new states. The linear part of the rows is exact, and with the scalar Jacobian g (the mean
diagonal of dD/dx) the solve also accounts for how D follows the states: D(x_new) is taken as
D(x_old) + g (x_new - x_old), which leaves the fixed point where it was. Nodes that stopped moving are
accepted from the front, at least one a sweep, because the first node of a window is exact.

The iteration is that of Shih et al. 2023 ("Parallel Sampling of Diffusion Models") with the linear part
exact, frozen outputs instead of frozen states for new nodes, and the Jacobian in the linear part.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.jacobian import OnlineJacobian
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.noise_window import NoiseWindow
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.result import Sweep
from ncdeploy.sampling.window import WindowTables, device_of

Ints = NDArray[np.int64]


class ParallelRun:
    """Samples in lanes; a lane that finishes takes the next sample, so nobody waits for the slowest.

    window:    evaluated nodes per sample and sweep
    tolerance: a node holds when the rms of its change is at most tolerance * hypot(sigma, floor)
    jacobian:  float64 [nodes], g at every node, or None to estimate it from the iterates
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
        lanes: int,
        like: Any,
    ) -> None:
        self.evaluator, self.plan, self.seeds, self.dim = evaluator, plan, seeds, dim
        self.tolerance, self.capacity, self.like, self.xp = tolerance, lanes, like, array_namespace(like)
        self.tables = WindowTables(plan, window, jacobian, floor, self.xp, like)
        self.online = OnlineJacobian(self.tables, self.xp) if jacobian is None else None
        self.noise = NoiseWindow(self.tables, plan, seeds, dim, self.xp, like)
        self.samples = self._zeros(len(seeds))
        self.sweeps = np.zeros(len(seeds), np.int64)
        self.residual = np.zeros(len(seeds))
        self.accepted = np.zeros(len(seeds), np.int64)

        self.waiting = deque(range(len(seeds)))
        self.lanes, self.base = np.zeros(0, np.int64), np.zeros(0, np.int64)
        slots = self.tables.reach + self.tables.span
        self.x, self.D = self._zeros(0, slots), self._zeros(0, slots)

    def run(self) -> Iterator[Sweep]:
        """Yield after every sweep, until every sample is accepted to its last node."""
        self._admit(np.zeros(0, np.int64), np.zeros(0, np.int64))
        while self.lanes.size:
            yield self._sweep()

    def _sweep(self) -> Sweep:
        t, xp, reach = self.tables, self.xp, self.tables.reach
        lanes, base = self.lanes, self.base
        rows = self._evaluate()
        node = (base + 1)[:, None] + np.arange(t.span)
        k = xp.asarray(node, device=device_of(self.like))

        x_old = self.x[:, reach:]
        if self.online is None:
            g = t.jacobian[k][..., None]
            inverse = t.triangle(t.inverse_jacobian, k[:, 0] - 1)
        else:
            g, inverse = self.online.update(self.x, self.D, k, stop=t.stop[base] - base)
        v = xp.concat([self.D[:, :reach], self.D[:, reach:] - g * x_old], axis=1)
        x_new = self._solve(inverse, v, k)
        change = x_new - x_old
        self.D[:, reach:] += g * change
        self.x[:, reach:] = x_new

        residual = np.asarray(xp.sqrt(xp.mean(change * change, axis=-1)).tolist()) * t.residual_scale[node]
        inside = t.evaluated[node] & (node < t.stop[base][:, None])
        moving = inside & ~(residual <= self.tolerance)
        accepted = np.where(moving.any(1), node[np.arange(len(base)), moving.argmax(1)], t.stop[base])
        held = inside & (node < accepted[:, None])
        self.residual[lanes] = np.maximum(self.residual[lanes], np.where(held, residual, 0).max(1))
        self.sweeps[lanes] += 1
        self.accepted[lanes] = accepted + (accepted == t.final)

        finished = np.flatnonzero(accepted == t.final)
        if finished.size:
            slot = t.final - base[finished] + reach - 1
            self.samples[lanes[finished]] = self.x[finished, slot]
        window = np.where(node <= t.stop[base][:, None], residual, 0.0)
        self._admit(np.flatnonzero(accepted < t.final), accepted)
        return Sweep(
            calls=self.evaluator.calls, rows=rows, accepted=self.accepted.copy(), nodes=len(self.plan),
            lanes=lanes, base=base, residual=window, _estimate=self._estimate,
        )  # fmt: skip

    def _evaluate(self) -> int:
        """D at every evaluated node of every window, in one call; returns the number of rows."""
        t, xp = self.tables, self.xp
        node = self.base[:, None] + np.arange(1 - t.reach, t.span + 1)
        due = (node >= self.base[:, None]) & (node < t.stop[self.base][:, None])
        due &= t.evaluated[np.where(due, node, 0)]
        lane, _ = np.nonzero(due)
        node = node[due]
        index = xp.asarray(np.flatnonzero(due), device=device_of(self.like))
        rows = xp.take(xp.reshape(self.x, (-1, self.dim)), index, axis=0)
        flat = xp.reshape(self.D, (-1, self.dim))
        flat[index] = self.evaluator(rows, t.sigmas[node], node, self.lanes[lane])
        self.D = xp.reshape(flat, tuple(self.x.shape))
        return len(node)

    def _solve(self, inverse: Any, v: Any, k: Any) -> Any:
        """New states of the window's nodes k: inverse @ (outputs v + carry from accepted states + noise)."""
        t, a, b = self.tables, self.tables.state[k], self.tables.denoised[k]
        u = self.noise.scaled(self.base)
        for h in range(t.reach):
            first = t.reach - 1 - h
            u = u + b[:, :, h, None] * v[:, first : first + t.span]
        for h in range(t.reach):
            first, rows = t.reach - 1 - h, min(h + 1, t.span)
            u[:, :rows] += a[:, :rows, h, None] * self.x[:, first : first + rows]
        return self.xp.matmul(inverse, u)

    def _admit(self, keep: Ints, accepted: Ints) -> None:
        """Slide the windows of the lanes `keep` to their accepted nodes and let waiting samples in.

        Nodes new to a window start from the last D before them, rolled out through the rows.
        """
        t, xp, device = self.tables, self.xp, device_of(self.like)
        fresh = [self.waiting.popleft() for _ in range(min(self.capacity - keep.size, len(self.waiting)))]
        if keep.size:
            move = accepted[keep] - self.base[keep]
            slot = np.arange(t.reach + t.span) + move[:, None]
            last = (t.last[self.base[keep]] - self.base[keep] + t.reach - 1)[:, None]
            row = xp.asarray(keep[:, None], device=device)
            state_slot = xp.asarray(np.minimum(slot, t.reach + t.span - 1), device=device)
            output_slot = xp.asarray(np.minimum(slot, last), device=device)
            x, D = self.x[row, state_slot], self.D[row, output_slot]
            if self.online is not None:
                self.online.slide(row, state_slot, output_slot, xp.asarray(slot <= last, device=device))
        else:
            x, D = self.x[:0], self.D[:0]
            if self.online is not None:
                self.online.clear()
        if fresh:
            start = self._zeros(len(fresh), t.reach + t.span)
            draws = normal(xp, [self.seeds[i] for i in fresh], np.zeros((len(fresh), 1)), self.dim, device=device)
            start[:, t.reach - 1] = xp.astype(draws[:, 0] * float(self.plan.noise[0]), self.like.dtype)
            x, D = xp.concat([x, start], axis=0), xp.concat([D, self._zeros(len(fresh), t.reach + t.span)], axis=0)
            if self.online is not None:
                self.online.extend(len(fresh), x)
        self.x, self.D = x, D
        self.lanes = np.concatenate([self.lanes[keep], np.array(fresh, np.int64)])
        self.base = np.concatenate([accepted[keep], np.zeros(len(fresh), np.int64)])
        if not self.lanes.size:
            return
        self.noise.place(keep, self.lanes, self.base)
        k = xp.asarray((self.base + 1)[:, None] + np.arange(t.span), device=device)
        self.x[:, t.reach :] = self._solve(t.triangle(t.inverse, k[:, 0] - 1), self.D, k)

    def _estimate(self) -> Any:
        estimate = self.xp.asarray(self.samples, copy=True)
        if self.lanes.size:
            slot = self.tables.last[self.base] - self.base + self.tables.reach - 1
            estimate[self.lanes] = self.D[np.arange(self.lanes.size), slot]
        return estimate

    def _zeros(self, *shape: int) -> Any:
        return self.xp.zeros((*shape, self.dim), dtype=self.like.dtype, device=device_of(self.like))
