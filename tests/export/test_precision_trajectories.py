"""Half precision along whole trajectories: samples of a network trained on digits, and of the exact denoiser, are those
of float32, on the runtimes that are there: fp16 graphs in ONNX Runtime, bf16 in PyTorch and with its rounding emulated.
"""

import numpy as np
import onnx
import pytest
import torch

from ncdeploy.backends import open_engine
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import Mixture
from ncdeploy.export import export_onnx
from ncdeploy.export.passes.emulate import Emulate
from ncdeploy.export.passes.types import check_types
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.recipe import make_plan
from ncdeploy.training import TrainConfig, load_data, start

BOUND = {"fp16": 1e-2, "bf16": 3e-2}
PLANS = {"dpmpp_2m": 25, "ddim": 50, "ddpm": 100}
KEEP = {"digits": [], "oracle": ["matmul"]}  # its logits, squared distances over small variances: too much for bfloat16
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*")]  # of the compiler's and the exporter's own


@pytest.fixture(scope="module")
def denoisers():
    network = {"channels": 24, "multipliers": [1, 2], "blocks": 1, "attention": [4], "width": 32}
    training = start(load_data("digits"), TrainConfig(steps=300, batch=64, device="cpu"), network=network)
    for _ in training.run():
        pass
    return {"digits": training.ema.denoiser.eval(), "oracle": Mixture.digits()}


def samples(denoise, info, solver):
    plan = make_plan(solver, PLANS[solver], sigma_min=info.sigma_min, sigma_max=info.sigma_max, schedule="karras")
    return sample(denoise, plan, seeds=range(16), options=SampleOptions(shape=info.shape)).samples


def rms(one, other):
    return np.sqrt(np.mean((one - other) ** 2, axis=(1, 2, 3)))


def in_pytorch(denoiser):
    """The module under PyTorch's own mixed precision, which follows the same rule."""

    def denoise(x, sigma):
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            return denoiser(torch.from_numpy(x), torch.from_numpy(sigma)).float().numpy()

    return denoise


@pytest.mark.parametrize("name", ["digits", "oracle"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_samples_are_those_of_float32(denoisers, name, precision, tmp_path):
    denoiser = denoisers[name]
    keep = KEEP[name] if precision == "bf16" else []
    done = export_onnx(denoiser, tmp_path / "m.onnx", precision=precision, keep_fp32=keep, threads=1)
    graph = onnx.load(tmp_path / "m.onnx")
    assert check_types(graph, precision)["FLOAT16" if precision == "fp16" else "BFLOAT16"] >= len(done.low) > 0
    onnx.save(Emulate()(graph)[0], tmp_path / "emulated.onnx")
    runs = {"emulated": open_engine(tmp_path / "emulated.onnx", threads=1)}
    if precision == "fp16":
        runs["ONNX Runtime"] = open_engine(tmp_path / "m.onnx", threads=1)
    elif name == "digits":
        runs["PyTorch"] = in_pytorch(denoiser)
    exact = {solver: samples(TorchBackend(denoiser, threads=1), denoiser.info, solver) for solver in PLANS}
    for where, run in runs.items():
        for solver in PLANS:
            error = rms(samples(run, denoiser.info, solver), exact[solver])
            print(f"{name} {precision} {where} {solver}: rms median {np.median(error):.1e}, max {error.max():.1e}")
            assert np.median(error) <= BOUND[precision]
            assert np.mean(error > BOUND[precision]) <= 1 / 16  # one sample may lie on the border of two modes
            assert error.max() > 1e-7  # or nothing was rounded
