"""model.plan on TensorRT: NumPy arrays in and out, or CUDA tensors that never leave the device.

Each thread has an execution context, a stream of its own and buffers that stay where they are, into which inputs are
copied. A call of the same number of rows as the two before it is replayed as a CUDA graph, which costs the host one
launch; another number of rows drops the graph, and two more calls make the next.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ncdeploy.backends.base import check_inputs, tensor_on
from ncdeploy.errors import BackendError, FileError, InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.tensorrt import adapter, cudart
from ncdeploy.tensorrt.preflight import check_engine, this_machine
from ncdeploy.tensorrt.profiles import choose
from ncdeploy.tensorrt.sidecar import Sidecar, digest, read_sidecar

WARM = 2  # calls of one shape before it is captured: TensorRT finishes its set-up in the first


class TensorRTBackend:
    """An engine that `ncdeploy build` made for this machine, checked before TensorRT sees it.

    device: "cuda" or "cuda:N"
    graphs: replay repeated calls as CUDA graphs

    Raises FileError for a plan without its record or changed since, DependencyError without TensorRT, BackendError
    for a machine that the engine does not fit, each with what to do; OutOfMemoryError.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "cuda", graphs: bool = True) -> None:
        kind, _, index = device.partition(":")
        if kind != "cuda" or (index and not index.isdecimal()):
            raise InputError(f"device: got {device!r}; a TensorRT engine runs on cuda or cuda:N")
        self._index = int(index or 0)
        file = Path(path).expanduser()
        self.sidecar: Sidecar = read_sidecar(path)
        machine = this_machine(self._index)
        check_engine(str(path), self.sidecar, digest(file), machine)
        cudart.set_device(self._index)
        options = self.sidecar.options
        weights = _weights(file, self.sidecar) if options.stripped else None
        self._engine: adapter.Engine | None = adapter.Engine(
            file.read_bytes(), host_code=options.version_compatible, weights=weights
        )
        self._graphs = graphs
        self._threads = threading.local()
        self._runners: list[_Runner] = []
        self._name = f"TensorRT {machine.tensorrt} ({machine.device})"

    @property
    def info(self) -> ModelInfo:
        return self.sidecar.model

    @property
    def name(self) -> str:
        return self._name

    @property
    def like(self) -> Any:
        return tensor_on(f"cuda:{self._index}")

    @property
    def max_rows(self) -> int:
        """Most rows of one call."""
        return self.sidecar.profiles[-1].most

    def __call__(self, x: Any, sigma: Any, labels: Any = None, guidance: Any = None) -> Any:
        """x float32 [B, *shape], sigma float32 [B], labels int64 [B] -> denoised float32 [B, *shape], newly allocated.

        guidance: float32 [B] for a graph that takes it (info.guidance), 1 in every row if None.
        NumPy arrays give a NumPy array; CUDA tensors must be on the engine's device and give a tensor there, in order
        with torch's current stream, without waiting for the device. More rows than the engine takes go one part after
        another. Raises InputError for inputs that do not fit.
        """
        check_inputs(self.info, x, sigma, labels, guidance)
        if len(x) > self.max_rows:
            return self._in_parts(x, sigma, labels, guidance)
        if self._engine is None:
            raise BackendError(f"{self._name}: the engine was closed; open it again")
        given = {"x": x, "sigma": sigma}
        if self.info.num_classes:
            given["labels"] = labels
        if self.info.guidance:
            given["guidance"] = sigma * 0 + 1 if guidance is None else guidance
        on_host = isinstance(x, np.ndarray)
        for name, value in given.items():
            if isinstance(value, np.ndarray) != on_host:
                raise InputError(
                    f"{name}: got {type(value).__name__}; give all inputs as NumPy arrays or all as tensors"
                )
            if not on_host and (value.device.type != "cuda" or (value.device.index or 0) != self._index):
                raise InputError(f"{name}: is on {value.device}; this engine runs on cuda:{self._index}")
        runner = self._runner(self._engine)
        if on_host:
            arrays = {name: np.ascontiguousarray(value) for name, value in given.items()}
            out = np.empty_like(arrays["x"])
            runner({n: (a.ctypes.data, a.nbytes) for n, a in arrays.items()}, out.ctypes.data, len(x))
            cudart.synchronize(runner.stream)
            return out
        tensors = {name: value.contiguous() for name, value in given.items()}
        fresh = tensors["x"].new_empty(tuple(x.shape))
        theirs = int(sys.modules["torch"].cuda.current_stream(x.device).cuda_stream)
        cudart.order(runner.event, theirs, runner.stream)
        runner(
            {n: (t.data_ptr(), t.numel() * t.element_size()) for n, t in tensors.items()}, fresh.data_ptr(), len(x)
        )  # fmt: skip
        cudart.order(runner.event, runner.stream, theirs)
        return fresh

    def _in_parts(self, *inputs: Any) -> Any:
        starts = range(0, len(inputs[0]), self.max_rows)
        parts = [self(*(a if a is None else a[i : i + self.max_rows] for a in inputs)) for i in starts]
        return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else sys.modules["torch"].cat(parts)

    def close(self) -> None:
        """Release contexts, then the engine; calling the backend afterwards is an error."""
        for runner in self._runners:
            runner.close()
        self._runners.clear()
        self._threads = threading.local()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __del__(self) -> None:
        if getattr(self, "_runners", None) is not None:  # nothing to release if opening failed early
            self.close()

    def _runner(self, engine: adapter.Engine) -> "_Runner":
        runner: _Runner | None = getattr(self._threads, "runner", None)
        if runner is None:
            cudart.set_device(self._index)
            runner = self._threads.runner = _Runner(engine, self.sidecar, graphs=self._graphs)
            self._runners.append(runner)
        return runner


class _Runner:
    """Context, stream and buffers of one thread."""

    def __init__(self, engine: adapter.Engine, sidecar: Sidecar, *, graphs: bool) -> None:
        self.sidecar, self.graphs = sidecar, graphs
        self.context = engine.context()
        self.stream = self.event = self.graph = 0
        self.buffers: dict[str, int] = {}
        self.capacity = self.rows = self.repeats = 0
        try:
            self.stream = cudart.new_stream()
            self.event = cudart.new_event()
        except BackendError:
            self.close()
            raise

    def __call__(self, inputs: dict[str, tuple[int, int]], output: int, rows: int) -> None:
        """Copy inputs (address, bytes) in, run, copy D of `rows` rows to the address `output`; all in stream order."""
        self._prepare(inputs, rows)
        for name, (address, size) in inputs.items():
            cudart.copy(self.buffers[name], address, size, self.stream)
        if self.graph:
            cudart.launch(self.graph, self.stream)
        else:
            self.context.enqueue(self.stream)
            self.repeats += 1
            if self.graphs and self.repeats == WARM:
                self.graph = self._capture()
        cudart.copy(output, self.buffers["denoised"], inputs["x"][1], self.stream)

    def close(self) -> None:
        """Release everything; the stream's work is awaited first."""
        if self.stream:
            cudart.synchronize(self.stream)
        self._drop_graph()
        self.context.close()
        for address in self.buffers.values():
            cudart.free(address)
        self.buffers.clear()
        if self.event:
            cudart.destroy_event(self.event)
        if self.stream:
            cudart.destroy_stream(self.stream)
        self.stream = self.event = 0

    def _prepare(self, inputs: dict[str, tuple[int, int]], rows: int) -> None:
        """Profile, shapes and buffers for this many rows."""
        if rows == self.rows:
            return
        self._drop_graph()
        self.rows = 0  # until all of the below has worked
        self.context.use_profile(choose(self.sidecar.profiles, rows), self.stream)
        info = self.sidecar.model
        self.context.shape(rows, {name: info.shape if name == "x" else () for name in inputs})
        if rows > self.capacity:
            self._allocate({name: size for name, (_, size) in inputs.items()})
            self.capacity = rows
        self.context.bind(self.buffers)
        self.rows, self.repeats = rows, 0

    def _allocate(self, sizes: dict[str, int]) -> None:
        cudart.synchronize(self.stream)
        for name in list(self.buffers):
            cudart.free(self.buffers.pop(name))
        self.capacity = 0
        for name, size in {**sizes, "denoised": sizes["x"]}.items():
            self.buffers[name] = cudart.malloc(size)

    def _capture(self) -> int:
        """The call as a CUDA graph, 0 if something in it cannot be captured: then calls go on one by one."""
        try:
            cudart.begin_capture(self.stream)
            try:
                self.context.enqueue(self.stream)
            finally:
                graph = cudart.end_capture(self.stream)
        except BackendError:
            self.graphs = False
            return 0
        return graph

    def _drop_graph(self) -> None:
        if self.graph:
            cudart.synchronize(self.stream)  # it may still be running
            cudart.destroy_graph(self.graph)
            self.graph = 0


def _weights(plan: Path, sidecar: Sidecar) -> Path:
    """The graph that a stripped plan takes its weights from. Raises FileError unless it is the one beside the plan."""
    graph = plan.with_name(sidecar.onnx)
    if not graph.is_file() or digest(graph) != sidecar.onnx_sha256:
        raise FileError(f"{plan}: has no weights of its own; put the {sidecar.onnx} it was built from beside it")
    return graph
