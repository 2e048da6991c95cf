"""One sweep that accepts in law as graph nodes: what `sampling.law` does, with the same numbers drawn outside.

Everything is decided by comparing and choosing among whole windows, so that no shape depends on a decision.
"""

import math

import numpy as np

from ncdeploy.export.window_step import Step
from ncdeploy.sampling.parallel import JUMP, KEEP

FLOAT, INT64 = 1, 7
NEVER = np.int64(1 << 40)  # a node behind every plan


class LawStep(Step):
    """`move`, `place`, then `evaluate_all` or `evaluate_due`, and `verify`."""

    def place(self, stop: str, known: str, noise: str | None) -> None:
        """As in Step, and the drafts are made anew: outputs up to node `known` follow their states, until one of these
        jumps too far to keep, where the window ends then."""
        g, t = self.g, self.t
        old = g.cut(self.x, t.reach, t.slots, 1)
        self._take(stop, noise)
        accepted, window = g.split(self.D, [t.reach, t.span], 1)
        still, whole = g("Sub", window, g("Mul", self.gain, old)), self.D
        self.D = g("Concat", accepted, still, axis=1)
        x = g("MatMul", self.inverse_jacobian, self._drive(self.carry, whole))
        weight = g.cut(self.weight, 1, t.span + 1, 1)
        change = g("Mul", g("Sqrt", g("ReduceSumSquare", g("Sub", x, old), np.array([2]), keepdims=0)), weight)
        far = g("Greater", self.node, g("Add", self._column(self.base), np.int64(KEEP)))
        jumps = g("And", g("And", g("Greater", change, np.float32(JUMP)), far), self._up_to(known))
        steady = g("ReduceMin", g("Where", jumps, self.node, NEVER), np.array([1]), keepdims=0)
        self.known = g("Min", known, g("Sub", steady, np.int64(1)))
        self._end(g("Min", stop, steady))

        moved = g("Add", still, g("Mul", self.gain, x))
        last = self._output(g("Concat", accepted, moved, axis=1), g("Max", self.known, self.base))
        followed = g("Unsqueeze", self._up_to(self.known), np.array([2]))
        self.D = g("Concat", accepted, g("Where", followed, moved, last), axis=1)
        self._begin(self.known)

    def verify(self, log_uniform: str, theta: str) -> None:
        """Accept drafts up to the first that is not, whose state becomes exact, whatever becomes of it.

        log_uniform: [B, S], of the window's nodes; theta: scalar

        Afterwards `accepted` and `known` say where the next window begins, and what is known in it; `rejected` is
        int64 [B], 1 where a test failed, and `odds` float32 [B] the summed probabilities of that.
        """
        g, t = self.g, self.t
        assert self.noise is not None  # as in `place`
        mean = self._drive(self._from_states(self.a))
        off = g("Sub", g("Sub", self.x_window, self.noise), mean)
        square = g("ReduceSumSquare", off, np.array([2]), keepdims=0)
        along = g("ReduceSum", g("Mul", off, self.noise), np.array([2]), keepdims=0)
        c = g.cut(self.scale, 1, t.span + 1, 1)
        norm = g("Div", g("Sqrt", square), c)
        half = g("Mul", g("Mul", norm, norm), np.float32(0.5))
        log_ratio = g("Neg", g("Add", half, g("Div", along, g("Mul", c, c))))
        odds = g("Erf", g("Mul", norm, np.float32(1 / (2 * math.sqrt(2)))))  # 2 Phi(norm / 2) - 1
        inside = g("Less", self.node, self.stop)
        tested = g("And", inside, g("LessOrEqual", odds, theta))
        accept = g("And", tested, g("LessOrEqual", log_uniform, log_ratio))
        # The last of a window lies behind it, or is the plan's, and is never accepted.
        refused = g("Where", accept, NEVER, self.node)
        self.accepted = g("ReduceMin", refused, np.array([1]), keepdims=0)
        here = g("Equal", self.node, self._column(self.accepted))
        reached = g("And", tested, self._up_to(self.accepted))
        self.odds = g("ReduceSum", g("Where", reached, odds, np.float32(0)), np.array([1]), keepdims=0)
        fails = g("And", tested, here)
        self.rejected = g("ReduceSum", g("Cast", fails, to=INT64), np.array([1]), keepdims=0)

        back = g("Where", fails, g("Div", along, square), np.float32(0))
        twice = g("Unsqueeze", g("Add", back, back), np.array([2]))
        exact = g("Sub", g("Add", mean, self.noise), g("Mul", twice, off))
        accepted, window = g.split(self.D, [t.reach, t.span], 1)
        evaluated = g("Add", window, g("Mul", self.gain, g("Sub", exact, self.x_window)))
        end = g.shape(self.stop, -1)
        last = self._output(self.D, g("Sub", end, np.int64(1)))
        guessed = g("Add", last, g("Mul", self.gain, g("Sub", exact, mean)))
        inside, here = (g("Unsqueeze", part, np.array([2])) for part in (inside, here))
        window = g("Where", here, g("Where", inside, evaluated, guessed), window)
        self.D = g("Concat", accepted, window, axis=1)
        self._put_states(g("Where", here, exact, self.x_window))
        self.known = g("Max", g("Sub", end, np.int64(1)), self.accepted)

    def _up_to(self, node: str) -> str:
        """Which nodes of the window lie at most there, bool [B, S]; node: [B]"""
        return self.g("LessOrEqual", self.node, self._column(node))

    def _output(self, slots: str, node: str) -> str:
        """The output [B, 1, d] of a node [B] among those of all slots."""
        g, t = self.g, self.t
        slot = g("Add", g("Sub", node, self.base), np.int64(t.reach - 1))
        return g("Gather", self._flat(slots), g("Add", self._column(slot), self.lane))
