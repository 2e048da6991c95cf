"""The ONNX Runtime backend: the right numbers, strict inputs and providers, outputs the caller owns."""

import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend
from ncdeploy.errors import BackendError, DependencyError, FileError, InputError
from oracle import GaussianMixture
from tiny_models import IMAGES, write_mixture

MEANS = np.random.default_rng(0).standard_normal((20, 1, 8, 8))
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_mixture(tmp_path_factory.mktemp("m") / "m.onnx", IMAGES, MEANS)


@pytest.fixture
def engine(path):
    return OnnxRuntimeBackend(path, threads=1)


def inputs(batch, seed=0):
    rng = np.random.default_rng(seed)
    sigma = np.geomspace(0.05, 50, batch).astype(np.float32)
    return (sigma[:, None, None, None] * rng.standard_normal((batch, 1, 8, 8))).astype(np.float32), sigma


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_each_row_has_its_own_sigma(engine, batch):
    x, sigma = inputs(batch)
    exact = GaussianMixture(MEANS.reshape(20, 64), 0.1)(x, sigma)
    got = engine(x, sigma)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact, atol=2e-4)
    if batch > 1:
        assert np.abs(engine(x, sigma[::-1].copy()) - exact).max() > 0.1


def test_output_is_owned(engine):
    x, sigma = inputs(5)
    first = engine(x, sigma)
    kept = first.copy()
    second = engine(*inputs(5, seed=1))
    np.testing.assert_array_equal(first, kept)
    second[:] = 7
    np.testing.assert_array_equal(engine(x, sigma), kept)
    assert not np.shares_memory(first, x)


def test_torch_tensors_are_bound_where_they_are(engine):
    x, sigma = inputs(6)
    wanted = engine(x, sigma)
    tensors = torch.from_numpy(x), torch.from_numpy(sigma)
    got = engine(*tensors)
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), wanted)
    kept = got.clone()
    engine(*(2 * t for t in tensors))
    assert torch.equal(got, kept)  # the caller owns it
    strided = torch.from_numpy(np.repeat(x, 2, axis=0))[::2]
    np.testing.assert_array_equal(engine(strided, tensors[1]).numpy(), wanted)
    with pytest.raises(InputError, match="all as tensors"):
        engine(tensors[0], sigma)
    with pytest.raises(InputError, match="all as tensors"):
        engine(x, tensors[1])
    with pytest.raises(InputError, match="float64"):
        engine(tensors[0].double(), tensors[1])
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine(*tensors)


def test_memory_layout_does_not_matter(engine):
    x, sigma = inputs(6)
    wanted = engine(x[::2].copy(), sigma[::2].copy())
    np.testing.assert_array_equal(engine(x[::2], sigma[::2]), wanted)
    np.testing.assert_array_equal(engine(np.asfortranarray(x), sigma), engine(x, sigma))


X, SIGMA = inputs(4)


@pytest.mark.parametrize(
    ("x", "sigma", "labels", "said"),
    [
        (X.astype(np.float64), SIGMA, None, "float64"),
        (X[:, :, :7], SIGMA, None, r"\(batch, 1, 8, 8\)"),
        (X[0], SIGMA, None, r"\(1, 8, 8\)"),
        (X[:0], SIGMA[:0], None, "batch >= 1"),
        (X, SIGMA[:3], None, r"expected float32 \(4,\)"),
        (X, SIGMA.astype(np.float64), None, "float64"),
        (X, SIGMA * 0, None, "positive"),
        (X, -SIGMA, None, "positive"),
        (X, SIGMA * np.float32("inf"), None, "finite"),
        (X, SIGMA * np.float32("nan"), None, "finite"),
        (X, SIGMA, np.zeros(4, np.int64), "unconditional"),
        (X.tolist(), SIGMA, None, "NumPy"),
        (X, 1.0, None, "sigma: got float"),
    ],
)
def test_inputs_are_checked(engine, x, sigma, labels, said):
    with pytest.raises(InputError, match=said):
        engine(x, sigma, labels)


def test_labels_are_checked(tmp_path):
    path = write_mixture(tmp_path / "c.onnx", replace(IMAGES, num_classes=3), MEANS)
    engine = OnnxRuntimeBackend(path, threads=1)
    assert engine(X, SIGMA, np.array([0, 1, 2, 3])).shape == X.shape
    with pytest.raises(InputError, match="3 = unconditional"):
        engine(X, SIGMA, np.array([0, 1, 2, 4]))
    with pytest.raises(InputError, match=r"lie in 0 \.\. 3"):
        engine(X, SIGMA, np.array([0, 1, 2, -1]))
    with pytest.raises(InputError, match="int64"):
        engine(X, SIGMA, np.zeros(4, np.int32))
    with pytest.raises(InputError, match="needs them"):
        engine(X, SIGMA)


def test_providers_are_strict(path):
    with pytest.raises(BackendError, match="NoSuchProvider is not in this ONNX Runtime"):
        OnnxRuntimeBackend(path, providers=["NoSuchProvider"])
    if CUDA not in onnxruntime.get_available_providers():
        with pytest.raises(BackendError, match="onnxruntime-gpu"):
            OnnxRuntimeBackend(path, device="cuda")


def test_a_provider_that_falls_back_is_an_error(path, monkeypatch):
    """ONNX Runtime drops a provider that does not start, and goes on."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(BackendError, match=f"did not start {CUDA}, only {CPU}"):
        OnnxRuntimeBackend(path, device="cuda:99")


def test_a_provider_that_fails_in_a_run_is_an_error(path, monkeypatch):
    """ONNX Runtime would print a line and go on with other providers."""
    engine = OnnxRuntimeBackend(path)
    session = engine._session._session
    runs, real = [], session._sess

    class Failing:
        def __getattr__(self, name):
            return getattr(real, name)

        def run(self, *given):
            runs.append(given)
            raise onnxruntime.capi.onnxruntime_pybind11_state.EPFail("CUDA failure 700")

    monkeypatch.setattr(session, "_sess", Failing())
    with pytest.raises(BackendError, match="failed on a batch of 4: CUDA failure 700"):
        engine(X, SIGMA)
    assert len(runs) == 1


def test_cuda_libraries_of_wheels_are_loaded_without_a_word(path, monkeypatch, capsys):
    """`preload_dlls` prints what it does not find; that is said later, by the provider that does not start."""
    asked = []

    def preload():
        asked.append(True)
        print("Failed to load libcublasLt.so.12")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    OnnxRuntimeBackend(path)
    assert not asked
    with pytest.raises(BackendError, match="did not start"):
        OnnxRuntimeBackend(path, device="cuda")
    assert asked
    assert capsys.readouterr().out == ""


def test_closed(engine):
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine(X, SIGMA)


def test_damage_inside_a_valid_frame(path, tmp_path):
    content = path.read_bytes().replace(b"Softmax", b"Sofxmax")
    (tmp_path / "d.onnx").write_bytes(content)
    with pytest.raises((FileError, BackendError)) as e:
        OnnxRuntimeBackend(tmp_path / "d.onnx")
    assert "\n" not in str(e.value)
    assert "d.onnx" in str(e.value)


def test_without_onnxruntime_the_line_to_install_it(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"pip install .*'\.\[cpu\]'"):
        OnnxRuntimeBackend(path)
