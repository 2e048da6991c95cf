"""model.plan on TensorRT: NumPy arrays in and out, or CUDA tensors that never leave the device.

Calls at the same time, from several threads, each take a runner of their own (see `.runner`): context, stream and
memory. There are as many as there were calls at once.
"""

import contextlib
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Closing, Opening, check_inputs, tensor_on
from ncdeploy.backends.tensorrt import adapter, cudart
from ncdeploy.backends.tensorrt.layers import Layer, list_layers
from ncdeploy.backends.tensorrt.preflight import Machine, check_engine, this_machine
from ncdeploy.backends.tensorrt.runner import Runner
from ncdeploy.errors import BackendError, FileError, InputError
from ncdeploy.files import atomic_write, cache_folder, user_path
from ncdeploy.formats.profiles import samples_of
from ncdeploy.formats.sidecar import Sidecar, digest, graph_digest, read_sidecar
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import sizes
from ncdeploy.sampling.arrays import to_host


class TensorRTBackend(Closing):
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
        file = user_path(path)
        self.sidecar: Sidecar = read_sidecar(path)
        if self.sidecar.graph != "denoiser":
            raise FileError(
                f"{path}: is the engine of a {self.sidecar.graph} graph, which other programs run; here ONNX Runtime "
                f"runs such a graph: ncdeploy sample --engine {self.sidecar.onnx}"
            )
        machine = this_machine(self._index, self.sidecar.runtime)
        check_engine(str(path), self.sidecar, digest(file), machine)
        options = self.sidecar.options
        weights = _weights(file, self.sidecar) if options.stripped else None
        kernels = kernels_file(self.sidecar, machine)
        with cudart.on_device(self._index):
            engine = adapter.Engine(
                file.read_bytes(), runtime=self.sidecar.runtime, host_code=options.version_compatible, weights=weights,
                kernels=kernels.read_bytes() if kernels.is_file() else b"",
            )  # fmt: skip
        self._graphs = graphs
        self._engines, self._runners = [engine], list[Runner]()
        self._idle: list[Runner] = []
        self._lock = threading.Lock()
        self._name = f"{self.sidecar.engine} ({machine.device})"
        # Also at the end of the process, while CUDA is still there.
        self._finalizer = weakref.finalize(self, _release, self._runners, self._engines, self._index, kernels)

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

    def __call__(
        self,
        x: Any,
        sigma: Any,
        labels: Any = None,
        guidance: Any = None,
        *,
        conditions: Mapping[str, Any] | None = None,
        sample: Any = None,
    ) -> Any:
        """x float32 [B, *shape], sigma float32 [B], labels int64 [B] -> denoised float32 [B, *shape], newly allocated.

        guidance: float32 [B] for a graph that takes it (info.guidance), 1 in every row if None.
        conditions, sample: of a model that has some, as at the top of `ncdeploy.backends.base`.
        NumPy arrays give a NumPy array; CUDA tensors must be on the engine's device and give a tensor there, in order
        with torch's current stream, without waiting for the device. More rows than the engine takes go one part after
        another, and so do the rows of more samples than it takes conditions of. Raises InputError for inputs that do
        not fit.
        """
        given = check_inputs(self.info, x, sigma, labels, guidance, conditions, sample)
        if conditions and len(next(iter(conditions.values()))) > samples_of(self.sidecar.profiles).most:
            return self._by_samples(x, sigma, labels, guidance, conditions, sample)
        if len(x) > self.max_rows:
            return self._in_parts(x, sigma, labels, guidance, sample, conditions=conditions)
        on_host = isinstance(x, np.ndarray)
        for name, value in given.items():
            if isinstance(value, np.ndarray) != on_host:
                raise InputError(
                    f"{name}: got {type(value).__name__}; give all inputs as NumPy arrays or all as tensors"
                )
            if not on_host and (value.device.type != "cuda" or (value.device.index or 0) != self._index):
                raise InputError(f"{name}: is on {value.device}; this engine runs on cuda:{self._index}")
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        with cudart.on_device(self._index), self._runner(shapes) as runner:
            if on_host:
                return _run_on_arrays(runner, given, shapes)
            tensors = {name: value.contiguous() for name, value in given.items()}
            fresh = tensors["x"].new_empty(tuple(x.shape))
            theirs = int(sys.modules["torch"].cuda.current_stream(x.device).cuda_stream)
            inputs = {n: (t.data_ptr(), t.numel() * t.element_size()) for n, t in tensors.items()}
            cudart.order(runner.event, theirs, runner.stream)
            try:
                runner(inputs, fresh.data_ptr(), shapes)
            finally:  # torch may give the tensors' memory to others as soon as they are dropped
                cudart.order(runner.event, runner.stream, theirs)
            return fresh

    def layers(self, rows: int, *, calls: int = 20) -> tuple[Layer, ...]:
        """Every layer, and its mean time over some calls of this many rows, one after another without CUDA graphs.

        Raises InputError for more rows than the engine takes.
        """
        first = self.info.labels[0] if self.info.num_classes else 1
        shapes = sizes(self.info.inputs, batch=rows, samples=1)
        values = {"labels": first, **dict.fromkeys((c.name for c in self.info.conditions), 0), "sample": 0}
        given: dict[str, Any] = {
            port.name: np.full(shapes[port.name], values.get(port.name, 1), port.dtype) for port in self.info.inputs
        }
        spent: dict[str, float] = {}

        def add(name: str, milliseconds: float) -> None:
            spent[name] = spent.get(name, 0.0) + milliseconds / calls

        engine = self._loaded()
        with cudart.on_device(self._index), contextlib.closing(Runner(engine, self.sidecar, graphs=False)) as runner:
            _run_on_arrays(runner, given, shapes)  # what a first call sets up is not what later ones take
            runner.context.time_layers(add)
            for _ in range(calls):
                _run_on_arrays(runner, given, shapes)
            return list_layers(engine.inspect(runner.context), spent)

    def _in_parts(self, *of_rows: Any, conditions: Mapping[str, Any] | None) -> Any:
        """x, sigma, labels, guidance and sample, so many rows at a time."""
        parts = []
        for i in range(0, len(of_rows[0]), self.max_rows):
            *inputs, sample = (a if a is None else a[i : i + self.max_rows] for a in of_rows)
            parts.append(self(*inputs, conditions=conditions, sample=sample))
        return _joined(parts)

    def _by_samples(
        self, x: Any, sigma: Any, labels: Any, guidance: Any, conditions: Mapping[str, Any], sample: Any
    ) -> Any:  # fmt: skip
        """The rows of so many samples at a time. On a GPU this waits, to see whose each row is."""
        most, whose = samples_of(self.sidecar.profiles).most, to_host(sample)
        parts, order = [], []
        for first in range(0, int(whose.max()) + 1, most):
            rows = np.flatnonzero((first <= whose) & (whose < first + most))
            if rows.size:
                own = {name: values[first : first + most] for name, values in conditions.items()}
                inputs = (a if a is None else a[rows] for a in (x, sigma, labels, guidance))
                parts.append(self(*inputs, conditions=own, sample=sample[rows] - first))
                order.append(rows)
        return _joined(parts)[np.argsort(np.concatenate(order))]

    def close(self) -> None:
        """Release contexts, then the engine; calling the backend afterwards is an error."""
        self._idle.clear()
        self._finalizer()

    def _loaded(self) -> adapter.Engine:
        if not self._engines:
            raise BackendError(f"{self._name}: the engine was closed; open it again")
        return self._engines[0]

    @contextlib.contextmanager
    def _runner(self, shapes: dict[str, tuple[int, ...]]) -> Iterator[Runner]:
        """A runner that no other call uses; one that is prepared for these shapes, if there is one."""
        engine = self._loaded()
        with self._lock:
            runner = next((r for r in self._idle if r.shapes == shapes), self._idle[-1] if self._idle else None)
            if runner is not None:
                self._idle.remove(runner)
        if runner is None:
            runner = Runner(engine, self.sidecar, graphs=self._graphs)
            self._runners.append(runner)
        try:
            yield runner
        finally:
            self._idle.append(runner)


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else sys.modules["torch"].cat(parts)


def _run_on_arrays(runner: Runner, given: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> NDArray[Any]:
    arrays = {name: np.ascontiguousarray(value) for name, value in given.items()}
    out = np.empty_like(arrays["x"])
    runner({n: (a.ctypes.data, a.nbytes) for n, a in arrays.items()}, out.ctypes.data, shapes)
    cudart.synchronize(runner.stream)
    return out


def kernels_file(sidecar: Sidecar, machine: Machine) -> Path:
    """Where the kernels are kept that TensorRT for RTX compiles for the GPU. In the user's cache folder and not beside
    the plan: they are code, and what lies beside a plan may have come with it."""
    key = f"{sidecar.plan_sha256} {machine.tensorrt} {machine.device} {machine.driver}"
    return cache_folder() / "kernels" / f"{hashlib.sha256(key.encode()).hexdigest()}.cache"


def _keep(kernels: bytes, file: Path) -> None:
    """Write kernels for the next process; a cache folder that cannot be written is no error."""
    with contextlib.suppress(OSError, FileError):
        if kernels and (not file.is_file() or file.read_bytes() != kernels):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                temporary.write_bytes(kernels)


def _release(runners: list[Runner], engines: list[adapter.Engine], index: int, kernels: Path) -> None:
    """Contexts go before their engine. Where CUDA cannot release them any more, there is nothing left to release."""
    with contextlib.suppress(BackendError), cudart.on_device(index):
        while runners:
            with contextlib.suppress(BackendError):
                runners.pop().close()
    while engines:
        engine = engines.pop()
        _keep(engine.kernels(), kernels)
        engine.close()


def _weights(plan: Path, sidecar: Sidecar) -> Path:
    """The graph that a stripped plan takes its weights from. Raises FileError unless it is the one beside the plan."""
    graph = plan.with_name(sidecar.onnx)
    if not graph.is_file() or graph_digest(graph) != sidecar.onnx_sha256:
        raise FileError(f"{plan}: has no weights of its own; put the {sidecar.onnx} it was built from beside it")
    return graph


def open_file(path: str | os.PathLike[str], opening: Opening) -> TensorRTBackend:
    """A .plan for `open_engine`; it runs on CUDA alone, which "cpu", the default, then means."""
    if opening.threads is not None or opening.providers is not None or opening.info is not None:
        raise InputError(f"{path}: a TensorRT engine takes no threads, providers or description of the model")
    if opening.mode not in (None, "graphs", "eager"):
        raise InputError(f"mode: got {opening.mode!r}, expected graphs or eager for a TensorRT engine")
    device = "cuda" if opening.device == "cpu" else opening.device
    return TensorRTBackend(path, device=device, graphs=opening.mode != "eager")
