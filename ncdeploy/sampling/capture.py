"""Work on a CUDA device as a graph: one launch instead of one for every kernel."""

import sys
from collections.abc import Callable
from typing import Any

WARM = 3  # runs before a capture: libraries choose algorithms and take workspace in the first

Replay = Callable[[], None]


def capture(
    run: Callable[[], Any], pool: Any = None, *, commit: Callable[[Any], None] | None = None
) -> tuple[Replay, Any, Any]:
    """A CUDA graph of run(), the tensors that it returns and writes again each time, and the memory of its own.

    Args:
        run: is called a few times; what it changes in place must not depend on how often
        pool: of the graph before, None at first. Graphs share it where only one of them runs at a time
        commit: with what `run` returned, the end of the graph's work, which is not tried beforehand

    Raises:
        RuntimeError: for work that cannot be captured, such as reading a value back to the host
    """
    cuda = sys.modules["torch"].cuda
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        for _ in range(WARM):
            run()
    cuda.current_stream().wait_stream(stream)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = run()
        if commit is not None:
            commit(output)
    return graph.replay, output, graph.pool()
