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
from numpy.typing import NDArray

from ncdeploy.sampling.arrays import device_of, lower_matmul, namespace, read_back
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.jacobian import OnlineJacobian
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.noise_window import NoiseWindow
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.result import Sweep
from ncdeploy.sampling.sequential import zero_outputs
from ncdeploy.sampling.window import WindowTables, shifted, window_tables

Ints = NDArray[np.int64]
Asked = tuple[Any, Floats, Ints, Ints]  # x [B, d]; sigma [B] and node [B]; sample [B], or [1] of all

TOLERANCE = 1e-3  # of acceptance, where none is given
ERROR_FLOOR = 0.1  # in model units; the tolerance is absolute below this noise level
JUMP = 0.3  # a node whose state changed by more than this part of its noise level is not worth keeping
KEEP = 16  # but this many nodes behind the base always are


class ParallelRun:
    """Samples in lanes; a lane that finishes takes the next sample, so nobody waits for the slowest.

    window:    evaluated nodes per sample and sweep; may be changed while running
    tolerance: a node holds when the rms of its change is at most tolerance * hypot(sigma, floor)
    curve:     the denoising error that gives g at every node, or None to estimate it from the iterates
    mean:      [dim], the data mean, first guess of D; or None for zero
    lanes:     samples worked on at once
    start:     first guess of D in place of the mean: [n, 1, d] for all nodes, or [n, nodes, d] of an earlier run of the
               same seeds, which nodes new to a window follow then
    keep:      whether `outputs` holds D at every accepted node, [n, nodes, d]; else it is None
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
        curve: ErrorCurve | None,
        mean: Floats | None,
        lanes: int,
        like: Any,
        start: Any = None,
        keep: bool = False,
    ) -> None:
        self.evaluator, self.plan, self.seeds, self.dim = evaluator, plan, seeds, dim
        self.tolerance, self.capacity, self.like, self.xp = tolerance, lanes, like, namespace(like)
        self.on_host = self.xp is np
        self.window, self._curve, self._floor = window, curve, floor
        self.tables = self._tables()
        self.online = OnlineJacobian(self.tables, self.xp, like, dim) if curve is None else None
        self.noise = NoiseWindow(self.tables, plan, seeds, dim, self.xp, like)
        self.mean = self.tables.on_device(np.zeros(dim) if mean is None else mean)
        self.start = start
        self.outputs = zero_outputs(len(seeds), plan, dim, like) if keep else None
        self.samples = self._zeros(len(seeds))
        self.sweeps = np.zeros(len(seeds), np.int64)
        self.residual = np.zeros(len(seeds))
        self.accepted = np.zeros(len(seeds), np.int64)
        self.calls = 0

        self.waiting = deque(range(len(seeds)))
        self.lanes, self.base, self.stop = (np.zeros(0, np.int64) for _ in range(3))
        slots = self.tables.reach + self.tables.span
        self.x, self.D = self._zeros(0, slots), self._zeros(0, slots)

    def run(self) -> Iterator[Sweep]:
        """Yield after every sweep, until every sample is accepted to its last node."""
        self.begin()
        while self.lanes.size:
            sweep = self.take(self.evaluator(*self.ask()))
            self.evaluator.check()
            yield sweep

    def begin(self) -> None:
        """Let samples into the lanes, of which none is taken."""
        nobody = np.zeros(0, np.int64)
        self._slide(nobody, nobody, nobody)

    def ask(self) -> Asked:
        """What the sweep has to know: every evaluated node of every window, as rows of a network call."""
        t, first = self.tables, self.tables.reach - 1
        nodes = self.base[:, None] + np.arange(t.span + 1)
        stop = self.stop[:, None]
        due = t.consecutive(t.evaluated, self.base, t.span + 1) & (nodes < stop)
        self.inside, self.behind = due[:, 1:], self.node >= stop
        self.scale = t.consecutive(t.residual_scale, self.base + 1, t.span) * (self.node <= stop)
        x = self.x.reshape((-1, self.dim))  # a view: contiguous
        if len(self.lanes) == 1 and t.dense:  # one sample without gaps between its nodes is a slice
            base, end = int(self.base[0]), int(self.stop[0])
            self._at, node = slice(first, first + end - base), slice(base, end)
            self._rows = end - base
            return x[self._at], t.sigmas[node], t.nodes[node], self.lanes
        lane, place = due.nonzero()
        at = self.base[lane] + place
        self._rows, self._at = len(lane), self._index(lane * (t.reach + t.span) + place + first)
        return x[self._at], t.sigmas[at], at, self.lanes[lane]

    def take(self, outputs: Any) -> Sweep:
        """The rest of the sweep, with D of the rows that were asked for; afterwards the windows are where the next one
        finds them."""
        self.D.reshape((-1, self.dim))[self._at] = outputs
        self.calls += 1
        return self._sweep()

    def _sweep(self) -> Sweep:
        t, xp, reach = self.tables, self.xp, self.tables.reach
        lanes, base = self.lanes, self.base

        x_old = self.x[:, reach:]
        if self.online is None:
            g, inverse = self.g, t.inverse_jacobian
        else:
            g, inverse = self.online.update(self.x, self.D, self.a, self.b)
        D = self.D[:, reach:]
        follows = g * x_old  # is in the inverse, and the rest does not follow the states
        D -= follows
        x_new = self._solve(inverse, follows)
        D += g * x_new
        change = x_new - x_old
        squares = read_back(xp.vecdot(change, change))
        self.x[:, reach:] = x_new

        residual = np.sqrt(squares()) * self.scale
        accepted = base + 1 + (self.behind | ~(residual <= self.tolerance)).argmax(axis=1)
        steady = None
        if not residual.max() <= JUMP:
            jumping = self.inside & ~(residual <= JUMP) & (self.node > (accepted + KEEP)[:, None])
            steady = np.where(jumping.any(axis=1), base + 1 + jumping.argmax(axis=1), t.final)

        worst = residual.max(axis=1, where=self.node < accepted[:, None], initial=0.0)
        self.residual[lanes] = np.maximum(self.residual[lanes], worst)
        return self._move(accepted, steady, residual)

    def _move(self, accepted: Ints, steady: Ints | None, residual: Floats) -> Sweep:
        """Windows begin at the accepted nodes from now on; what is done leaves."""
        t, lanes, base = self.tables, self.lanes, self.base
        self.sweeps[lanes] += 1
        self.accepted[lanes] = accepted
        if self.outputs is not None:
            for i, lane in enumerate(lanes.tolist()):
                final = self.D[i, t.reach - 1 : t.reach - 1 + accepted[i] - base[i]]
                self.outputs[lane, base[i] : accepted[i]] = final
        done, keep = accepted == t.final, np.arange(len(lanes))
        if done.any():
            ended, keep = keep[done], keep[~done]
            self.accepted[lanes[ended]] += 1
            self.samples[lanes[ended]] = self.x[ended, t.final - base[ended] + t.reach - 1]
        self._slide(keep, accepted, steady)
        return Sweep(
            calls=self.calls, rows=self._rows, accepted=self.accepted.copy(), nodes=len(self.plan),
            lanes=lanes, base=base, residual=residual, _estimate=self._estimate,
        )  # fmt: skip

    def _solve(self, inverse: Any, follows: Any = None) -> Any:
        """New states of the windows: inverse @ (outputs + carry from accepted states + noise).

        inverse: by lag, for all nodes; or a matrix for each lane [n, span, span]
        follows: as in `WindowTables.from_outputs`
        """
        t = self.tables
        u = t.right_side(self.a, self.b, self.x, self.D, follows)
        if self.plan.stochastic:
            u += self.noise.now
        return t.solve(inverse, self.base + 1, u) if inverse.ndim == 1 else lower_matmul(self.xp, inverse, u)

    def _slide(self, keep: Ints, accepted: Ints, steady: Ints | None) -> None:
        """Move the windows of the lanes `keep` to their accepted nodes and let waiting samples in.

        accepted, steady: per old lane, the new base, and the first node that jumped too far to keep (None: no such).
        """
        t = self.tables
        known, old = t.previous[self.stop if steady is None else np.minimum(steady, self.stop)], self.base
        if keep.size < old.size:
            self.lanes, old, accepted, known = self.lanes[keep], old[keep], accepted[keep], known[keep]
            steady = None if steady is None else steady[keep]
        self._shift(keep, accepted - old, known - old + (t.reach - 1))
        if self.window != t.window:
            t = self.tables = self._tables()
            known = np.minimum(known, accepted + self._resize(t.reach + t.span))
        self.base, self.stop = accepted, t.stop[accepted]
        if steady is not None:
            self.stop = np.minimum(self.stop, steady)
        if self.waiting:
            known = np.concatenate([known, np.full(self._admit(), -1)])
        if not self.lanes.size:
            return
        if self.evaluator.sizes is not None:
            self.stop = t.filled(self.base, self.stop, self.evaluator.near)

        first = self.base + 1
        self.node = first[:, None] + np.arange(t.span)
        rows = t.consecutive(t.rows, first, t.span)
        self.a, self.b, self.g = rows[..., : t.reach], rows[..., t.reach : -1], rows[..., -1:]
        if self.plan.stochastic:
            self.noise.place(keep, self.lanes, self.base)
        known = self._follow(known)
        if self.plan.clip is None and not (t.previous[self.stop] > known).any():
            return  # nothing is new, and the states that stay fit their outputs already, as far as these are linear
        if self.start is not None and self.start.shape[1] > 1:
            nodes = np.minimum(self.node, t.final)
            here, there = (self._index(i) for i in (self.lanes[:, None], np.maximum(known, 0)[:, None]))
            step = self.start[here, self._index(nodes)] - self.start[here, there]
            self.D[:, t.reach :] += self._index((self.node > known[:, None])[..., None]) * step
        elif self.plan.stochastic:
            g = self.g if self.online is None else self.online.values()
            g = g * self._index((self.node > known[:, None])[..., None])
            self.D[:, t.reach :] += lower_matmul(self.xp, t.running_sum, g * self.noise.now)
        self.x[:, t.reach :] = self._solve(t.inverse)

    def _follow(self, known: Ints) -> Ints:
        """Outputs up to the nodes `known` are those of the states where they are; returns the last that are kept."""
        return known

    def _shift(self, keep: Ints, move: Ints, last: Ints) -> None:
        """Slots move .. of the lanes `keep` become slots 0 .. ; outputs behind slot `last` repeat the one there."""
        end = self.tables.slots[-1]
        if len(self.x) == keep.size == 1 and self.online is None:
            self.x = shifted(self.xp, self.x, int(move[0]), end)
            self.D = shifted(self.xp, self.D, int(move[0]), int(last[0]))
            return
        slots = self.tables.slots + move[:, None]
        row, state_slot, output_slot = (
            self._index(i) for i in (keep[:, None], np.minimum(slots, end), np.minimum(slots, last[:, None]))
        )
        self.x, self.D = self.x[row, state_slot], self.D[row, output_slot]
        if self.online is not None:
            self.online.slide(row, state_slot, output_slot, self._index(slots <= last[:, None]))

    def _resize(self, slots: int) -> int:
        """Give every lane so many slots, from the base on; returns how many nodes behind the base are still known."""
        held = min(slots, self.x.shape[1])
        for name in ("x", "D"):
            old, new = getattr(self, name), self._zeros(len(self.x), slots)
            new[:, :held] = old[:, :held]
            new[:, held:] = old[:, held - 1 : held]  # as new outputs begin; new states are solved for
            setattr(self, name, new)
        if self.online is not None:
            self.online.resize(self.tables)
        self.noise = NoiseWindow(self.tables, self.plan, self.seeds, self.dim, self.xp, self.like)
        return int(held - self.tables.reach)

    def _tables(self) -> WindowTables:
        return window_tables(
            self.plan, self.window, self._curve, self.dim, self._floor, self.xp, self.like.dtype, device_of(self.like)
        )

    def _admit(self) -> int:
        """Give free lanes to waiting samples; returns how many."""
        t, xp = self.tables, self.xp
        n = min(self.capacity - self.lanes.size, len(self.waiting))
        slots = t.reach + t.span
        if n:
            fresh = [self.waiting.popleft() for _ in range(n)]
            draws = normal(xp, [self.seeds[i] for i in fresh], [[0]] * n, self.dim, device=device_of(self.like))
            x = self._zeros(n, slots)
            x[:, t.reach - 1] = xp.astype(draws[:, 0] * float(self.plan.noise[0]), x.dtype)
            self.x = xp.concat([self.x, x], axis=0)
            guess = self.mean if self.start is None else self.start[self._index(np.array(fresh, np.int64))][:, :1]
            self.D = xp.concat([self.D, xp.broadcast_to(guess, (n, slots, self.dim))], axis=0)
            if self.online is not None:
                self.online.extend(n)
            self.lanes = np.concatenate([self.lanes, np.array(fresh, np.int64)])
            self.base = np.concatenate([self.base, np.zeros(n, np.int64)])
            self.stop = np.concatenate([self.stop, np.full(n, t.stop[0])])
        return n

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
