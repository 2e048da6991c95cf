"""Every name of TensorRT that is used is in the real bindings of 10.12, 10.16 and 11.4, and of TensorRT for RTX 1.7."""

import ctypes
import functools
import json
import re
from pathlib import Path

import pytest

from ncdeploy.backends.tensorrt import adapter, callbacks, cudart
from ncdeploy.build import compiler
from ncdeploy.errors import BackendError
from ncdeploy.formats.sidecar import RTX_TARGETS
from tensorrt_bindings_stub import CUDART, LEAN, WHEELS, run_with, unpacked
from tensorrt_names import used_names

ADAPTER = Path(adapter.__file__).read_text()
CALLBACKS = Path(callbacks.__file__).read_text()
COMPILER = Path(compiler.__file__).read_text()
RTX_ALONE = ADAPTER[ADAPTER.index("def _check_validity") : ADAPTER.index("class Context:")]
SHARED = ADAPTER.replace(RTX_ALONE, "")
NAMES = used_names(SHARED) | used_names(CALLBACKS) | used_names(COMPILER)
MISSING = """
import json, sys
import tensorrt
def there(name):
    at = tensorrt
    for part in name.split("."):
        at = getattr(at, part, None)
        if at is None:
            return False
    return True
print(json.dumps([tensorrt.__version__, [n for n in NAMES if not there(n)]]))
"""


def missing(version, names, tmp_path):
    done = run_with(version, f"NAMES = {sorted(names)!r}\n{MISSING}", tmp_path)
    assert done.returncode == 0, done.stderr
    found, absent = json.loads(done.stdout)
    assert found.startswith(f"{version}.")
    return absent


@pytest.mark.parametrize("version", WHEELS)
def test_every_name_is_there(version, tmp_path):
    assert missing(version, NAMES, tmp_path) == []


def there(module, name):
    return functools.reduce(lambda at, part: getattr(at, part, None), name.split("."), module) is not None


def test_every_name_is_in_tensorrt_for_rtx():
    trt = adapter.module("rtx")
    unused = {"CreateConfig", "HardwareCompatibilityLevel"}  # of the branch for TensorRT
    names = {name for name in NAMES | used_names(RTX_ALONE) if name.partition(".")[0] not in unused}
    assert {"IRuntimeConfig.cuda_graph_strategy", "Runtime.get_engine_validity", "IRuntimeCache.serialize"} <= names
    assert [name for name in sorted(names) if not there(trt, name)] == []
    assert not there(trt, "IRuntimeConfig.cuda_graphs")
    assert {f"SM{major}{minor}" for major, minor in RTX_TARGETS} == {
        name for name in trt.ComputeCapability.__members__ if name.startswith("SM")
    }
    assert adapter.installed("rtx") == (trt.__version__, "")


def test_the_collector_sees_what_the_adapter_uses():
    names = NAMES
    assert len(names) > 60
    assert {
        "BuilderFlag.TF32", "IBuilderConfig.clear_flag", "INetworkDefinition.get_layer",
        "IExecutionContext.execute_async_v3", "ITensor.shape",
        "ICudaEngine.create_execution_context", "ICudaEngine.device_memory_size_v2", "Runtime.engine_host_code_allowed",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "ILogger.INTERNAL_ERROR", "OnnxParserRefitter",
        "LayerInformationFormat.JSON", "Refitter.refit_cuda_engine", "ParserError.node_operator",
    } <= names  # fmt: skip


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        ("BuilderFlag.TF32", "BuilderFlag.FP16", "BuilderFlag.FP16"),  # gone since 11
        ("config.set_flag", "config.set_flags", "IBuilderConfig.set_flags"),
        ("cuda_engine.device_memory_size_v2", "cuda_engine.device_memory_size", "ICudaEngine.device_memory_size"),
        ("trt.OnnxParserRefitter", "trt.OnnxRefitter", "OnnxRefitter"),
    ],
)
def test_a_wrong_name_is_found(right, wrong, name, tmp_path):
    assert right in SHARED + COMPILER
    planted = used_names(SHARED.replace(right, wrong)) | used_names(COMPILER.replace(right, wrong))
    assert missing("11.4", planted, tmp_path) == [name]


def test_what_11_removed_is_in_10_and_unused(tmp_path):
    gone = {"BuilderFlag.FP16", "BuilderFlag.BF16", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"}
    assert missing("10.12", gone, tmp_path) == []
    assert set(missing("11.4", gone, tmp_path)) == gone
    assert not gone & NAMES


RUN = """
from pathlib import Path
import tensorrt
from ncdeploy.errors import BackendError
from ncdeploy.backends.tensorrt import adapter
from ncdeploy.backends.tensorrt.callbacks import new_monitor
from ncdeploy.backends.tensorrt.preflight import VERSIONS, parse_version
from ncdeploy.build.compiler import compile_graph
from ncdeploy.formats.sidecar import BuildOptions
found, failure = adapter.installed()
oldest, newest = VERSIONS["tensorrt"]
assert failure == "" and oldest <= parse_version(found)[:2] < newest, found
log = adapter.new_log(tensorrt)
log.log(tensorrt.ILogger.WARNING, "fine")
assert log.said == ""
log.log(tensorrt.ILogger.ERROR, "a\\n b")
assert log.said == "a b"
seen = []
stop = []
monitor = new_monitor(tensorrt, lambda *step: seen.append(step), lambda: bool(stop))
monitor.phase_start("building", None, 3)
monitor.phase_start("inner", "building", 9)
assert monitor.step_complete("inner", 4) and monitor.step_complete("building", 0)
monitor.phase_finish("inner")
monitor.phase_finish("building")
assert seen == [("building", 0, 3), ("building", 1, 3), ("building", 3, 3)], seen
monitor.phase_start("building", None, 3)
stop.append(1)
assert monitor.step_complete("building", 0) is False  # the build ends here
times = []
profiler = adapter.new_profiler(tensorrt, lambda *time: times.append(time))
assert isinstance(profiler, tensorrt.IProfiler)
profiler.report_layer_time("gemm", 0.5)
assert times == [("gemm", 0.5)]
for use in (
    lambda: compile_graph(Path("m.onnx"), [], BuildOptions(), precision="fp32", products=[]),
    lambda: adapter.Engine(b"ftrt"),
):
    try:
        use()
    except BackendError as e:
        print(e)
"""


@pytest.mark.parametrize("version", WHEELS)
def test_the_adapter_runs_to_where_tensorrt_starts(version, tmp_path):
    """Logger and progress monitor are subclasses of TensorRT's and work; its factories fail as without a driver."""
    done = run_with(version, RUN, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["TensorRT does not start: is there an NVIDIA driver?"] * 2


RUN_LEAN = """
import tensorrt_lean
from ncdeploy.errors import BackendError, DependencyError
from ncdeploy.backends.tensorrt import adapter
def there(name):
    at = tensorrt_lean
    for part in name.split("."):
        at = getattr(at, part, None)
    return at is not None
assert adapter.installed() == (tensorrt_lean.__version__, "")
print([name for name in NAMES if not there(name)])
for host_code in (True, False):
    try:
        adapter.Engine(b"ftrt", host_code=host_code)
    except (BackendError, DependencyError) as e:
        print(e)
"""


@pytest.mark.parametrize("version", LEAN)
def test_the_lean_runtime_runs_version_compatible_plans_and_no_others(version, tmp_path):
    running = SHARED[SHARED.index("class Engine:") :]
    profiler = CALLBACKS[CALLBACKS.index("def new_profiler") :]
    names = used_names(running) | used_names(profiler)
    assert {"Runtime.deserialize_cuda_engine", "IExecutionContext.execute_async_v3", "IProfiler.__init__"} <= names
    done = run_with(version, f"NAMES = {sorted(names)!r}\n{RUN_LEAN}", tmp_path, lean=True)
    assert done.returncode == 0, done.stderr
    absent, with_host_code, without = done.stdout.splitlines()
    unused = {name.partition(".")[0] for name in json.loads(absent.replace("'", '"'))}
    assert unused == {"EngineInspector", "OnnxParserRefitter"}  # neither is asked of it
    assert with_host_code == "TensorRT does not start: is there an NVIDIA driver?"
    assert without.startswith("TensorRT is not installed: pip install tensorrt-cu13")


@pytest.fixture
def real_cudart(monkeypatch):
    path = next(unpacked(CUDART).rglob("libcudart.so.13"))
    monkeypatch.setattr(cudart, "candidates", lambda: [str(path)])
    cudart.library.cache_clear()
    yield path
    cudart.library.cache_clear()


def test_without_a_driver_cuda_says_so_in_one_line(real_cudart):
    gpu = cudart.probe()
    assert (gpu.compute_capability is None) == bool(gpu.failure)
    assert cudart.probe(99).failure
    if not gpu.failure:
        return
    assert re.search(r"CUDA: .*(driver|device).* \(cuda\w+\)$", gpu.failure)
    for use in (lambda: cudart.malloc(8), cudart.new_stream, cudart.new_event, lambda: cudart.set_device(0)):
        with pytest.raises(BackendError, match=r"^CUDA: "):
            use()


def test_a_missing_runtime_names_the_library_and_the_pip_line(monkeypatch):
    monkeypatch.setattr(cudart, "candidates", lambda: ["libcudart.so.99"])
    cudart.library.cache_clear()
    assert "libcudart.so.99" in cudart.probe().failure
    assert "pip install nvidia-cuda-runtime" in cudart.probe().failure
    cudart.library.cache_clear()


def test_every_cuda_function_is_in_the_real_runtime(real_cudart):
    path = real_cudart
    library = ctypes.CDLL(str(path))
    source = Path(cudart.__file__).read_text()
    names = set(re.findall(r'"(cuda[A-Z]\w+)"', source)) - {"cudaGetDeviceProperties_v2"}
    assert len(names) >= 18
    assert [name for name in sorted(names) if not hasattr(library, name)] == []
    assert not hasattr(library, "cudaNoSuchFunction")
