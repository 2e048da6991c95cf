"""Rows of several pools as one network call, and its outputs back to whom they belong."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import BackendError
from ncdeploy.guidance import with_null
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.callsizes import filled, sizes_of
from ncdeploy.sampling.evaluator import Denoise
from ncdeploy.sampling.parallel import Asked
from ncdeploy.serving.pool import Pool


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What one pool asks of the call."""

    pool: Pool
    asked: Asked


class Caller:
    """Calls the engine on the rows of all parts.

    calls, rows: so far, with those that guidance adds; seconds: within the engine; size: rows of the last call
    """

    def __init__(self, denoise: Denoise, info: ModelInfo) -> None:
        self._denoise, self._info, self._sizes = denoise, info, sizes_of(denoise)
        self._conditions = {condition.name: condition for condition in info.conditions}
        self.calls = self.rows = self.size = 0
        self.seconds = 0.0

    def __call__(self, parts: Sequence[Part]) -> list[NDArray[np.float32]]:
        """D for the rows of each part, NaN and infinity included.

        Raises BackendError for an engine whose outputs have another shape than its inputs, and what it raises itself.
        """
        x = np.concatenate([part.asked[0] for part in parts])
        rows = len(x)
        inputs: list[Any] = [
            x.reshape((rows, *self._info.shape)),
            np.concatenate([part.asked[1] for part in parts]).astype(np.float32),
        ]
        places = [part.asked[3] for part in parts]
        if self._info.num_classes:
            inputs.append(np.concatenate([p.pool.labels[at] for p, at in zip(parts, places, strict=True)]))
        given = self._given(parts, places)
        weight = np.concatenate([p.pool.guidance[at] for p, at in zip(parts, places, strict=True)])
        guided = np.flatnonzero(~np.isnan(weight))
        if self._info.guidance:
            inputs.append(np.where(np.isnan(weight), np.float32(1), weight))
            guided = guided[:0]
        elif guided.size:
            inputs, given = self._with_nulls(inputs, given, guided)
        size = len(inputs[0]) if self._sizes is None else self._sizes.fit(len(inputs[0]))
        self.size = size
        if given:
            given["sample"] = filled(given["sample"], size)
        start = time.perf_counter()
        D = np.asarray(self._denoise(*(filled(each, size) for each in inputs), **given))
        self.seconds += time.perf_counter() - start
        self.calls += 1
        self.rows += len(inputs[0]) * self._info.evaluations
        if D.shape != (size, *self._info.shape) or D.dtype != np.float32:
            raise BackendError(f"the engine returned {D.dtype} {D.shape} for float32 {(size, *self._info.shape)}")
        D = D.reshape((size, -1))
        if guided.size:
            w = weight[guided, None]
            D[guided] = w * D[guided] + (1 - w) * D[rows : rows + guided.size]
        ends = np.cumsum([len(at) for at in places])
        return np.split(D[:rows], ends[:-1])

    def _given(self, parts: Sequence[Part], places: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
        if not self._conditions:
            return {}
        sample, before = [], 0
        for part, at in zip(parts, places, strict=True):
            position = np.zeros(len(part.pool.seeds), np.int64)
            position[part.pool.lanes] = np.arange(len(part.pool.lanes)) + before
            sample.append(position[at])
            before += len(part.pool.lanes)
        given = [part.pool.given[place] for part in parts for place in part.pool.lanes.tolist()]
        conditions = {name: np.stack([values[name] for values in given]) for name in self._conditions}
        return {"conditions": conditions, "sample": np.concatenate(sample)}

    def _with_nulls(
        self, inputs: list[Any], given: dict[str, Any], guided: NDArray[np.int64]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The guided rows a second time, without what they are guided towards."""
        more = [np.concatenate([each, each[guided]]) for each in inputs]
        if self._info.null_label is not None:
            more[2][len(inputs[2]) :] = self._info.null_label
        if given:
            sample, samples = given["sample"], len(next(iter(given["conditions"].values())))
            given = {
                "conditions": {n: with_null(v, self._conditions[n]) for n, v in given["conditions"].items()},
                "sample": np.concatenate([sample, sample[guided] + samples]),
            }
        return more, given


def owners_of(parts: Sequence[Part]) -> dict[int, int]:
    """Rows of each job in a call, by its number; those that nobody wants any more are not counted."""
    owner = np.concatenate([part.pool.owner[part.asked[3]] for part in parts])
    numbers, rows = np.unique(owner[owner > 0], return_counts=True)
    return dict(zip(numbers.tolist(), rows.tolist(), strict=True))
