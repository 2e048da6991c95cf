"""The TensorRT backend and `ncdeploy build` on a simulated GPU: what is not TensorRT's own."""

import json
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest

import simulated_gpu
from ncdeploy.backends import open_engine
from ncdeploy.backends.tensorrt import adapter
from ncdeploy.backends.tensorrt.backend import TensorRTBackend
from ncdeploy.build import compiler
from ncdeploy.build.engine import build_engine
from ncdeploy.errors import BackendError, DependencyError, FileError, InputError, OutOfMemoryError, ParityError
from ncdeploy.export.passes.lower import Lower
from ncdeploy.formats.profiles import profiles_for
from ncdeploy.formats.sidecar import BuildOptions, read_sidecar, sidecar_path, write_sidecar
from ncdeploy.modelinfo import METADATA_KEY
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.recipe import make_plan
from oracle import GaussianMixture
from tiny_models import IMAGES, write_mixture

MEANS = np.random.default_rng(0).standard_normal((20, 1, 8, 8))
EXACT = GaussianMixture(MEANS.reshape(20, 64), 0.1)
PROFILES = profiles_for(4, 8, 4)


@pytest.fixture
def device(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return simulated_gpu.install(monkeypatch)


@pytest.fixture
def graph(tmp_path):
    return write_mixture(tmp_path / "model.onnx", IMAGES, MEANS)


def make(graph, **given):
    options = {"command": "ncdeploy build model.onnx -o model.plan", "verify": False, **given}
    return build_engine(graph, graph.with_suffix(".plan"), PROFILES, options.pop("options", BuildOptions()), **options)


@pytest.fixture
def plan(device, graph):
    made = make(graph)
    device.log.clear()
    return made.path


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def inputs(rows, seed=0):
    sigma = np.geomspace(0.05, 50, rows).astype(np.float32)
    noise = np.random.default_rng(seed).standard_normal((rows, 1, 8, 8))
    return (sigma[:, None, None, None] * noise).astype(np.float32), sigma


def test_the_numbers_in_both_profiles_and_back(device, plan):
    engine = open_engine(plan)
    assert engine.info == IMAGES
    assert "TensorRT 11.4.0.106 (Simulated GPU)" in engine.name
    for rows in (1, 4, 5, 32, 2, 32):
        np.testing.assert_allclose(engine(*inputs(rows)), EXACT(*inputs(rows)), atol=2e-4)
    assert [line for line in device.log if "profile" in line] == [f"profile {i}" for i in (0, 0, 1, 1, 0, 1)]
    np.testing.assert_allclose(engine(*inputs(70)), EXACT(*inputs(70)), atol=2e-4)  # in parts of 32
    strided = inputs(6)[0][::2], inputs(6)[1][::2]
    np.testing.assert_allclose(engine(*strided), EXACT(*strided), atol=2e-4)
    engine.close()


def test_repeated_calls_become_a_graph_and_another_size_drops_it(device, plan):
    engine = TensorRTBackend(plan)
    outputs = [engine(*inputs(3, seed)) for seed in range(5)]
    assert device.log == ["profile 0", "enqueue", "enqueue", "capture", "launch", "launch", "launch"]
    for seed, output in enumerate(outputs):  # each from its own inputs, each owned by the caller
        np.testing.assert_allclose(output, EXACT(*inputs(3, seed)), atol=2e-4)
    engine(*inputs(2))
    assert device.graphs == {}
    for _ in range(3):
        np.testing.assert_allclose(engine(*inputs(2, 9)), EXACT(*inputs(2, 9)), atol=2e-4)
    assert device.log[-3:] == ["capture", "launch", "launch"]
    engine.close()
    plain = TensorRTBackend(plan, graphs=False)
    device.log.clear()
    for _ in range(4):
        plain(*inputs(2))
    assert set(device.log) == {"profile 0", "enqueue"}
    plain.close()


def test_what_cannot_be_captured_runs_without_a_graph(device, plan, monkeypatch):
    def refuse(stream):
        device.recording = None
        raise BackendError("CUDA: operation not permitted when stream is capturing")

    monkeypatch.setattr("ncdeploy.backends.tensorrt.cudart.end_capture", refuse)
    engine = TensorRTBackend(plan)
    for seed in range(4):
        np.testing.assert_allclose(engine(*inputs(3, seed)), EXACT(*inputs(3, seed)), atol=2e-4)
    assert device.log.count("enqueue") == 4
    engine.close()


def test_sampling_in_sequence_and_in_parallel(device, plan):
    engine = open_engine(plan)
    steps = make_plan("ddim", 12, sigma_min=0.02, sigma_max=80.0, schedule="karras")
    exact = sample(engine, steps, seeds=range(4))
    fast = sample(engine, steps, seeds=range(4), window=8, tolerance=0, options=SampleOptions(max_rows=engine.max_rows))
    assert np.abs(fast.samples - exact.samples).max() < 1e-4
    assert {"profile 0", "profile 1"} <= set(device.log)
    engine.close()


def test_everything_is_released(device, plan, monkeypatch):
    engine = TensorRTBackend(plan)
    for rows in (3, 3, 3, 20):
        engine(*inputs(rows))
    assert device.held > 0
    engine.close()
    engine.close()
    assert device.held == 0
    with pytest.raises(BackendError, match="closed"):
        engine(*inputs(3))
    forgotten = TensorRTBackend(plan)
    forgotten(*inputs(3))
    del forgotten
    assert device.held == 0
    monkeypatch.setattr(
        "ncdeploy.backends.tensorrt.cudart.new_event", lambda: (_ for _ in ()).throw(BackendError("no event"))
    )
    with pytest.raises(BackendError, match="no event"):
        TensorRTBackend(plan)(*inputs(3))
    assert device.held == 0


def test_too_little_memory_is_said_and_the_engine_goes_on(device, plan):
    engine = TensorRTBackend(plan)
    device.room = 3500  # 4 rows take 4 x (2 x 256 + 4 + 100) bytes
    with pytest.raises(OutOfMemoryError):
        engine(*inputs(20))
    np.testing.assert_allclose(engine(*inputs(4)), EXACT(*inputs(4)), atol=2e-4)
    device.room = 20 * (2 * 256 + 4) + 4 * 100 + 1  # for the buffers of 20 rows, not for TensorRT's own memory
    with pytest.raises(OutOfMemoryError):
        engine(*inputs(20))
    np.testing.assert_allclose(engine(*inputs(4)), EXACT(*inputs(4)), atol=2e-4)
    engine.close()
    assert device.held == 0


def test_calls_at_once_have_contexts_of_their_own_and_later_ones_use_them_again(device, plan, monkeypatch):
    engine = TensorRTBackend(plan)
    results, together = {}, threading.Barrier(2, timeout=20)

    def work(seed):
        results[seed] = engine(*inputs(3 + seed, seed))

    def run(count):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    meet, enqueue = True, simulated_gpu.Context.enqueue

    def slow(context, stream):
        if meet:
            together.wait()
        enqueue(context, stream)

    monkeypatch.setattr(simulated_gpu.Context, "enqueue", slow)
    run(2)
    assert simulated_gpu.Engine.contexts == 2
    meet = False
    for _ in range(3):
        run(1)
    assert simulated_gpu.Engine.contexts == 2
    for seed, result in results.items():
        np.testing.assert_allclose(result, EXACT(*inputs(3 + seed, seed)), atol=2e-4)
    device.log.clear()
    for rows in (3, 4, 3, 4):  # each finds the one that is prepared for it
        engine(*inputs(rows))
    assert "profile 0" not in device.log
    engine.close()
    assert device.held == 0


def test_an_engine_that_streams_its_weights_is_never_captured(device, plan, monkeypatch):
    monkeypatch.setattr(simulated_gpu.Engine, "streaming", True)
    engine = TensorRTBackend(plan)
    for seed in range(4):
        engine(*inputs(3, seed))
    assert set(device.log) == {"profile 0", "enqueue"}
    engine.close()


def test_layers_and_their_times(device, plan):
    engine = TensorRTBackend(plan)
    layers = engine.layers(4, calls=5)
    products = [layer for layer in layers if layer.kind == "gemm"]
    assert len(products) == 2
    assert {(layer.types, round(layer.milliseconds, 6)) for layer in products} == {(("fp32",), 0.25)}
    assert len(device.memory) == 0  # the context for it is gone
    with pytest.raises(InputError, match="takes 1 to 32"):
        engine.layers(33)
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.layers(1)


def test_ctrl_c_ends_a_build_and_writes_nothing(device, graph, monkeypatch):
    """TensorRT has the thread that builds; the main one sees Ctrl-C, asks it to stop, and waits until it has."""
    seen = []

    def build(*graph, cancelled, **options):
        time.sleep(0.3)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        deadline = time.monotonic() + 20
        while not cancelled() and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(cancelled())
        raise BackendError("TensorRT did not build an engine")

    monkeypatch.setattr(compiler, "compile_graph", build)
    before = files(graph.parent)
    with pytest.raises(KeyboardInterrupt):
        make(graph)
    assert seen == [True]
    assert files(graph.parent) == before
    assert device.held == 0


def test_labels_and_guidance_are_inputs(device, tmp_path):
    graph = write_mixture(tmp_path / "c.onnx", replace(IMAGES, num_classes=3), MEANS)
    engine = open_engine(make(graph).path)
    x, sigma = inputs(4)
    np.testing.assert_allclose(engine(x, sigma, np.arange(4)), EXACT(x, sigma), atol=2e-4)
    with pytest.raises(InputError, match="3 = unconditional"):
        engine(x, sigma, np.array([0, 1, 2, 4]))
    engine.close()


def test_a_build_says_everything_in_its_record(device, graph):
    stages = []
    made = make(graph, verify=True, on_stage=stages.append)
    assert not made.reused
    record = read_sidecar(made.path)
    assert record == made.sidecar
    assert record.parity["ok"] is True
    assert record.model == IMAGES
    assert record.layers == {"fp32": 2}
    assert record.device_memory == 12345
    assert (record.tensorrt, record.compute_capability, record.device) == ("11.4.0.106", (9, 0), "Simulated GPU")
    sizes = [rows for rows, _ in record.latency]  # how many depends on how fast this machine is
    assert (sizes[0], len(sizes) > 1, sizes[-1] <= 32) == (1, True, True)
    assert all(seconds > 0 for _, seconds in record.latency)
    assert stages == [
        "building the engine", "reading its layers back", "comparing with the graph", "checking it", "timing calls",
    ]  # fmt: skip
    assert made.path.read_bytes() == b"ftrt" + graph.read_bytes()  # nothing of ours inside
    assert device.held == 0


def test_the_same_inputs_are_not_built_again(device, graph):
    make(graph)
    assert make(graph).reused
    assert not make(graph, reuse=False).reused
    assert [line for line in device.log if "build" in line] == ["build tensorrt"] * 2
    assert not make(graph, options=BuildOptions(version_compatible=True)).reused
    assert not make(graph, verify=True).reused  # that one was never compared
    assert make(graph, verify=True).reused
    kept = next((graph.parent / "cache" / "ncdeploy" / "engines").glob("*.plan"))
    for file in kept.parent.glob("*.plan"):
        file.write_bytes(file.read_bytes() + b"x")
    assert not make(graph).reused  # a damaged one is not used


def test_a_cache_that_cannot_be_written_is_no_error(device, graph, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not make(graph).reused
    assert open_engine(graph.with_suffix(".plan")).info == IMAGES


def test_an_engine_that_computes_something_else_is_not_written(device, graph, monkeypatch):
    other = write_mixture(graph.parent / "other.onnx", IMAGES, MEANS * 1.1)
    honest = compiler.compile_graph
    monkeypatch.setattr(compiler, "compile_graph", lambda onnx, *rest, **options: honest(other, *rest, **options))
    with pytest.raises(ParityError, match="no engine was written, it disagrees"):
        make(graph, verify=True)
    assert not graph.with_suffix(".plan").exists()
    assert not make(graph, verify=False).reused  # nor kept in the cache
    assert device.held == 0


def test_an_engine_that_lost_its_precision_is_not_written(device, graph):
    half = write_mixture(graph.parent / "half.onnx", replace(IMAGES, precision="fp16"), MEANS)  # its graph is float32
    with pytest.raises(BackendError, match=r"not fp16: of 2 layers .* 2 compute in fp32"):
        make(half)
    assert not half.with_suffix(".plan").exists()


@pytest.mark.parametrize(("precision", "type_"), [("fp16", "fp16"), ("bf16", "bf16"), ("tf32", "fp32")])
def test_engines_in_every_precision(device, graph, precision, type_):
    info = replace(IMAGES, precision=precision)
    model = onnx.load(graph)
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    # In half precision the logits of a mixture do not agree; the noise level of its coarsest product does.
    lowered = Lower(precision=precision, keep=("MatMul_4",))(model)[0] if precision != "tf32" else model
    onnx.helper.set_model_props(lowered, {METADATA_KEY: info.to_json()})
    onnx.save(lowered, graph)
    made = make(graph, verify=True)
    assert set(made.sidecar.layers) == {type_}
    assert made.sidecar.parity["ok"] is True
    assert made.sidecar.options.tf32 is (precision == "tf32")
    assert open_engine(made.path).info.precision == precision


def test_preflight_before_tensorrt_sees_the_file(device, plan, monkeypatch):
    loaded = []
    monkeypatch.setattr(adapter, "Engine", lambda *a, **k: loaded.append(a))
    record = read_sidecar(plan)
    write_sidecar(plan, replace(record, compute_capability=(8, 6), device="NVIDIA A10"))
    with pytest.raises(
        BackendError, match=r"capability 8.6 \(NVIDIA A10\), this GPU has 9.0; build it .*: ncdeploy build"
    ):
        open_engine(plan)
    write_sidecar(plan, record)
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    with pytest.raises(FileError, match=r"not the file that .* describes .* ncdeploy build model.onnx -o model.plan"):
        open_engine(plan)
    sidecar_path(plan).unlink()
    with pytest.raises(FileError, match=r"model.plan.json is missing beside it.*ncdeploy build"):
        open_engine(plan)
    assert loaded == []


def test_host_code_only_for_plans_that_need_it(device, graph):
    for compatible in (False, True):
        engine = TensorRTBackend(make(graph, options=BuildOptions(version_compatible=compatible)).path)
        assert engine._engines[0].host_code is compatible
        engine.close()


def test_a_stripped_plan_wants_its_graph_beside_it(device, graph, tmp_path):
    made = make(graph, options=BuildOptions(stripped=True))
    TensorRTBackend(made.path).close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (made.path, sidecar_path(made.path)):
        shutil.copy(file, elsewhere)
    with pytest.raises(FileError, match="put the model\\.onnx it was built from beside it"):
        TensorRTBackend(elsewhere / made.path.name)


def test_options_that_do_not_fit(device, plan):
    with pytest.raises(InputError, match="cuda or cuda:N"):
        TensorRTBackend(plan, device="tpu")
    with pytest.raises(InputError, match="takes no threads"):
        open_engine(plan, threads=2)
    with pytest.raises(InputError, match="graphs or eager"):
        open_engine(plan, mode="compile")


def test_without_tensorrt_and_gpu_one_line(graph, plan, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(
        DependencyError, match=r"TensorRT is not installed.*pip install.*sample --engine model.onnx"
    ) as e:
        open_engine(plan)
    assert "\n" not in str(e.value)
    assert json.loads(sidecar_path(plan).read_text())["onnx"] == "model.onnx"


def test_tensorrt_for_rtx_where_a_card_is(monkeypatch, graph):
    """It is compared and timed, makes its own CUDA graphs, and finds the kernels that an earlier run compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(graph.parent / "cache"))
    device = simulated_gpu.install(monkeypatch, capability=(8, 9))
    made = make(graph, verify=True, runtime="rtx")
    record = read_sidecar(made.path)
    assert (record.engine, record.layers, record.parity["ok"]) == ("TensorRT for RTX 1.7.1.116", {"fp32": 2}, True)
    assert len(record.first_call) == 2
    assert len(record.latency) > 1
    shutil.rmtree(graph.parent / "cache" / "ncdeploy" / "kernels")
    device.log.clear()
    engine = open_engine(made.path)
    assert "TensorRT for RTX 1.7.1.116 (Simulated GPU)" in engine.name
    for seed in range(5):
        np.testing.assert_allclose(engine(*inputs(3, seed)), EXACT(*inputs(3, seed)), atol=2e-4)
    assert device.log == ["own graphs", "profile 0", "compile 3", *["enqueue"] * 5]
    engine.close()
    device.log.clear()
    for mode, first in (("graphs", ["own graphs"]), ("eager", [])):
        engine = open_engine(made.path, mode=mode)
        engine(*inputs(3))
        engine.close()
        assert device.log == [*first, "profile 0", "enqueue"]  # nothing is compiled again
        device.log.clear()
    assert device.held == 0


@pytest.mark.parametrize(
    ("capability", "targets", "said"),
    [
        ((9, 0), (), r"RTX cards of compute capability 8\.0, 8\.6, 8\.9, 12\.0 and later, this GPU has 9\.0, where .* "
                     r"does not run; what runs there: ncdeploy sample --engine model\.onnx"),
        ((8, 9), ((8, 6),), r"cards of compute capability 8\.6, this GPU has 8\.9; build it on this machine: ncdeploy"),
        ((7, 5), (), r"this GPU has 7\.5; build it on this machine"),
    ],
)  # fmt: skip
def test_a_card_that_an_engine_is_not_for_is_refused(monkeypatch, graph, capability, targets, said):
    monkeypatch.setenv("XDG_CACHE_HOME", str(graph.parent / "cache"))
    device = simulated_gpu.install(monkeypatch, capability=capability)
    made = make(graph, runtime="rtx", targets=targets)
    assert device.log == ["build rtx"]  # and nothing else: it does not run here
    with pytest.raises(BackendError, match=said) as e:
        open_engine(made.path)
    assert "\n" not in str(e.value)
    write_sidecar(made.path, replace(read_sidecar(made.path), tensorrt="1.6.0.9"))
    with pytest.raises(BackendError, match=r"was built with TensorRT for RTX 1\.6\.0\.9 and runs on no other"):
        open_engine(made.path)
