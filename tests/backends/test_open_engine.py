"""Files are told apart by content, and each wrong one gets one line with a remedy."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import ncdeploy
from ncdeploy.backends import open_engine
from ncdeploy.errors import BackendError, FileError, InputError
from ncdeploy.formats.describe import info_from_flags
from tiny_models import IMAGES, write_mixture

SRC = Path(ncdeploy.__file__).parents[1]


@pytest.fixture(scope="module")
def means():
    return np.random.default_rng(0).standard_normal((20, 1, 8, 8))


@pytest.fixture
def model(tmp_path, means):
    return write_mixture(tmp_path / "m.onnx", IMAGES, means)


def test_the_name_does_not_matter(model, tmp_path):
    renamed = model.rename(tmp_path / "weights.pt")
    assert open_engine(renamed).info == IMAGES


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.onnx", None, "no such file"),
        ("empty.onnx", b"", "empty"),
        ("text.pt", b"these are not weights", "not a model file"),
        ("png.onnx", b"\x89PNG\r\n\x1a\n" + bytes(100), "not a model file"),
        ("bare.pt", pickle.dumps({"weights": 1}), "can run code"),
        ("cut.pt", b"PK\x03\x04" + bytes(500), "truncated"),
        ("engine.plan", b"ftrt" + bytes(100), "TensorRT engine"),
        ("engine.bin", b"ftrt" + bytes(100), "TensorRT engine"),
    ],
)
def test_wrong_files(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((FileError, BackendError), match=said) as e:
        open_engine(tmp_path / name)
    assert name in str(e.value)
    assert "\n" not in str(e.value)


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileError, match="can run code"):
        open_engine(tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


def test_folder_and_archive(tmp_path):
    with pytest.raises(FileError, match="is a folder"):
        open_engine(tmp_path)
    np.savez(tmp_path / "samples.npz", samples=np.zeros(3))
    with pytest.raises(FileError, match="NumPy arrays"):
        open_engine(tmp_path / "samples.npz")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_truncated_onnx(model, keep):
    content = model.read_bytes()
    model.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(FileError, match="cut short"):
        open_engine(model)


def test_damaged_metadata(model):
    proto = onnx.load(model)
    onnx.helper.set_model_props(proto, {"ncdeploy": '{"format": 1, "shape": "x"}'})
    onnx.save(proto, model)
    with pytest.raises(FileError, match="damaged"):
        open_engine(model)


def test_silent_model_names_the_flags_that_then_work(tmp_path, means):
    model = write_mixture(tmp_path / "s.onnx", IMAGES, means, described=False)
    with pytest.raises(FileError, match="--sigma-min, --sigma-max and --sigma-data"):
        open_engine(model)
    info = info_from_flags(model, sigma_min=0.01, sigma_max=80.0, sigma_data=0.5)
    assert open_engine(model, info=info).info == info
    assert info.shape == (1, 8, 8)
    assert info_from_flags(model, shape="1,8,8", sigma_min=0.01, sigma_max=80.0, sigma_data=0.5) == info
    assert info_from_flags(model) is None
    with pytest.raises(InputError, match="--sigma-max, --sigma-data is missing"):
        info_from_flags(model, sigma_min=0.01)


def test_labels_of_a_silent_model_must_be_counted(tmp_path, means):
    model = write_mixture(tmp_path / "s.onnx", replace(IMAGES, num_classes=3), means, described=False)
    with pytest.raises(InputError, match="--num-classes"):
        info_from_flags(model, sigma_min=0.01, sigma_max=80.0, sigma_data=0.5)
    info = info_from_flags(model, sigma_min=0.01, sigma_max=80.0, sigma_data=0.5, num_classes=3)
    assert open_engine(model, info=info).info.num_classes == 3


def test_a_description_twice_is_refused(model):
    with pytest.raises(InputError, match="describes itself"):
        open_engine(model, info=IMAGES)
    with pytest.raises(InputError, match="describes itself"):
        info_from_flags(model, sigma_min=0.01, sigma_max=80.0, sigma_data=0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": (3, 8, 8)}, r"x is float32 \(batch, 1, 8, 8\); expected float32 \(batch, 3, 8, 8\)"),
        ({"num_classes": 2}, "inputs are x, sigma; expected x, sigma, labels"),
    ],
)
def test_graph_must_fit_its_description(model, change, said):
    proto = onnx.load(model)
    onnx.helper.set_model_props(proto, {"ncdeploy": replace(IMAGES, **change).to_json()})
    onnx.save(proto, model)
    with pytest.raises(FileError, match=said):
        open_engine(model)


def test_a_fixed_batch_is_refused(model):
    proto = onnx.load(model)
    for port in proto.graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, model)
    with pytest.raises(FileError, match="dynamic batch"):
        open_engine(model)


def test_onnx_opens_and_runs_without_torch_and_onnx(model):
    code = f"""
import sys
import numpy as np
from ncdeploy.backends import open_engine
from ncdeploy.inspection import inspect_file
from ncdeploy.parity import compare, open_pair
a, b = open_pair({str(model)!r}, {str(model)!r})
a(np.zeros((2, 1, 8, 8), np.float32), np.ones(2, np.float32))
inspect_file({str(model)!r})
print(sorted({{"torch", "onnx", "ncdeploy_cli", "typer"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC, check=False)
    assert done.stdout.strip() == "[]", done.stderr
