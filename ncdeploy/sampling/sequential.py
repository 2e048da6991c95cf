"""Forward substitution through a plan: one network call after another."""

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ncdeploy.sampling.arrays import device_of, namespace
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.result import Sweep

_NOISE_BLOCK = 32  # nodes drawn at a time: the generator works best on many values


def zero_outputs(n: int, plan: Plan, dim: int, like: Any) -> Any:
    """Room for D of n samples at every node, [n, nodes, dim]."""
    return namespace(like).zeros((n, len(plan), dim), dtype=like.dtype, device=device_of(like))


class SequentialRun:
    """Samples in groups of `lanes`, each group through all nodes of the plan.

    keep: whether `outputs` holds D at every node, [n, nodes, d]; else it is None
    """

    def __init__(
        self, evaluator: Evaluator, plan: Plan, *, seeds: list[int], dim: int, lanes: int, like: Any, keep: bool = False
    ) -> None:
        self.evaluator, self.plan, self.seeds, self.lanes = evaluator, plan, seeds, lanes
        self.xp, self.like, self.dim = namespace(like), like, dim
        self._state, self._denoised, self._noise = plan.state.tolist(), plan.denoised.tolist(), plan.noise.tolist()
        self.samples = self.xp.zeros((len(seeds), dim), dtype=like.dtype, device=device_of(like))
        self.outputs = zero_outputs(len(seeds), plan, dim, like) if keep else None
        self.sweeps = np.zeros(len(seeds), np.int64)
        self.residual = np.zeros(len(seeds))
        self._drawn_to = 0

    def run(self) -> Iterator[Sweep]:
        """Yield after every network call."""
        for first in range(0, len(self.seeds), self.lanes):
            yield from self._group(np.arange(first, min(first + self.lanes, len(self.seeds))))

    def _group(self, lanes: Any) -> Iterator[Sweep]:
        plan = self.plan
        states: deque[Any] = deque(maxlen=plan.reach)
        outputs: deque[Any] = deque(maxlen=plan.reach)
        accepted = np.where(np.arange(len(self.seeds)) < lanes[0], len(plan), 0)
        for k in range(len(plan)):
            x = self._row(k, lanes, states, outputs)
            states.appendleft(x)
            outputs.appendleft(None)
            if plan.evaluated[k]:
                full = np.full(len(lanes), k)
                outputs[0] = D = self.xp.asarray(self.evaluator(x, plan.sigmas[full], full, lanes), copy=True)
                if self.outputs is not None:
                    self.outputs[lanes[0] : lanes[-1] + 1, k] = D
                accepted[lanes] = k + 1
                yield Sweep(
                    calls=self.evaluator.calls, rows=len(lanes), accepted=accepted.copy(), nodes=len(plan),
                    lanes=lanes, base=full, residual=np.zeros((len(lanes), 1)),
                    _estimate=partial(self._estimate, lanes, D),
                )  # fmt: skip
        self.samples[lanes[0] : lanes[-1] + 1] = x
        self.sweeps[lanes] = plan.evaluations

    def _row(self, k: int, lanes: Any, states: deque[Any], outputs: deque[Any]) -> Any:
        terms = [c * v for c, v in zip(self._state[k], states, strict=False) if c]
        terms += [
            c * self.plan.taken(k, v, self.xp.clip) for c, v in zip(self._denoised[k], outputs, strict=False) if c
        ]
        if self._noise[k]:
            terms.append(self._noise[k] * self._draw(k, lanes))
        x = terms[0]
        for term in terms[1:]:
            x = x + term
        return x

    def _draw(self, k: int, lanes: Any) -> Any:
        ahead = 1 if k == 0 else _NOISE_BLOCK
        # Node 0 starts a new group of samples, whose draws differ.
        if k == 0 or k >= self._drawn_to:
            nodes = np.broadcast_to(np.arange(k, k + ahead), (len(lanes), ahead))
            seeds = [self.seeds[i] for i in lanes]
            draws = normal(self.xp, seeds, nodes, self.dim, device=device_of(self.like))
            self._block, self._first, self._drawn_to = self.xp.astype(draws, self.like.dtype), k, k + ahead
        return self._block[:, k - self._first]

    def _estimate(self, lanes: Any, denoised: Any) -> Any:
        estimate = self.xp.asarray(self.samples, copy=True)
        estimate[lanes[0] : lanes[-1] + 1] = denoised
        return self.xp.reshape(estimate, (-1, *self.evaluator.shape))
