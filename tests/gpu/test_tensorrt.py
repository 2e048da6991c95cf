"""The real thing, where there is one: TensorRT builds, keeps the precision, and computes what the graph does."""

import numpy as np
import pytest
import torch

from ncdeploy.backends import open_engine
from ncdeploy.denoisers import EDM, UNet, UNetConfig
from ncdeploy.export import export_onnx
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity import compare
from ncdeploy.sampling.recipe import make_plan
from ncdeploy.sampling.sample import sample
from ncdeploy.tensorrt.build import build_engine
from ncdeploy.tensorrt.profiles import profiles_for
from ncdeploy.tensorrt.sidecar import Options

pytestmark = pytest.mark.gpu
INFO = ModelInfo(shape=(1, 8, 8), sigma_min=0.01, sigma_max=80.0, sigma_data=0.7)
CONFIG = UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), head_width=16, width=16)


@pytest.fixture(scope="module", params=["fp32", "tf32", "fp16", "bf16"])
def plan(request, tmp_path_factory):
    for package in ("tensorrt", "onnxscript", "onnxruntime"):  # to build, to export, to compare
        pytest.importorskip(package, reason=f"NOT TESTED: no {package}")
    folder = tmp_path_factory.mktemp("engine")
    denoiser = EDM(UNet(INFO.shape, CONFIG), INFO)
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        torch.nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    export_onnx(denoiser, folder / "model.onnx", precision=request.param)
    made = build_engine(
        folder / "model.onnx", folder / "model.plan", profiles_for(4, 16, 16), Options(), command="", reuse=False
    )
    assert made.sidecar.layers.get(request.param.replace("tf32", "fp32"))
    return made.path


def test_it_samples_in_parallel_on_the_device(plan):
    engine = open_engine(plan)
    steps = make_plan("ddim", 40, sigma_min=0.02, sigma_max=80.0, schedule="karras")
    exact = sample(engine, steps, seeds=range(4), like=engine.like)
    fast = sample(engine, steps, seeds=range(4), window=16, like=engine.like, max_rows=engine.max_rows)
    assert fast.samples.is_cuda
    assert fast.depth < exact.depth
    assert float((fast.samples - exact.samples).square().mean().sqrt()) < 1e-2
    engine.close()


def test_graphs_and_host_arrays_change_nothing(plan):
    replayed, plain = open_engine(plan), open_engine(plan, mode="eager")
    assert compare(plain, replayed, tolerance=1e-5).max_abs <= 1e-5
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 20.0])
    for _ in range(5):
        on_device = replayed(x.cuda(), sigma.cuda()).cpu().numpy()
        np.testing.assert_allclose(on_device, plain(x.numpy(), sigma.numpy()), atol=1e-5)
    replayed.close()
    plain.close()
