"""What the adapter asks of TensorRT, and what it makes of the answers; TensorRT is played by objects that note it."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from ncdeploy.backends.tensorrt import adapter
from ncdeploy.errors import BackendError, OutOfMemoryError
from ncdeploy.formats.profiles import Profile
from ncdeploy.formats.sidecar import BuildOptions

FLAGS = ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT", "REFIT_IDENTICAL", "WEIGHT_STREAMING")
PROFILES = [Profile(least=1, best=4, most=4), Profile(least=5, best=32, most=64)]


@pytest.fixture
def trt(monkeypatch):
    """A module whose builder builds b"plan", from a graph with an input x of one image and sigma."""

    class Base:
        def __init__(self):
            pass

    made = MagicMock()
    made.ILogger = type("ILogger", (Base,), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2})
    made.IProgressMonitor = made.IProfiler = Base
    made.BuilderFlag = SimpleNamespace(**{name: name for name in FLAGS})
    made.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    builder = made.Builder.return_value
    network = builder.create_network.return_value
    tensors = [SimpleNamespace(name="x", shape=(-1, 1, 8, 8)), SimpleNamespace(name="sigma", shape=(-1,))]
    network.num_inputs, network.get_input = 2, tensors.__getitem__
    builder.create_builder_config.return_value.add_optimization_profile.side_effect = [0, 1]
    builder.build_serialized_network.return_value = b"plan"
    builder.create_builder_config.return_value.get_timing_cache.return_value.serialize.return_value = b"learnt"
    monkeypatch.setattr(adapter, "module", lambda *, lean=False: made)
    return made


def build(options=None, timing=b"known", **given):
    return adapter.build(Path("m.onnx"), PROFILES, options or BuildOptions(), timing, lambda *step: None, **given)


def test_a_build_is_strongly_typed_with_every_flag_set_either_way(trt):
    builder = trt.Builder.return_value
    config = builder.create_builder_config.return_value
    assert build(BuildOptions(tf32=True, refittable=True, workspace=1 << 20)) == (b"plan", b"learnt")
    builder.create_network.assert_called_once_with(1 << 1)
    assert [call.args[0] for call in config.set_flag.call_args_list] == ["TF32", "REFIT"]
    assert {call.args[0] for call in config.clear_flag.call_args_list} == set(FLAGS) - {"TF32", "REFIT"}
    config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    shapes = [call.args for call in builder.create_optimization_profile.return_value.set_shape.call_args_list]
    assert shapes == [
        ("x", (1, 1, 8, 8), (4, 1, 8, 8), (4, 1, 8, 8)), ("sigma", (1,), (4,), (4,)),
        ("x", (5, 1, 8, 8), (32, 1, 8, 8), (64, 1, 8, 8)), ("sigma", (5,), (32,), (64,)),
    ]  # fmt: skip
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (BuildOptions(stripped=True), ["STRIP_PLAN", "REFIT_IDENTICAL"]),
        (BuildOptions(stripped=True, refittable=True), ["STRIP_PLAN", "REFIT"]),
    ],
)
def test_only_weights_that_can_come_back_are_stripped(trt, options, wanted):
    build(options)
    config = trt.Builder.return_value.create_builder_config.return_value
    assert [call.args[0] for call in config.set_flag.call_args_list] == wanted


@pytest.mark.parametrize("refusal", ["none", "mismatch"])
def test_timings_that_do_not_fit_are_left_unused(trt, refusal):
    config = trt.Builder.return_value.create_builder_config.return_value
    fresh = object()
    config.create_timing_cache.side_effect = [None if refusal == "none" else object(), fresh]
    config.set_timing_cache.side_effect = lambda cache, ignore: cache is fresh
    assert build() == (b"plan", b"learnt")
    assert [call.args for call in config.create_timing_cache.call_args_list] == [(b"known",), (b"",)]
    assert config.set_timing_cache.call_args.args == (fresh, False)


def test_a_cancelled_build_and_other_refusals(trt):
    builder = trt.Builder.return_value

    def give_up(network, config):
        monitor = config.progress_monitor
        monitor.phase_start("building", None, 2)
        assert monitor.step_complete("building", 0) is False

    builder.build_serialized_network.side_effect = give_up
    with pytest.raises(BackendError, match="did not build an engine"):
        build(cancelled=lambda: True)
    builder.create_builder_config.return_value.add_optimization_profile.side_effect = [-1]
    with pytest.raises(BackendError, match="refuses a profile of 1 to 4 rows"):
        build()
    trt.OnnxParser.return_value.parse_from_file.return_value = False
    trt.OnnxParser.return_value.num_errors = 0
    with pytest.raises(BackendError, match=r"m\.onnx: TensorRT cannot read the graph"):
        build()


@pytest.mark.parametrize(("weights", "budget", "streams"), [(0, 0, False), (1000, 1000, False), (1000, 400, True)])
def test_weights_that_do_not_fit_are_streamed(trt, weights, budget, streams):
    engine = trt.Runtime.return_value.deserialize_cuda_engine.return_value
    engine.streamable_weights_size = weights
    engine.get_weight_streaming_automatic_budget.return_value = budget
    engine.weight_streaming_budget_v2 = None
    assert adapter.Engine(b"plan").streaming is streams
    assert engine.weight_streaming_budget_v2 == (budget if weights else None)
    assert trt.Runtime.return_value.engine_host_code_allowed is False


def test_a_context_takes_the_memory_of_its_shapes(trt):
    cuda_engine = trt.Runtime.return_value.deserialize_cuda_engine.return_value
    cuda_engine.streamable_weights_size, cuda_engine.device_memory_size_v2 = 0, 5000
    context = adapter.Engine(b"plan").context()
    cuda_engine.create_execution_context.assert_called_once_with(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    execution = cuda_engine.create_execution_context.return_value
    execution.update_device_memory_size_for_shapes.return_value = 700
    assert context.scratch() == 700
    execution.update_device_memory_size_for_shapes.return_value = 0  # none, or an error
    assert context.scratch() == 5000
    execution.active_optimization_profile = 1
    context.use_profile(1, stream=7)
    execution.set_optimization_profile_async.assert_not_called()
    context.use_profile(0, stream=7)
    execution.set_optimization_profile_async.assert_called_once_with(0, 7)
    execution.execute_async_v3.return_value = False
    with pytest.raises(BackendError, match="could not run: it gave no reason"):
        context.enqueue(7)
    cuda_engine.create_execution_context.return_value = None
    with pytest.raises(OutOfMemoryError):
        adapter.Engine(b"plan").context()
