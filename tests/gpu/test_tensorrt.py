"""The real thing, where there is one: TensorRT builds, keeps the precision, and computes what the graph does."""

import threading

import numpy as np
import pytest
import torch

from ncdeploy.backends import open_engine
from ncdeploy.build.engine import build_engine
from ncdeploy.denoisers import EDM, UNet, UNetConfig
from ncdeploy.export import export_onnx
from ncdeploy.formats.profiles import profiles_for
from ncdeploy.formats.sidecar import BuildOptions
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity import compare
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.recipe import make_plan

pytestmark = pytest.mark.gpu
INFO = ModelInfo(shape=(1, 8, 8), sigma_min=0.01, sigma_max=80.0, sigma_data=0.7)
CONFIG = UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), head_width=16, width=16)


def build(folder, precision="fp32", options=None):
    for package in ("tensorrt", "onnxscript", "onnxruntime"):  # to build, to export, to compare
        pytest.importorskip(package, reason=f"NOT TESTED: no {package}")
    denoiser = EDM(UNet(INFO.shape, CONFIG), INFO)
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        torch.nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    graph = folder / "model.onnx"
    export_onnx(denoiser, graph, precision=precision)
    options = options or BuildOptions()
    return build_engine(graph, folder / "model.plan", profiles_for(4, 16, 16), options, command="", reuse=False)


@pytest.fixture(scope="module", params=["fp32", "tf32", "fp16", "bf16"])
def plan(request, tmp_path_factory):
    made = build(tmp_path_factory.mktemp("engine"), request.param)
    assert made.sidecar.layers.get(request.param.replace("tf32", "fp32"))
    return made.path


def test_it_samples_in_parallel_on_the_device(plan):
    engine = open_engine(plan)
    steps = make_plan("ddim", 40, sigma_min=0.02, sigma_max=80.0, schedule="karras")
    exact = sample(engine, steps, seeds=range(4), options=SampleOptions(like=engine.like))
    fast = sample(
        engine, steps, seeds=range(4), window=16, options=SampleOptions(like=engine.like, max_rows=engine.max_rows)
    )
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


def test_calls_at_once_do_not_disturb_each_other(plan):
    engine = open_engine(plan)
    sigma = np.array([0.1, 1.0, 20.0], np.float32)
    given = [np.random.default_rng(seed).standard_normal((3, 1, 8, 8)).astype(np.float32) for seed in range(4)]
    wanted = [engine(x, sigma) for x in given]
    found = [[] for _ in given]

    def work(at):
        for rows in (3, 2, 3, 1, 3):
            found[at].append(engine(given[at][:rows], sigma[:rows]))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, outputs in enumerate(found):
        for output in outputs:
            np.testing.assert_allclose(output, wanted[at][: len(output)], atol=2e-3)
    engine.close()


def test_layers_are_timed(plan):
    engine = open_engine(plan)
    layers = engine.layers(4, calls=3)
    assert sum(layer.milliseconds or 0.0 for layer in layers) > 0
    engine.close()


@pytest.mark.parametrize("option", ["stripped", "version_compatible", "weight_streaming", "refittable"])
def test_every_kind_of_engine_agrees_with_the_graph(option, tmp_path):
    made = build(tmp_path, options=BuildOptions(**{option: True}))
    assert made.sidecar.parity["ok"]
    if option == "stripped":
        assert made.sidecar.plan_bytes < (tmp_path / "model.onnx").stat().st_size / 2
