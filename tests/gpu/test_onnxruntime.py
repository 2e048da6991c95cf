"""ONNX Runtime's CUDA provider beside its CPU provider, and CUDA tensors that stay where they are."""

import numpy as np
import pytest
import torch

from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.denoisers import Mixture

pytestmark = pytest.mark.gpu
MEANS = np.random.default_rng(0).uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    onnxruntime = pytest.importorskip("onnxruntime", reason="NOT TESTED: no onnxruntime")
    pytest.importorskip("onnxscript", reason="NOT TESTED: no onnxscript, which exports need")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("NOT TESTED: this onnxruntime has no CUDA provider (pip install onnxruntime-gpu)")
    from ncdeploy.export import export_onnx

    file = tmp_path_factory.mktemp("mixture") / "model.onnx"
    export_onnx(Mixture(MEANS, 0.1), file, verify=False)
    return file


def test_cuda_tensors_stay_on_the_device(path):
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

    engine, reference = OnnxRuntimeBackend(path, device="cuda"), OnnxRuntimeBackend(path)
    for batch in (6, 1, 33):
        sigma = np.geomspace(0.05, 50, batch).astype(np.float32)
        x = (sigma[:, None, None, None] * np.random.default_rng(1).standard_normal((batch, 1, 8, 8))).astype(np.float32)
        got = engine(torch.from_numpy(x).cuda(), torch.from_numpy(sigma).cuda())
        assert got.is_cuda
        np.testing.assert_allclose(got.cpu().numpy(), engine(x, sigma), atol=1e-5)
        np.testing.assert_allclose(engine(x, sigma), reference(x, sigma), atol=2e-4)


def test_it_samples_in_parallel_on_the_device(path):
    from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend

    engine, plan = OnnxRuntimeBackend(path, device="cuda"), make_plan("ddim", 60)
    exact = sample(engine, plan, seeds=range(4), options=SampleOptions(like=engine.like))
    fast = sample(engine, plan, seeds=range(4), window=20, options=SampleOptions(like=engine.like))
    assert fast.samples.is_cuda
    assert fast.depth < exact.depth
    assert float((fast.samples - exact.samples).square().flatten(1).mean(1).sqrt().median()) < 2e-3
