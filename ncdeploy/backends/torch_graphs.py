"""A PyTorch module replayed as CUDA graphs: one launch a call instead of one for every kernel.

A graph holds the shapes it was captured with, and a parallel run asks for another number of rows in nearly every call.
So graphs are made for a few sizes only (`sampling.callsizes`), and a batch is filled up to the next of them.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ncdeploy.sampling.callsizes import CallSizes

WARM = 3  # calls before a capture: libraries choose algorithms and take workspace in the first

Inputs = Sequence[Tensor | None]
Replay = Callable[[], None]


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
        self._graphs: dict[tuple[Any, ...], tuple[list[Tensor | None], Replay, Tensor]] = {}
        self._pool: Any = None
        self._refused = False

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """The module's output, [B, ...], in memory that the next call overwrites."""
        rows = max(len(a) for a in inputs if a is not None)
        size = self._sizes.fit(rows)
        key = (size, *(None if a is None else (a.dtype, a.shape[1:]) for a in inputs))
        if key not in self._graphs and not self._refused:
            try:
                self._graphs[key] = self._make(inputs, rows, size)
                self._sizes.ready.add(size)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                self._refused = True
        if self._refused:
            return self._module(*inputs)
        held, replay, output = self._graphs[key]
        for own, given in zip(held, inputs, strict=True):
            if own is not None and given is not None:
                own[:rows].copy_(given)
        replay()
        return output[:rows]

    def _make(self, inputs: Inputs, rows: int, size: int) -> tuple[list[Tensor | None], Replay, Tensor]:
        """Inputs of `size` rows, the further ones filled with the last row given, and the graph that reads them."""
        last = torch.arange(size).clamp(max=rows - 1)
        held = [None if a is None else a[last.to(a.device)].contiguous() for a in inputs]
        replay, output, self._pool = self._capture(lambda: self._module(*held), self._pool)
        return held, replay, output


def capture(run: Callable[[], Tensor], pool: Any) -> tuple[Replay, Tensor, Any]:
    """A CUDA graph of run(), the tensor that it writes, and the memory that it shares with the graphs before it.

    pool: of the graph before, None at first. Graphs share it because only one of them runs at a time.

    Raises RuntimeError for work that cannot be captured, such as reading a value back to the host.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = run()
    return graph.replay, output, graph.pool()
