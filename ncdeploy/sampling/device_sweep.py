"""A sweep of the parallel driver as one piece of work for a device: operators on fixed shapes, no word to the host.

What `ParallelRun` does on the host between two network calls, whose rows go where, what is accepted, who leaves and who
comes in, is done here by index tensors, so that a sweep can be a captured graph. The arithmetic is that of
`ParallelRun`, and so are samples and sweeps. Lanes are as many as at the start; one that has no sample left is idle.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.sampling.arrays import namespace
from ncdeploy.sampling.device_state import Samples, State
from ncdeploy.sampling.jacobian import OnlineJacobian
from ncdeploy.sampling.parallel import JUMP, KEEP
from ncdeploy.sampling.window import WindowTables

BESIDE = 7  # columns of a report before the residuals
_NEVER = 1 << 40  # a node that no plan has


@dataclass(kw_only=True, eq=False)
class Swept:
    """What a sweep found, before windows move: accepted nodes, and the first that jumped, int64 [lanes]; its report,
    float64 [lanes, BESIDE + span]: sample, base, accepted nodes, rows of the call, |x - D|^2 and node of the lane's
    first row, its first node that is not finite, or a large number; then residuals."""

    accepted: Any
    steady: Any
    report: Any


class DeviceSweep:
    """The sweeps of windows of one width.

    fit:    int64 [lanes * window + 1], rows of the call where so many may be due
    fill:   whether what a call has left takes nodes that had been dropped, and what does not fit waits
    online: whether the Jacobian is estimated from the iterates
    """

    def __init__(
        self, tables: WindowTables, samples: Samples, *, stochastic: bool, lanes: int, tolerance: float, online: bool,
        fit: NDArray[np.int64], fill: bool,
    ) -> None:  # fmt: skip
        self.torch, self.like = samples.torch, samples.like
        self.tables, self.samples, self.lanes, self.tolerance = tables, samples, lanes, tolerance
        self.fit, self.fill = fit, fill
        self.most, self.slots = int(fit.max()), tables.reach + tables.span
        self._stochastic, self._online = stochastic, online
        self._stop, self._previous, self._rank, self._ranked, self._fit = (
            self._tensor(each) for each in (tables.stop, tables.previous, tables.rank, tables.ranked, fit)
        )
        self._evaluated, self._scale = self._tensor(tables.evaluated), self._tensor(tables.residual_scale)
        self._sigmas = tables.on_device(tables.sigmas)
        self._lane, self._slot, self._row = (self._tensor(np.arange(k)) for k in (lanes, self.slots, self.most))

    def begin(self) -> State:
        """All lanes idle; `slide` lets the first samples in."""
        zero, idle = self.samples.zeros(self.lanes, self.slots), self._lane * 0 + self.tables.final
        return State(
            x=zero, D=zero, base=idle, stop=idle, owner=self._lane * 0 + self.samples.n, next=self._lane.sum() * 0,
            noise=self.samples.zeros(1, 1),
            online=(zero, zero, zero[..., 0], zero[..., 0] > 0) if self._online else (),
        )  # fmt: skip

    def sweep(self, state: State, out: Any) -> Swept:
        """Take D of the call's rows in, [most, d], and solve: x, D and online of the state are then the new ones."""
        torch, t, reach, span = self.torch, self.tables, self.tables.reach, self.tables.span
        base, stop, live = state.base, state.stop, state.owner < self.samples.n
        due, at, valid = self._due(state)
        lane, place = at // (span + 1), at % (span + 1)
        D = torch.cat([state.D.reshape(-1, self.samples.dim), out[:1]])  # and where rows go that fill the call up
        to = torch.where(valid, lane * self.slots + place + reach - 1, len(D) - 1)
        D = D.index_copy(0, to, out)[:-1].reshape(state.D.shape)
        finite = torch.isfinite(out).all(-1) | ~valid
        bad = (base * 0 + _NEVER).scatter_reduce(0, lane, torch.where(finite, _NEVER, base[lane] + place), "amin")
        first = _before(due).clamp(max=span)
        difference = (state.x - D)[self._lane, first + reach - 1]

        node = base[:, None] + 1 + self._slot[:span]
        a, b, g = self._rows_of(node)
        x_old, inverse = state.x[:, reach:], t.inverse_jacobian
        if self._online:
            online = self._jacobian(state)
            g, inverse = online.update(state.x, D, a, b)
            state.online = online.tensors()
        rest, follows = D.clone(), g * x_old
        rest[:, reach:] -= follows  # the part that does not follow the states
        x_new = self._solve(inverse, state, rest, a, b, node, follows)
        change = x_new - x_old
        residual = torch.linalg.vecdot(change, change).sqrt() * self._scale[node] * (node <= stop[:, None])
        rest[:, reach:] += g * x_new
        state.x, state.D = torch.cat([state.x[:, :reach], x_new], 1), rest

        holds = (node < stop[:, None]) & (residual <= self.tolerance)
        accepted = torch.where(live, base + 1 + _before(~holds), t.final)
        jumps = due[:, 1:] & ~(residual <= JUMP) & (node > (accepted + KEEP)[:, None])
        steady = torch.where(jumps.any(1), base + 1 + _before(jumps), t.final)
        beside = (
            state.owner, base, accepted, due.sum(1), torch.linalg.vecdot(difference, difference), base + first, bad,
        )  # fmt: skip
        report = torch.cat([torch.stack([each.double() for each in beside], 1), residual.double()], 1)
        return Swept(accepted=accepted, steady=steady, report=report)

    def slide(self, state: State, swept: Swept | None, into: "DeviceSweep") -> tuple[Any, ...]:
        """Move the windows to what was accepted, let waiting samples in, and ask: see `_ask`.

        into: the sweeps that go on, whose state it is then: others where the window was changed
        """
        torch, t, n, width = self.torch, self.tables, self.samples.n, self.samples.dim
        room, owner, base = into.size(state), state.owner, state.base
        accepted, steady = (base, base) if swept is None else (swept.accepted, swept.steady)
        done = accepted == t.final
        last = state.x[self._lane, (t.final - base + t.reach - 1).clamp(max=self.slots - 1)]
        self.samples.finished.index_copy_(0, torch.where(done, owner, n), last)
        if self.samples.outputs is not None:
            node = base[:, None] + self._slot[: t.span + 1]
            final = (owner < n)[:, None] & (node < accepted[:, None])
            to = torch.where(final, owner[:, None] * self.samples.nodes + node, n * self.samples.nodes)
            self.samples.outputs.index_copy_(0, to.reshape(-1), state.D[:, t.reach - 1 :].reshape(-1, width))

        known = self._previous[torch.minimum(steady, state.stop)]
        slots, end = self._slot + (accepted - base)[:, None], (known - base + t.reach - 1)[:, None]
        lane, state_slot = self._lane[:, None], slots.clamp(max=self.slots - 1)
        output_slot = torch.minimum(state_slot, end.clamp(min=0))
        state.x, state.D = state.x[lane, state_slot], state.D[lane, output_slot]
        if self._online:
            online = self._jacobian(state)
            online.slide(lane, state_slot, output_slot, slots <= end)
            state.online = online.tensors()
        if into is not self:
            known = torch.minimum(known, accepted + self._resize(state, into))

        coming = state.next + done.cumsum(0) - 1
        new = done & (coming < n)
        state.owner = torch.where(new, coming, torch.where(done, n, owner))
        state.next = (state.next + done.sum()).clamp(max=n)
        state.base = torch.where(new, 0, accepted)
        state.stop = into._stop[state.base]
        if swept is not None:
            state.stop = torch.where(new, state.stop, torch.minimum(state.stop, steady))
        into._admit(state, new)
        if into.fill:
            into._fill(state, room)
        into._place(state, torch.where(new, -1, torch.where(done, t.final, known)))
        return into._ask(state)

    def size(self, state: State) -> Any:
        """Rows of the call after the next sweep, [1], by what the host knows then: where the windows are before it."""
        torch, t = self.torch, self.tables
        left = len(t.ranked) - 1 - self._rank[(state.base + 1).clamp(max=t.final)]
        rows = torch.where(state.owner < self.samples.n, left.clamp(max=t.window), 0)
        due = torch.where(state.next < self.samples.n, t.window, rows).sum()
        return self._fit[due[None]]  # by a tensor of one axis: one of none is read by the host

    def last_known(self, state: State) -> Any:
        """The slot of the last D in each window, [lanes]."""
        return (self._previous[state.stop] - state.base + self.tables.reach - 1).clamp(min=0)

    def _ask(self, state: State) -> tuple[Any, ...]:
        """The next call, its rows filled up with the last: x [most, d], sigma [most], labels [most] or None, conditions
        of the lanes by name, and the lane of each row."""
        t, labels = self.tables, self.samples.labels
        _, at, _ = self._due(state)
        lane, place = at // (t.span + 1), at % (t.span + 1)
        owner = state.owner.clamp(max=self.samples.n - 1)
        return (
            state.x[lane, place + t.reach - 1], self._sigmas[state.base[lane] + place],
            None if labels is None else labels[owner[lane]],
            {name: values[owner] for name, values in self.samples.conditions.items()}, lane,
        )  # fmt: skip

    def _due(self, state: State) -> tuple[Any, Any, Any]:
        """Which places of the windows are evaluated, [lanes, span + 1]; of each row of the call its place among all of
        them, and whether it has one of its own."""
        torch, node = self.torch, state.base[:, None] + self._slot[: self.tables.span + 1]
        due = self._evaluated[node] & (node < state.stop[:, None])
        count = due.reshape(-1).cumsum(0)
        at = torch.searchsorted(count, torch.minimum(self._row, count[-1] - 1) + 1)
        return due, at, self._row < count[-1]

    def _rows_of(self, node: Any) -> tuple[Any, Any, Any]:
        rows, reach = self.tables.rows[node], self.tables.reach
        return rows[..., :reach], rows[..., reach:-1], rows[..., -1:]

    def _solve(
        self, inverse: Any, state: State, D: Any, a: Any, b: Any, node: Any, follows: Any = None
    ) -> Any:  # fmt: skip
        """As `ParallelRun._solve`."""
        t = self.tables
        u = t.right_side(a, b, state.x, D, follows)
        if self._stochastic:
            u += state.noise
        if inverse.ndim == 1:
            inverse = inverse[(node[:, :1] * (2 * t.span))[..., None] + t.corner]
        return self.torch.matmul(inverse, u)

    def _admit(self, state: State, new: Any) -> None:
        """The first node of samples that come in, and their first guess of D."""
        torch, first, who = self.torch, self.tables.reach - 1, new[:, None, None]
        at_first = (self._slot == first)[:, None]
        state.x = torch.where(who, at_first * self.samples.first[state.owner][:, None], state.x)
        state.D = torch.where(who, self.samples.guess[state.owner][:, :1], state.D)
        state.online = tuple(
            torch.where(new.reshape(-1, *[1] * (each.ndim - 1)), torch.zeros_like(each), each) for each in state.online
        )

    def _fill(self, state: State, size: Any) -> None:
        """As `WindowTables.filled`."""
        torch, before = self.torch, self._rank[state.base]
        rows, full = self._rank[state.stop] - before, self._rank[self._stop[state.base]] - before
        fewer = torch.maximum(rows * size // rows.sum().clamp(min=1), rows.clamp(max=1))
        rows = torch.where(size < rows.sum(), fewer, rows)
        room = full - rows
        more = torch.minimum((size - rows.sum() - (room.cumsum(0) - room)).clamp(min=0), room)
        state.stop = self._ranked[before + rows + more]

    def _place(self, state: State, known: Any) -> None:
        """Noise, outputs and states of the nodes behind the last `known` one of each lane, where there are any."""
        torch, t = self.torch, self.tables
        node = state.base[:, None] + 1 + self._slot[: t.span]
        a, b, g = self._rows_of(node)
        some = (self._previous[state.stop] > known).any()
        fresh = (some & (node > known[:, None]))[..., None]
        if self._stochastic:
            state.noise = self.samples.noise_of(state.owner, node)
        if self.samples.guess.shape[1] > 1:
            guess, owner = self.samples.guess, state.owner[:, None]
            follow = guess[owner, node.clamp(max=t.final)] - guess[owner, known.clamp(min=0)[:, None]]
            state.D = torch.cat([state.D[:, : t.reach], state.D[:, t.reach :] + fresh * follow], 1)
        elif self._stochastic:
            g = self._jacobian(state).values() if self._online else g
            follow = torch.matmul(t.running_sum, g * fresh * state.noise)
            state.D = torch.cat([state.D[:, : t.reach], state.D[:, t.reach :] + follow], 1)
        x = self._solve(t.inverse, state, state.D, a, b, node)
        some = some if t.clip is None else torch.ones_like(some)  # as in `ParallelRun._slide`
        state.x = torch.cat([state.x[:, : t.reach], torch.where(some, x, state.x[:, t.reach :])], 1)

    def _resize(self, state: State, into: "DeviceSweep") -> int:
        """Slots for other windows, as `ParallelRun._resize` gives them; returns how many nodes behind the base are
        known."""
        slot = into._slot.clamp(max=self.slots - 1)
        state.x, state.D = state.x[:, slot], state.D[:, slot]
        if self._online:
            online = self._jacobian(state)
            online.resize(into.tables)
            state.online = online.tensors()
        return min(self.slots, into.slots) - self.tables.reach

    def _jacobian(self, state: State) -> OnlineJacobian:
        online = OnlineJacobian(self.tables, namespace(self.like), self.like, self.samples.dim)
        online.hold(state.online)
        return online

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self.torch.asarray(array.copy(), device=self.like.device)


def _before(flags: Any) -> Any:
    """Places before the first that is set, or all of them, [m] of flags [m, k]."""
    return (~flags).cumprod(1).sum(1)
