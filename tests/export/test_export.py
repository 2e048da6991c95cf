"""Exported graphs compute what PyTorch computes, say what they are, and replace a file only when they do."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ncdeploy.backends import open_engine
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import (
    EDM,
    MLP,
    VP,
    Mixture,
    MLPConfig,
    NoiseTable,
    UNet,
    UNetConfig,
    save_model,
    weights_digest,
)
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import BackendError, FileError, InputError, ParityError
from ncdeploy.export import export_onnx
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.errorcurve import ErrorCurve

CURVE = ErrorCurve(sigmas=(0.01, 1.0, 100.0), mse=(1e-4, 0.2, 0.5))
POINTS = ModelInfo(
    shape=(2,), sigma_min=0.01, sigma_max=80.0, sigma_data=0.6, offset=3.0, scale=2.0, data="moons",
    default_plan={"solver": "ddim", "steps": 9, "eta": 0.5}, error_curve=CURVE, num_classes=3,
)  # fmt: skip
PLAIN = ModelInfo(shape=(6,), sigma_min=0.01, sigma_max=150.0, sigma_data=0.6)
IMAGE = ModelInfo(shape=(1, 8, 8), sigma_min=0.01, sigma_max=80.0, sigma_data=0.7)
SMALL = MLPConfig(width=16, blocks=1)
TABLE = NoiseTable.linear()


def randomised(denoiser):
    """Fresh networks end in zeros, which would hide the network; draw every weight instead."""
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    return denoiser


def make(kind):
    if kind == "edm-mlp-classes":
        return randomised(EDM(MLP(POINTS.shape, SMALL, 3), POINTS))
    if kind == "edm-unet":
        config = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_width=8, width=16)
        return randomised(EDM(UNet(IMAGE.shape, config), IMAGE))
    if kind == "mixture":
        return Mixture(np.random.default_rng(0).standard_normal((30, 1, 4, 4)), 0.1)
    # t(sigma) goes up to 999 and the embedding is fast: had the runtimes another t by 1e-4, this would show it.
    steps = MLPConfig(width=16, blocks=1, frequencies=(0.5, 16.0))
    return randomised(VP(MLP(PLAIN.shape, steps), PLAIN, predicts=kind.removeprefix("vp-"), table=TABLE))


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    denoiser = make("edm-mlp-classes")
    return denoiser, export_onnx(denoiser, tmp_path_factory.mktemp("points") / "m.onnx", threads=1)


@pytest.mark.parametrize("kind", ["edm-unet", "vp-eps", "vp-v", "vp-x0", "mixture"])
def test_every_kind_agrees_with_pytorch(kind, tmp_path):
    denoiser = make(kind)
    done = export_onnx(denoiser, tmp_path / "m.onnx", threads=1)
    assert done.parity.ok
    assert done.parity.trajectory_rms <= 1e-3
    engine = open_engine(tmp_path / "m.onnx", threads=1)
    rng = np.random.default_rng(5)
    sigma = np.float32([0.3, 60.0, 0.02, 4.0, 1.0])
    x = (sigma.reshape(-1, *[1] * len(engine.info.shape)) * rng.standard_normal((5, *engine.info.shape))).astype("f")
    got, wanted = engine(x, sigma), TorchBackend(denoiser)(x, sigma)
    assert np.all(np.abs(got - wanted).reshape(5, -1).max(axis=1) <= 1e-4 + 4e-6 * sigma)
    assert np.abs(wanted).max() > 0.1


def test_classes_reach_the_graph(points):
    denoiser, done = points
    engine = open_engine(done.path, threads=1)
    x, sigma = np.zeros((4, 2), np.float32), np.full(4, 2.0, np.float32)
    rows = engine(x, sigma, np.arange(4))
    assert len(np.unique(rows[:, 0])) == 4
    np.testing.assert_allclose(rows, TorchBackend(denoiser)(x, sigma, np.arange(4)), atol=1e-5)


def test_one_file_says_what_it_is(points):
    denoiser, done = points
    assert done.size == done.path.stat().st_size
    assert [p.name for p in done.path.parent.iterdir()] == ["m.onnx"]
    info = open_engine(done.path, threads=1).info
    assert info == done.info
    for name in ("shape", "sigma_min", "sigma_max", "sigma_data", "num_classes", "offset", "scale", "data"):
        assert getattr(info, name) == getattr(POINTS, name)
    assert (info.default_plan, info.error_curve) == (POINTS.default_plan, CURVE)
    assert info.weights_digest == weights_digest(denoiser.state_dict())
    assert info.versions["torch"] == torch.__version__
    assert "onnx" in info.versions


def test_the_graph_is_pinned_checked_and_private(points):
    _, done = points
    proto = onnx.load(done.path)
    onnx.checker.check_model(proto, full_check=True)
    assert (done.opset, done.ir_version) == (20, 10)
    assert (read_onnx(done.path).opset, proto.ir_version) == (20, 10)
    assert [str(axis.dim_param) for port in proto.graph.input for axis in port.type.tensor_type.shape.dim[:1]] == [
        "batch"
    ] * 3
    content = done.path.read_bytes()
    for trace_of_the_exporter in (b"stack_trace", b".py", b"/home", b"File "):
        assert trace_of_the_exporter not in content
    assert not any(t.data_type == onnx.TensorProto.DOUBLE for t in proto.graph.initializer)


def test_opset(points, tmp_path):
    denoiser, _ = points
    assert export_onnx(denoiser, tmp_path / "m.onnx", opset=18, verify=False).parity is None
    assert read_onnx(tmp_path / "m.onnx").opset == 18
    with pytest.raises(InputError, match="18, 19, 20"):
        export_onnx(denoiser, tmp_path / "x.onnx", opset=21)


class Faulty(Denoiser):
    """Right in PyTorch; the exported graph is wrong in a way that the mode decides."""

    def __init__(self, mode):
        super().__init__(PLAIN, {"kind": "faulty"})
        self.mode = mode
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, sigma, labels=None):
        D = self.gain * x / (1 + sigma**2)[:, None]
        if not torch.compiler.is_exporting():
            return D
        if self.mode == "biased":
            return D * 1.01
        if self.mode == "one sigma":
            return self.gain * x / (1 + sigma[:1] ** 2)[:, None]
        if self.mode == "batch":
            return D + D.sum(0, keepdim=True) * 1e-2
        if self.mode == "constant batch":
            return D.reshape(3, *x.shape[1:])
        raise ValueError("a network that says no\nin two lines")


@pytest.mark.parametrize("mode", ["biased", "one sigma", "batch"])
def test_disagreement_is_not_written(mode, tmp_path):
    target = tmp_path / "m.onnx"
    target.write_bytes(b"the previous model")
    where = r"sigma [0-9.]+: [0-9.e+-]+ where [0-9.]+ is allowed \(row [0-9]+ of a batch of"
    with pytest.raises(ParityError, match=f"not written.* {where}"):
        export_onnx(Faulty(mode), target, threads=1)
    assert target.read_bytes() == b"the previous model"
    assert list(tmp_path.iterdir()) == [target]


def test_verification_is_what_stops_it(tmp_path):
    export_onnx(Faulty("biased"), tmp_path / "m.onnx", verify=False)
    engine = open_engine(tmp_path / "m.onnx")
    x, sigma = np.ones((1, 6), np.float32), np.ones(1, np.float32)
    np.testing.assert_allclose(engine(x, sigma), 1.01 * TorchBackend(Faulty("biased"))(x, sigma), rtol=1e-5)


@pytest.mark.parametrize(("mode", "said"), [("constant batch", "exported"), ("raises", "says no")])
def test_networks_that_cannot_be_exported(mode, said, tmp_path):
    with pytest.raises(BackendError, match=said) as e:
        export_onnx(Faulty(mode), tmp_path / "m.onnx", threads=1)
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_target_is_found_before_the_work(tmp_path):
    stages = []
    with pytest.raises(FileError, match="does not exist"):
        export_onnx(Faulty("biased"), tmp_path / "no" / "m.onnx", on_stage=stages.append)
    assert stages == []


def test_the_exporter_is_silent_and_leaves_the_model_alone(tmp_path, capfd):
    denoiser = Faulty("right").train()
    denoiser.mode = "biased"
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_onnx(denoiser, tmp_path / "m.onnx", verify=False)
    assert caught == []
    assert capfd.readouterr() == ("", "")
    assert denoiser.training
    assert all(torch.equal(before[name], tensor) for name, tensor in denoiser.state_dict().items())


def test_double_precision_models_are_exported_in_single(tmp_path):
    mixture = make("mixture")
    export_onnx(mixture.double(), tmp_path / "m.onnx", threads=1)
    assert mixture.means.dtype == torch.float64
    assert open_engine(tmp_path / "m.onnx").info.shape == (1, 4, 4)


def test_a_model_file_exports_the_same(points, tmp_path):
    denoiser, done = points
    save_model(tmp_path / "m.pt", denoiser)
    assert open_engine(tmp_path / "m.pt").info.weights_digest == done.info.weights_digest
