"""One sweep over the windows of a batch as graph nodes: what `sampling.parallel` does, written in ONNX.

    x_new = inverse (B D + A x_accepted + noise),     D_new = D_old + g (x_new - x_old)

A window holds `slots` = reach + span nodes: slot s of a sample with base b is node b - (reach - 1) + s. Shapes
below: B samples, S = span, d values of a sample; values named [B, S, ...] belong to the nodes after the base.

The linear part is a product with a lower-triangular matrix in float32. TensorRT multiplies in TF32 unless told
otherwise, which rounds the increments of long plans away: build with TF32 off.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ncdeploy.backends.graphs.tables import NODE_COLUMNS, places
from ncdeploy.export.builder import Builder, Embedded, Value
from ncdeploy.formats.graphrecord import GraphRecord
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Port


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is known of a window when the graph is built.

    places: nodes of a window, the base first, at which D may be evaluated; at most span + 1
    state_reach: accepted states that a row looks at; stochastic: whether nodes after the first draw noise
    clip: of the plan
    """

    info: ModelInfo
    reach: int
    span: int
    places: int
    state_reach: int
    stochastic: bool
    clip: float | None = None

    @property
    def slots(self) -> int:
        return self.reach + self.span

    @classmethod
    def of(cls, record: GraphRecord, info: ModelInfo, tables: dict[str, Any]) -> "Layout":
        """A plan inside the graph leaves out what it does not need; one that is an input must find everything."""
        plan, span, reach = record.plan, record.span, record.reach
        room = places(record, tables["plan_stop"])
        if record.plan_input:
            return cls(info=info, reach=reach, span=span, places=room, state_reach=reach, stochastic=True)
        used = np.flatnonzero(np.any(plan.state, axis=0))
        return cls(
            info=info, reach=reach, span=span, places=room,
            state_reach=1 + int(used[-1]) if used.size else 0, stochastic=plan.stochastic, clip=plan.clip,
        )  # fmt: skip


def per_sample(info: ModelInfo) -> dict[str, Port]:
    """The inputs that a denoiser takes beside x and sigma, of which the graphs here take one value per sample."""
    return {port.name: port for port in info.inputs if port.name not in ("x", "sigma", "sample")}


class Step:
    """The values of one sweep, by name, made in order: `move`, `place`, then `evaluate` and `solve` once or more."""

    def __init__(self, g: Builder, layout: Layout) -> None:
        self.g, self.t = g, layout
        self.x = self.D = self.x_accepted = self.base = self.stop = ""

    def move(self, x: str, D: str, before: str, base: str, known: str, lane: str) -> None:
        """Slide windows x, D [B, slots, d] from `before` to `base` [B]; outputs behind node `known` repeat it.

        lane: int64 [B, 1], the first slot of every sample among all slots
        """
        g, t = self.g, self.t
        slots = np.arange(t.slots)
        moved = g("Add", self._column(g("Sub", base, before)), slots)
        last = g("Max", g("Add", g("Sub", known, before), np.int64(t.reach - 1)), np.int64(0))
        state = g("Add", g("Min", moved, np.int64(t.slots - 1)), lane)
        output = g("Add", g("Min", moved, self._column(last)), lane)
        self.x = g("Gather", self._flat(x), state)
        self.D = g("Gather", self._flat(D), output)
        self.base, self.lane = base, lane

    def place(self, stop: str, known: str, noise: str | None) -> None:
        """Take the coefficients of the windows; nodes behind `known` get their first state from the outputs there.

        noise: [B, S, d], the windows' draws, or None for a plan that has none after the first node
        """
        self._take(stop, noise)
        self._begin(known)

    def _take(self, stop: str, noise: str | None) -> None:
        """The coefficients of the windows, their noise, and `carry`: what rows get of it, and from behind the base."""
        g, t, S = self.g, self.t, self.t.span
        self.nodes = g("Add", self._column(self.base), np.arange(S + 1))
        self.node = g.cut(self.nodes, 1, S + 1, 1)
        self.sigma, self.scale, self.weight, evaluated = (
            g.shape(part, -1, S + 1) for part in g.split(g("Gather", "plan_nodes", self.nodes), [1] * NODE_COLUMNS, 2)
        )
        self.evaluated = g("Cast", evaluated, to=9)  # 9: bool
        self._end(stop)
        columns = [t.reach, t.reach, *[1] * (t.clip is not None), 1]
        self.a, b, *self.cut, self.gain = g.split(g("Gather", "plan_rows", self.node), columns, 2)
        inverses = g.split(g("Gather", "plan_inverses", self.node), [2 * S, 2 * S], 2)
        self.inverse, self.inverse_jacobian = (self._triangle(by_lag) for by_lag in inverses)
        self.b = g.split(b, [1] * t.reach, 2) if t.reach > 1 else [b]

        self.x_accepted = g.cut(self.x, 0, t.reach, 1)
        inside = (np.arange(t.reach) >= np.arange(S)[:, None]).astype(np.float32)  # rows that reach behind the base
        self.carry = self._from_states(g("Mul", self.a, inside)) if t.state_reach else None
        self.noise: str | None = None
        if noise is not None:
            self.noise = g("Mul", noise, g("Unsqueeze", g.cut(self.scale, 1, S + 1, 1), np.array([2])))
            self.carry = self._plus(self.carry, self.noise)

    def _end(self, stop: str) -> None:
        """Let the windows end before nodes `stop` [B]."""
        self.stop = self._column(stop)
        self.due = self.g("And", self.evaluated, self.g("Less", self.nodes, self.stop))

    def _begin(self, known: str) -> None:
        """First states of the nodes behind `known`."""
        g, t = self.g, self.t
        if self.noise is not None:
            # In an SDE plan D is a martingale driven by the noise: outputs that are not known yet follow it.
            new = g("Cast", g("Greater", self.node, self._column(known)), to=1)
            moved = g("Mul", g("Mul", self.gain, g("Unsqueeze", new, np.array([2]))), self.noise)
            walk = g("MatMul", np.tri(t.span, dtype=np.float32), moved)
            accepted, window = g.split(self.D, [t.reach, t.span], 1)
            self.D = g("Concat", accepted, g("Add", window, walk), axis=1)
        self._put_states(g("MatMul", self.inverse, self._drive(self.carry)))

    def evaluate_due(self, network: Embedded, lane: str) -> str:
        """D at the nodes that need it and no others; returns how many, int64 [B].

        The number of rows is only known when the graph runs
        (NonZero), which TensorRT does not allow inside a loop: `passes.whole_windows` finds both by their names.
        """
        g, t = self.g, self.t
        due = g.cut(self.due, 0, t.places, 1)
        rows = g("NonZero", due, out=f"{g.prefix}due_rows")
        sample, place = (g.shape(part, -1) for part in g.split(rows, [1, 1], 0))
        slot = g("Add", g("Add", g("Gather", g.shape(lane, -1), sample), place), np.int64(t.reach - 1))
        x = g("Reshape", g("Gather", self._flat(self.x), slot), np.array([-1, *t.info.shape]))
        at = g("Add", g("Mul", sample, np.int64(t.span + 1)), place)
        sigma = g("Gather", g.shape(self.sigma, -1), at)
        D = self._flat(network.call(g, {"x": x, "sigma": sigma, "sample": sample, **self._given(sample)}))
        D = g("ScatterND", self._flat(self.D), self._column(slot), D, out=f"{g.prefix}due_outputs")
        self.D = g.shape(D, -1, t.slots, t.info.dim)
        return g("ReduceSum", g("Cast", self.due, to=7), np.array([1]), keepdims=0)  # 7: int64

    def evaluate_all(self, network: Embedded, skip: int = 0) -> None:
        """D at every place of the windows but the first `skip`, whose states and outputs are final already."""
        g, t = self.g, self.t
        first, last, places = t.reach - 1 + skip, t.reach - 1 + t.places, t.places - skip
        x = g("Reshape", g.cut(self.x, first, last, 1), np.array([-1, *t.info.shape]))
        sigma = g.shape(g.cut(self.sigma, skip, t.places, 1), -1)
        sample = self._samples(places)
        D = network.call(g, {"x": x, "sigma": sigma, "sample": sample, **self._given(sample)})
        D = g.shape(D, -1, places, t.info.dim)
        due = g("Unsqueeze", g.cut(self.due, skip, t.places, 1), np.array([2]))
        sizes = [size for size in (first, places, t.slots - last) if size]
        parts = g.split(self.D, sizes, 1) if len(sizes) > 1 else [self.D]
        middle = 1 if first else 0
        parts[middle] = g("Where", due, D, parts[middle])
        self.D = g("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]

    def solve(self) -> str:
        """New states of all nodes after the base, with outputs that follow them; returns the residual [B, S]."""
        g, t = self.g, self.t
        accepted, window = g.split(self.D, [t.reach, t.span], 1)
        old, whole = self.x_window, self.D
        still = g("Sub", window, g("Mul", self.gain, old))  # the part that does not follow the states
        self.D = g("Concat", accepted, still, axis=1)
        self._put_states(g("MatMul", self.inverse_jacobian, self._drive(self.carry, whole)))
        self.D = g("Concat", accepted, g("Add", still, g("Mul", self.gain, self.x_window)), axis=1)
        norm = g("Sqrt", g("ReduceSumSquare", g("Sub", self.x_window, old), np.array([2]), keepdims=0))
        weight = g("Mul", g.cut(self.weight, 1, t.span + 1, 1), g("Cast", g("LessOrEqual", self.node, self.stop), to=1))
        return g("Mul", norm, weight)

    def _from_states(self, a: str) -> str | None:
        """A x for such coefficients [B, S, reach], [B, S, d]."""
        columns = self.g.split(a, [1] * self.t.reach, 2) if self.t.reach > 1 else [a]
        total: str | None = None
        for h in range(self.t.state_reach):
            total = self._plus(total, self.g("Mul", columns[h], self._back(self.x, h)))
        return total

    def _drive(self, carry: str | None, whole: str | None = None) -> str:
        """B D beside what `carry` is, [B, S, d]. whole: the outputs that a plan cuts, where D is a part of them."""
        g, total = self.g, carry
        for h in range(self.t.reach):
            taken = self._back(self.D, h)
            if self.t.clip is not None:  # as `Plan.taken`
                output, limit = self._back(whole or self.D, h), np.float32(self.t.clip)
                taken = g("Add", taken, g("Mul", *self.cut, g("Sub", g("Clip", output, -limit, limit), output)))
            total = self._plus(total, g("Mul", self.b[h], taken))
        assert total is not None  # a row reaches back over at least one node
        return total

    def _back(self, slots: str, h: int) -> str:
        """The values 1 + h nodes before those of the window."""
        last = self.t.reach - 1 - h
        return self.g.cut(slots, last, last + self.t.span, 1)

    def _put_states(self, window: str) -> None:
        self.x_window = window
        self.x = self.g("Concat", self.x_accepted, window, axis=1)

    def _triangle(self, by_lag: str) -> str:
        """[B, S, 2 S] by falling lag -> [B, S, S]: every row begins one place further left than the one before it."""
        g, S = self.g, self.t.span
        flat = g.cut(g.shape(by_lag, -1, 2 * S * S), S - 1, S - 1 + S * (2 * S - 1), 1)
        return g.cut(g.shape(flat, -1, S, 2 * S - 1), 0, S, 2)

    def _plus(self, total: str | None, part: str) -> str:
        return part if total is None else self.g("Add", total, part)

    def _given(self, sample: str) -> dict[str, str]:
        """What the network takes of each row beside x and sigma, by name: labels and weights of guidance of its sample;
        conditions as they are, for the network itself looks up whose a row's are."""
        whole = {c.name: c.name for c in self.t.info.conditions}
        return whole | {n: self.g("Gather", n, sample) for n in per_sample(self.t.info) if n not in whole}

    def _samples(self, places: int) -> str:
        """int64 [B * places]: whose each row of whole windows is."""
        g = self.g
        batch = g("Shape", self.base)
        sample = g("Range", np.int64(0), g("Squeeze", batch), np.int64(1))
        return g.shape(g("Expand", self._column(sample), g("Concat", batch, np.array([places]), axis=0)), -1)

    def _column(self, values: Value) -> str:
        return self.g.shape(values, -1, 1)

    def _flat(self, values: str) -> str:
        return self.g.shape(values, -1, self.t.info.dim)
