"""A PyTorch module replayed as CUDA graphs: one launch a call instead of one for every kernel.

A graph holds the shapes it was captured with, and a parallel run asks for another number of rows in nearly every call.
So graphs are made for a few sizes only (`sampling.callsizes`), and a batch is filled up to the next of them.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ncdeploy.sampling.callsizes import CallSizes
from ncdeploy.sampling.capture import Replay

Inputs = Sequence[Tensor | None]


class GraphedModule(threading.local):
    """Calls a module on CUDA tensors that share their first axis; its rows must not depend on each other. Each thread
    has graphs of its own, and a module whose work cannot be captured runs as it is.

    capture: capture(run, pool) -> (replay, output, pool), see `capture`
    sizes:   the numbers of rows that graphs are made for
    """

    def __init__(
        self, module: Callable[..., Tensor], capture: Callable[..., tuple[Replay, Tensor, Any]], sizes: CallSizes
    ) -> None:
        self._module, self._capture, self._sizes = module, capture, sizes
        self._graphs: dict[tuple[Any, ...], tuple[Inputs, dict[str, Tensor], Replay, Tensor]] = {}
        self._pool: Any = None
        self._refused = False

    def __call__(
        self, *inputs: Tensor | None, conditions: Mapping[str, Tensor] | None = None, sample: Tensor | None = None
    ) -> Tensor:
        """The module's output, [B, ...], in memory that the next call overwrites.

        conditions: of samples, any number of which has graphs of its own, with sample [B], as for `Denoiser.forward`
        """
        rows = max(len(a) for a in inputs if a is not None)
        size = self._sizes.fit(rows)
        whole = dict(conditions or {})
        own = (*inputs, sample)
        key = (size, *(None if a is None else (a.dtype, a.shape[1:]) for a in own), *(a.shape for a in whole.values()))
        if key not in self._graphs and not self._refused:
            try:
                self._graphs[key] = self._make(own, whole, rows, size)
                self._sizes.ready.add(size)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                self._refused = True
        if self._refused:
            return self._run(own, whole)
        held, held_whole, replay, output = self._graphs[key]
        for mine, given in zip(held, own, strict=True):
            if mine is not None and given is not None:
                mine[:rows].copy_(given)
        for name, given in whole.items():
            held_whole[name].copy_(given)
        replay()
        return output[:rows]

    def _run(self, own: Inputs, whole: dict[str, Tensor]) -> Tensor:
        *inputs, sample = own
        return self._module(*inputs, conditions=whole, sample=sample) if whole else self._module(*inputs)

    def _make(
        self, own: Inputs, whole: dict[str, Tensor], rows: int, size: int
    ) -> tuple[Inputs, dict[str, Tensor], Replay, Tensor]:  # fmt: skip
        """Inputs of `size` rows, the further ones filled with the last row given, and the graph that reads them."""
        last = torch.arange(size).clamp(max=rows - 1)
        held = [None if a is None else a[last.to(a.device)].contiguous() for a in own]
        held_whole = {name: a.clone().contiguous() for name, a in whole.items()}
        replay, output, self._pool = self._capture(lambda: self._run(held, held_whole), self._pool)
        return held, held_whole, replay, output
