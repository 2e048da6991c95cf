"""A GPU and a TensorRT made of host memory and ONNX Runtime, strict where the real ones are silent.

Addresses must lie in memory that was allocated and not freed, copies must fit, contexts must be given profile, shapes,
addresses and scratch memory of SCRATCH bytes a row before they run, a graph replays what was captured at the addresses
of then. What is built is the ONNX file behind TensorRT's magic.
"""

import contextlib
import ctypes
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ncdeploy.backends.tensorrt import adapter, cudart
from ncdeploy.build import compiler
from ncdeploy.errors import BackendError, OutOfMemoryError
from ncdeploy.export.passes.emulate import Emulate
from ncdeploy.formats.profiles import samples_of

MAGIC = b"ftrt"
VERSIONS = {"tensorrt": "11.4.0.106", "rtx": "1.7.1.116"}
SCRATCH = 100


class Device:
    """What cudart does, in host memory. room: bytes of it."""

    def __init__(self, room: int = 1 << 30, capability: tuple[int, int] = (9, 0)) -> None:
        self.room, self.memory, self.pinned, self.capability = room, {}, {}, capability
        self.streams: set[int] = set()
        self.events: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.log: list[str] = []
        self._next = 1000

    def _handle(self) -> int:
        self._next += 1
        return self._next

    def set_device(self, index: int) -> None:
        assert index == 0

    @contextlib.contextmanager
    def on_device(self, index: int) -> Iterator[None]:
        assert index == 0
        yield

    def malloc(self, size: int) -> int:
        if sum(map(ctypes.sizeof, self.memory.values())) + size > self.room:
            raise OutOfMemoryError("CUDA: out of memory (cudaMalloc)")
        block = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, address: int) -> None:
        del self.memory[address]

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        assert stream in self.streams
        assert self.recording is None, "copies are not captured"
        for address in (target, source):
            block = self.memory.get(address)
            assert block is None or size <= ctypes.sizeof(block), "beyond the end"
        assert (target in self.memory) != (source in self.memory), "between host and device"
        ctypes.memmove(target, source, size)

    def array(self, address: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        block = self.memory[address]  # KeyError: freed, or never allocated
        count = int(np.prod(shape)) if shape else 1
        assert count * np.dtype(dtype).itemsize <= ctypes.sizeof(block)
        return np.frombuffer(block, dtype, count).reshape(shape)

    def new_stream(self) -> int:
        self.streams.add(self._handle())
        return self._next

    def destroy_stream(self, stream: int) -> None:
        self.streams.remove(stream)

    def synchronize(self, stream: int) -> None:
        assert stream in self.streams

    def new_event(self) -> int:
        self.events.add(self._handle())
        return self._next

    def destroy_event(self, event: int) -> None:
        self.events.remove(event)

    def begin_capture(self, stream: int) -> None:
        assert stream in self.streams
        self.recording = []

    def end_capture(self, stream: int) -> int:
        handle = self._handle()
        self.graphs[handle], self.recording = self.recording or [], None
        self.log.append("capture")
        return handle

    def launch(self, graph: int, stream: int) -> None:
        self.log.append("launch")
        for work in self.graphs[graph]:
            work()

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]

    def probe(self, device: int = 0) -> cudart.Gpu:
        return cudart.Gpu(compute_capability=self.capability, name="Simulated GPU", driver="13.0")

    @property
    def held(self) -> int:
        return len(self.memory) + len(self.streams) + len(self.events) + len(self.graphs)


class Engine:
    """What adapter.Engine does, for TensorRT and, with `captures` and `kernels`, for TensorRT for RTX.

    profiles: of rows, and of the samples that conditions are of, which real engines know themselves
    """

    device: Device
    profiles: list[tuple[int, int]]
    conditions: list[str]
    samples: int
    contexts = 0
    streaming = False

    def __init__(
        self, plan: bytes, *, runtime: str = "tensorrt", host_code: bool = False, weights: Path | None = None,
        kernels: bytes = b"",
    ) -> None:  # fmt: skip
        self.captures = runtime == "rtx"
        self.given, self.compiled = kernels, set(json.loads(kernels)) if kernels else set()
        if not plan.startswith(MAGIC):
            raise BackendError("TensorRT cannot load the engine: magic tag does not match")
        self.host_code = host_code
        self.graph = onnx.ModelProto.FromString(plan.removeprefix(MAGIC))
        runnable = Emulate()(self.graph)[0].SerializeToString()  # this CPU has no bfloat16 kernels
        self.session = ort.InferenceSession(runnable, providers=["CPUExecutionProvider"])
        self.memory = 12345

    def inspect(self, context: "Context") -> str:
        assert context.rows is not None
        typed = onnx.shape_inference.infer_shapes(self.graph).graph
        names = {
            onnx.TensorProto.FLOAT: "Float",
            onnx.TensorProto.FLOAT16: "Half",
            onnx.TensorProto.BFLOAT16: "BFloat16",
        }
        types = {v.name: names.get(v.type.tensor_type.elem_type, "Int64") for v in [*typed.value_info, *typed.output]}
        kinds = dict.fromkeys(("MatMul", "Gemm", "Conv"), "gemm")
        layers = [
            {"Name": f"__myl_{n.op_type}_{i}", "LayerType": kinds.get(n.op_type, "kgen"),
             "Inputs": [], "Outputs": [{"Name": o, "Format/Datatype": types[o]} for o in n.output if o in types],
             "Metadata": f"[ONNX Layer: {n.name}]"}
            for i, n in enumerate(typed.node)
        ]  # fmt: skip
        return json.dumps({"Layers": layers})

    def context(self, *, graphs: bool = False) -> "Context":
        self.device.log += ["own graphs"] if self.captures and graphs else []
        return Context(self)

    def kernels(self) -> bytes:
        return json.dumps(sorted(self.compiled)).encode() if self.captures else b""

    def close(self) -> None:
        assert Engine.contexts == 0, "contexts go before the engine"
        self.session = None


class Context:
    def __init__(self, engine: Engine) -> None:
        Engine.contexts += 1
        self.engine, self.profile = engine, 0
        self.rows: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch_size: int | None = None
        self.on_layer: Callable[[str, float], None] | None = None

    def use_profile(self, index: int, stream: int) -> None:
        assert stream in self.engine.device.streams
        self.engine.device.log.append(f"profile {index}")
        self.profile, self.rows = index, None

    def shape(self, shapes: dict[str, tuple[int, ...]]) -> None:
        low, high = self.engine.profiles[self.profile]
        rows = shapes["x"][0]
        if not low <= rows <= high:
            raise BackendError(f"TensorRT could not take x of {rows} rows")
        assert all(1 <= shapes[name][0] <= self.engine.samples for name in self.engine.conditions)
        assert set(shapes) == {i.name for i in self.engine.session.get_inputs()}
        self.rows, self.shapes = rows, shapes

    def scratch(self) -> int:
        assert self.rows is not None
        return SCRATCH * self.rows

    def use_scratch(self, address: int, size: int) -> None:
        assert ctypes.sizeof(self.engine.device.memory[address]) == size
        self.scratch_size = size

    def time_layers(self, on_layer: Callable[[str, float], None]) -> None:
        self.on_layer = on_layer

    def bind(self, addresses: dict[str, int]) -> None:
        self.addresses = dict(addresses)

    def enqueue(self, stream: int) -> None:
        device = self.engine.device
        assert self.rows is not None
        assert stream in device.streams
        assert self.scratch_size is not None
        assert self.scratch_size >= SCRATCH * self.rows
        if self.on_layer is not None:
            for i, node in enumerate(self.engine.graph.graph.node):
                self.on_layer(f"__myl_{node.op_type}_{i}", 0.25)
        if self.engine.captures and self.rows not in self.engine.compiled:
            device.log.append(f"compile {self.rows}")
            self.engine.compiled.add(self.rows)
        addresses, shapes = dict(self.addresses), dict(self.shapes)

        def work() -> None:
            dtypes = {i.name: np.int64 if "int64" in i.type else np.float32 for i in self.engine.session.get_inputs()}
            feeds = {name: device.array(addresses[name], sizes, dtypes[name]).copy() for name, sizes in shapes.items()}
            out = self.engine.session.run(["denoised"], feeds)[0]
            device.array(addresses["denoised"], out.shape, np.float32)[...] = out

        if device.recording is not None:
            device.recording.append(work)
        else:
            device.log.append("enqueue")
            work()

    def close(self) -> None:
        Engine.contexts -= 1


def install(monkeypatch: pytest.MonkeyPatch, *, room: int = 1 << 30, capability: tuple[int, int] = (9, 0)) -> Device:
    """Put it in the place of both TensorRTs and CUDA; the compiler gives back the graph it is given."""
    device = Device(room, capability)
    for name in vars(cudart):
        if hasattr(device, name):
            monkeypatch.setattr(cudart, name, getattr(device, name))

    def order(event: int, first: int, then: int) -> None:
        assert event in device.events

    def compile_graph(onnx: Path, profiles: Any, options: Any, *, on_progress: Any, **given: Any) -> Any:
        device.log.append(f"build {given['runtime']}")
        Engine.profiles = [(p.least, p.most) for p in profiles]
        Engine.conditions, Engine.samples = list(given["conditions"]), samples_of(profiles).most
        on_progress("building", 1, 1)
        return MAGIC + onnx.read_bytes(), {"as read": 1}

    monkeypatch.setattr(cudart, "order", order)
    monkeypatch.setattr(adapter, "installed", lambda runtime="tensorrt": (VERSIONS[runtime], ""))
    monkeypatch.setattr(compiler, "compile_graph", compile_graph)
    monkeypatch.setattr(adapter, "Engine", Engine)
    monkeypatch.setattr(Engine, "device", device, raising=False)
    monkeypatch.setattr(Engine, "contexts", 0)
    return device
