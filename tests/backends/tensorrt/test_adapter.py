"""What an engine asks of TensorRT, and what it makes of the answers; TensorRT is played by objects that note it."""

from unittest.mock import MagicMock

import pytest

from ncdeploy.backends.tensorrt import adapter
from ncdeploy.errors import BackendError, OutOfMemoryError


@pytest.fixture
def trt(monkeypatch):
    """A module of which everything can be asked, and whose answers a test may say."""
    made = MagicMock()
    made.ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2, "__init__": lambda self: None})
    made.EngineInvalidityDiagnostics.__members__ = {"VERSION_MISMATCH": 1, "OLD_CUDA_DRIVER": 4}
    made.Runtime.return_value.get_engine_validity.return_value = made.EngineValidity.VALID, 0
    monkeypatch.setattr(adapter, "module", lambda runtime="tensorrt", *, lean=False: made)
    return made


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


def test_tensorrt_for_rtx_makes_its_own_graphs_and_keeps_its_kernels(trt):
    cuda_engine = trt.Runtime.return_value.deserialize_cuda_engine.return_value
    cuda_engine.streamable_weights_size = 0
    config, cache = cuda_engine.create_runtime_config.return_value, MagicMock()
    config.create_runtime_cache.return_value = cache
    cache.serialize.return_value = b"compiled here"
    engine = adapter.Engine(b"plan", runtime="rtx", kernels=b"compiled before")
    cache.deserialize.assert_called_once_with(b"compiled before")
    for graphs, strategy in (
        (True, trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE),
        (False, trt.CudaGraphStrategy.DISABLED),
    ):
        context = engine.context(graphs=graphs)
        assert context.execution is cuda_engine.create_execution_context.return_value
        cuda_engine.create_execution_context.assert_called_with(config)
        config.set_runtime_cache.assert_called_with(cache)
        assert config.cuda_graph_strategy is strategy
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        assert config.dynamic_shapes_kernel_specialization_strategy is eager
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy.assert_called_with(managed)
    assert (engine.captures, engine.kernels()) == (True, b"compiled here")
    plain = adapter.Engine(b"plan")
    assert (plain.captures, plain.kernels()) == (False, b"")


def test_tensorrt_for_rtx_says_what_is_wrong_before_it_loads(trt):
    runtime = trt.Runtime.return_value
    runtime.get_engine_validity.return_value = trt.EngineValidity.INVALID, 5
    with pytest.raises(BackendError, match=r"TensorRT for RTX refuses the engine: version mismatch, old cuda driver$"):
        adapter.Engine(b"plan", runtime="rtx")
    runtime.deserialize_cuda_engine.assert_not_called()
