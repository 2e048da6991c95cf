"""The PyTorch backend: NumPy and tensors alike, no gradients, eval mode, outputs the caller owns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ncdeploy.backends import open_engine
from ncdeploy.backends.base import check_inputs
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import Mixture, build, default_config, save_model
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import BackendError, InputError, OutOfMemoryError
from ncdeploy.modelinfo import ModelInfo
from oracle import GaussianMixture

MEANS = np.random.default_rng(0).standard_normal((20, 1, 8, 8)).astype(np.float32)
INFO = ModelInfo(shape=(2,), sigma_min=0.01, sigma_max=10.0, sigma_data=1.0)


@pytest.fixture(scope="module")
def mixture():
    return Mixture(MEANS, 0.1)


def inputs(batch=7):
    sigma = np.geomspace(0.05, 50, batch).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((batch, 1, 8, 8))
    return (sigma[:, None, None, None] * noise).astype(np.float32), sigma


def test_numpy_and_tensors_agree_with_the_exact_denoiser(mixture):
    x, sigma = inputs()
    engine = TorchBackend(mixture)
    got = engine(x, sigma)
    assert type(got) is np.ndarray
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, GaussianMixture(MEANS.reshape(20, 64), 0.1)(x, sigma), atol=2e-4)
    tensor = engine(torch.from_numpy(x), torch.from_numpy(sigma))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), got)
    tensor += 1  # an inference tensor would refuse
    assert not tensor.requires_grad


class Identity(Denoiser):
    """Returns its very input; with `shift` a parameter, so that a gradient could flow."""

    def __init__(self):
        super().__init__(INFO, {"kind": "identity"})
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, sigma, labels=None):
        return x


def test_output_is_owned_even_if_the_model_returns_its_input():
    engine = TorchBackend(Identity())
    x = np.ones((3, 2), np.float32)
    engine(x, np.ones(3, np.float32))[:] = 5
    assert np.all(x == 1)
    tensor = torch.ones(3, 2)
    engine(tensor, torch.ones(3))[:] = 5
    assert bool((tensor == 1).all())


def test_read_only_and_strided_arrays(mixture):
    x, sigma = inputs(8)
    engine = TorchBackend(mixture)
    wanted = engine(x[::-2].copy(), sigma[::-2].copy())
    np.testing.assert_array_equal(engine(x[::-2], sigma[::-2]), wanted)
    x.setflags(write=False)
    row = np.broadcast_to(x[:1], (3, 1, 8, 8))
    assert engine(row, np.full(3, 2, np.float32)).shape == (3, 1, 8, 8)


def test_dropout_is_off_even_while_the_caller_trains():
    network = {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "width": 16, "dropout": 0.9}
    model = build(default_config((1, 8, 8), network=network))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    engine = TorchBackend(model)
    x, sigma = inputs()
    first = engine(x, sigma)
    model.train()
    np.testing.assert_array_equal(engine(x, sigma), first)


def test_a_model_file(mixture, tmp_path):
    save_model(tmp_path / "m.onnx", mixture)  # a misleading name
    x, sigma = inputs()
    engine = open_engine(tmp_path / "m.onnx", threads=1)
    assert "torch" in engine.name
    np.testing.assert_array_equal(engine(x, sigma), TorchBackend(mixture)(x, sigma))
    with pytest.raises(InputError, match="providers"):
        open_engine(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(InputError, match="describes itself"):
        open_engine(tmp_path / "m.onnx", info=INFO)


def test_wrong_inputs_and_devices(mixture):
    engine = TorchBackend(mixture)
    x, sigma = inputs()
    with pytest.raises(InputError, match="float64"):
        engine(x.astype(np.float64), sigma)
    with pytest.raises(InputError, match="float64"):
        engine(torch.from_numpy(x).double(), torch.from_numpy(sigma))
    with pytest.raises(InputError, match="all as tensors"):
        engine(x, torch.from_numpy(sigma))
    with pytest.raises(InputError, match="cuda:N"):
        TorchBackend(mixture, device="mps")
    with pytest.raises(BackendError, match="CUDA devices"):
        TorchBackend(mixture, device="cuda:99")
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine(x, sigma)


def test_values_on_a_device_are_not_read():
    """Reading them would wait for the device in every call. A tensor on "meta" has no values to read."""
    labelled = replace(INFO, num_classes=3)
    x, sigma = torch.zeros(4, 2, device="meta"), torch.ones(4, device="meta")
    check_inputs(labelled, x, sigma, torch.zeros(4, dtype=torch.int64, device="meta"))
    with pytest.raises(InputError, match="expected float32"):
        check_inputs(INFO, x, sigma[:3])
    with pytest.raises(InputError, match="positive"):
        check_inputs(INFO, torch.zeros(4, 2), torch.zeros(4))


def test_modes(mixture):
    with pytest.raises(InputError, match="eager, compile, graphs"):
        TorchBackend(mixture, mode="fast")
    with pytest.raises(InputError, match="--device cuda"):
        TorchBackend(mixture, mode="graphs")


def test_too_little_memory_is_an_error_of_its_own(mixture, monkeypatch):
    def refuse(*inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(mixture, "forward", refuse)
    with pytest.raises(OutOfMemoryError, match="batch of 7: CUDA out of memory"):
        TorchBackend(mixture)(*inputs())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own
def test_compiled_is_eager_for_any_batch(mixture):
    compiled, eager = TorchBackend(mixture, mode="compile"), TorchBackend(mixture)
    assert "compile" in compiled.name
    for batch in (7, 1, 12):
        np.testing.assert_allclose(compiled(*inputs(batch)), eager(*inputs(batch)), atol=1e-4)
    first = compiled(*map(torch.from_numpy, inputs()))
    kept = first.clone()
    compiled(*(2 * torch.from_numpy(a) for a in inputs()))
    assert torch.equal(first, kept)
