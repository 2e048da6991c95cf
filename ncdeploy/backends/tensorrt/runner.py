"""One execution context with a stream and memory of its own: runs one call at a time.

Inputs are copied into buffers that stay where they are. A call of the same shapes as the two before it, of rows and of
the samples that have conditions, is replayed as a CUDA graph, which costs the host one launch; other shapes drop the
graph, and two more calls make the next. TensorRT for RTX does this itself. All work is in the order of the runner's
stream, which the caller orders with others.
"""

import contextlib

from ncdeploy.backends.tensorrt import adapter, cudart
from ncdeploy.errors import BackendError, OutOfMemoryError
from ncdeploy.formats.profiles import choose
from ncdeploy.formats.sidecar import Sidecar

WARM = 2  # calls of one shape before it is captured: TensorRT finishes its set-up in the first


class Runner:
    """Of an engine that is loaded, on the device that is current. shapes: of the calls it is prepared for, {} for none.

    graphs: replay repeated calls; an engine that streams weights cannot be captured, and is not
    """

    def __init__(self, engine: adapter.Engine, sidecar: Sidecar, *, graphs: bool) -> None:
        self.context = engine.context(graphs=graphs)
        self.stream = self.event = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._sidecar, self._graphs = sidecar, graphs and not (engine.streaming or engine.captures)
        self._graph = self._repeats = 0
        self._buffers, self._sizes = dict[str, int](), dict[str, int]()
        self._scratch, self._scratch_size = 0, 0
        try:
            self.stream = cudart.new_stream()
            self.event = cudart.new_event()
        except BackendError:
            self.close()
            raise

    def __call__(
        self, inputs: dict[str, tuple[int, int]], output: int, shapes: dict[str, tuple[int, ...]]
    ) -> None:  # fmt: skip
        """Copy inputs (address, bytes) of these shapes in, run, copy D to the address `output`; all in stream order."""
        self._prepare({name: size for name, (_, size) in inputs.items()}, shapes)
        for name, (address, size) in inputs.items():
            cudart.copy(self._buffers[name], address, size, self.stream)
        if self._graph:
            cudart.launch(self._graph, self.stream)
        else:
            self.context.enqueue(self.stream)
            self._repeats += 1
            if self._graphs and self._repeats == WARM:
                self._graph = self._capture()
        cudart.copy(output, self._buffers["denoised"], inputs["x"][1], self.stream)

    def close(self) -> None:
        """Release everything; the stream's work is awaited first."""
        if self.stream:
            cudart.synchronize(self.stream)
        self._drop_graph()
        self.context.close()
        self._free()
        if self.event:
            cudart.destroy_event(self.event)
        if self.stream:
            cudart.destroy_stream(self.stream)
        self.stream = self.event = 0
        self.shapes = {}

    def _prepare(self, sizes: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        """Profile, shapes and memory for calls whose inputs have these shapes and bytes."""
        if shapes == self.shapes:
            return
        self._drop_graph()
        self.shapes = {}  # until all of the below has worked
        self.context.use_profile(choose(self._sidecar.profiles, shapes["x"][0]), self.stream)
        self.context.shape(shapes)
        try:
            if any(size > self._sizes.get(name, 0) for name, size in sizes.items()):
                self._allocate({name: max(size, self._sizes.get(name, 0)) for name, size in sizes.items()})
            self._reserve(self.context.scratch())
        except OutOfMemoryError:
            self._free()  # or a smaller call would find no room beside what this one took
            raise
        self.context.bind(self._buffers)
        self.shapes, self._repeats = shapes, 0

    def _free(self) -> None:
        """Give all memory back; the stream must be idle."""
        while self._buffers:
            cudart.free(self._buffers.popitem()[1])
        if self._scratch:
            cudart.free(self._scratch)
        self._scratch = self._scratch_size = 0
        self._sizes = {}

    def _allocate(self, sizes: dict[str, int]) -> None:
        cudart.synchronize(self.stream)
        self._free()
        for name, size in {**sizes, "denoised": sizes["x"]}.items():
            self._buffers[name] = cudart.malloc(size)
        self._sizes = sizes

    def _reserve(self, size: int) -> None:
        """Scratch memory for the engine; the largest so far is kept."""
        if size > self._scratch_size:
            cudart.synchronize(self.stream)
            if self._scratch:
                cudart.free(self._scratch)
                self._scratch = self._scratch_size = 0
            self._scratch, self._scratch_size = cudart.malloc(size), size
        self.context.use_scratch(self._scratch, self._scratch_size)

    def _capture(self) -> int:
        """The call as a CUDA graph, 0 if something in it cannot be captured: then calls go on one by one."""
        try:
            cudart.begin_capture(self.stream)
        except BackendError:
            self._graphs = False
            return 0
        try:
            self.context.enqueue(self.stream)
        except BackendError:
            self._graphs = False
            with contextlib.suppress(BackendError):
                cudart.destroy_graph(cudart.end_capture(self.stream))
            return 0
        try:
            return cudart.end_capture(self.stream)
        except BackendError:
            self._graphs = False
            return 0

    def _drop_graph(self) -> None:
        if self._graph:
            cudart.synchronize(self.stream)  # it may still be running
            cudart.destroy_graph(self._graph)
            self._graph = 0
