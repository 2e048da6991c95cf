"""The host loop around a sweep graph: it reads residuals and says where the windows go; it never touches a state.

What is written here is all that a host in another language needs. Per call, for a sample with base b and the residual
r of the last sweep of the call (r[i] belongs to node b + 1 + i):

    accepted  the first node behind b with r > tolerance or node >= stop; but the first `sweeps` nodes behind b are
              exact after that many sweeps, and the window never moves beyond its stop
    steady    the first evaluated node, more than KEEP behind accepted and before stop, with r > JUMP; else the last
    next call before = b, base = accepted, known = previous[min(steady, stop)],
              stop = min(stop_table[accepted], next[steady])

A graph that accepts in law decides that itself, one sweep a call:

    next call before = b, base = accepted, known = kept, stop = stop_table[accepted]

A sample whose base is the final node is done: it stands in slot reach - 1 + final - before of x_new.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.graphs.tables import draw, places
from ncdeploy.formats.graphrecord import GraphRecord
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.law import log_uniform
from ncdeploy.sampling.parallel import JUMP, KEEP
from ncdeploy.sampling.plan import Plan

Tables = dict[str, NDArray[Any]]
Run = Callable[[list[str], dict[str, NDArray[Any]]], list[NDArray[Any]]]
Outcome = tuple[NDArray[Any], ...]
_IN_LAW = ["x_new", "D_new", "accepted", "kept", "rejected", "rejection_odds"]


class SweepDriver:
    """Samples of one plan, whole batches of windows at a time; a sample that is done leaves the batch.

    run:    calls the graph: (names of outputs, inputs) -> outputs
    tables: the plan, from `plan_tables`
    noise:  whether the graph takes the draws of the windows

    depth: sweeps so far, network calls made one after another; seconds: spent inside the graph
    """

    def __init__(
        self, run: Run, record: GraphRecord, info: ModelInfo, plan: Plan, tables: Tables, *, noise: bool
    ) -> None:
        self._run, self._record, self._info, self._plan, self._with_noise = run, record, info, plan, noise
        self._stop, self._next, self._previous = (tables[f"plan_{name}"] for name in ("stop", "next", "previous"))
        self._evaluated = tables["plan_nodes"][:, 3] > 0
        self._places = places(record, self._stop)
        self.depth, self.seconds = 0, 0.0

    def run(
        self, seeds: Sequence[int], per_sample: dict[str, NDArray[Any]], rest: dict[str, NDArray[Any]], *,
        tolerance: float, max_sweeps: int, on_call: Callable[[int], None] | None = None,
    ) -> Outcome:  # fmt: skip
        """Samples [n, *shape], sweeps [n], residual [n], evaluations [n], as a sampler graph returns them; in law also
        rejections [n] and their odds [n].

        per_sample: inputs of one value per sample, such as labels; rest: inputs that all samples share
        """
        r, final, n = self._record, len(self._plan) - 1, len(seeds)
        samples = np.zeros((n, *self._info.shape), np.float32)
        sweeps, evaluations, residual = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
        rejections, odds = np.zeros(n, np.int64), np.zeros(n)
        rows = r.sweeps * self._places - r.sweeps * (r.sweeps - 1) // 2  # nodes that are exact drop out, one a sweep
        lanes = np.arange(n)
        before = base = np.zeros(n, np.int64)
        known, stop = np.full(n, -1), self._stop[base]
        x, D = self._start(seeds)
        while lanes.size and self.depth < max_sweeps:
            feeds: Tables = {"x": x, "D": D, "before": before, "base": base, "known": known, "stop": stop, **rest}
            feeds |= {name: values[lanes] for name, values in per_sample.items()}
            node = base[:, None] + np.arange(1, r.span + 1)
            names = [seeds[int(i)] for i in lanes]
            if self._with_noise:
                feeds["noise"] = self._noise(names, node)
            if r.in_law:
                feeds["log_uniform"] = log_uniform(names, self._plan, node).astype(np.float32)
            begin = time.perf_counter()
            x, D, *found = self._run(_IN_LAW if r.in_law else ["x_new", "D_new", "residual"], feeds)
            self.seconds += time.perf_counter() - begin
            self.depth += r.sweeps
            sweeps[lanes] += r.sweeps
            evaluations[lanes] += rows
            before = base
            if r.in_law:
                base, known, rejected, probability = found
                rejections[lanes] += rejected
                odds[lanes] += probability
                stop = self._stop[base]
            else:
                base, known, stop, worst = self._slide(found[0][:, -1], base, stop, node, tolerance)
                residual[lanes] = np.maximum(residual[lanes], worst)
            done = base == final
            samples[lanes[done]] = x[done, final - before[done] + r.reach - 1]
            lanes, x, D = lanes[~done], x[~done], D[~done]
            before, base, known, stop = before[~done], base[~done], known[~done], stop[~done]
            if on_call is not None:
                on_call(self.depth)
        samples[lanes] = D[np.arange(lanes.size), np.maximum(known - before + r.reach - 1, 0)]
        residual[lanes] = np.inf
        return (samples, sweeps, residual, evaluations) + ((rejections, odds) if r.in_law else ())

    def _slide(
        self, change: NDArray[Any], base: NDArray[np.int64], stop: NDArray[np.int64], node: NDArray[np.int64],
        tolerance: float,
    ) -> tuple[NDArray[Any], ...]:  # fmt: skip
        """Where windows go by the residuals [n, span] of the last sweep: base, known, stop, and the worst accepted."""
        final = len(self._plan) - 1
        behind, exact = node >= stop[:, None], node < base[:, None] + self._record.sweeps
        accepted = base + 1 + (behind | ~((change <= tolerance) | exact)).argmax(axis=1)
        jumping = self._evaluated[node] & ~behind & ~(change <= JUMP) & (node > (accepted + KEEP)[:, None])
        steady = np.where(jumping.any(axis=1), base + 1 + jumping.argmax(axis=1), final)
        worst = change.max(axis=1, where=(node < accepted[:, None]) & ~exact, initial=0.0)
        known = self._previous[np.minimum(steady, stop)]
        return accepted, known, np.minimum(self._stop[accepted], self._next[steady]), worst

    def _start(self, seeds: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Every window at node 0, whose state is pure noise; all outputs are the data mean."""
        r, info, n = self._record, self._info, len(seeds)
        x = np.zeros((n, r.slots, *info.shape), np.float32)
        x[:, r.reach - 1] = draw(seeds, np.zeros((n, 1), np.int64), info)[:, 0] * np.float32(self._plan.noise[0])
        mean = np.zeros(info.shape) if info.mean is None else np.reshape(info.mean, info.shape)
        return x, np.broadcast_to(mean.astype(np.float32), x.shape).copy()

    def _noise(self, seeds: Sequence[int], node: NDArray[np.int64]) -> NDArray[np.float32]:
        """The draws of the nodes [n, span], [n, span, *shape]; 0 where the plan has no coefficient for them."""
        if not self._plan.stochastic:
            return np.zeros((len(seeds), self._record.span, *self._info.shape), np.float32)
        return draw(seeds, node, self._info)
