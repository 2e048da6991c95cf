"""Looking into files."""

import json
import sys

import numpy as np
import onnx
import pytest

from ncdeploy.denoisers import Mixture, save_model
from ncdeploy.errors import DependencyError, FileError
from ncdeploy.formats.graphrecord import GRAPH_KEY, GraphRecord
from ncdeploy.inspection import inspect_file, summarize_curve
from ncdeploy.modelinfo import METADATA_KEY
from ncdeploy.sampling.recipe import make_plan
from tiny_models import IMAGES, write_mixture

MEANS = np.random.default_rng(0).standard_normal((20, 1, 8, 8)).astype(np.float32)


def test_onnx(tmp_path):
    path = write_mixture(tmp_path / "m.onnx", IMAGES, MEANS)
    found = inspect_file(path)
    assert (found.kind, found.size, found.info) == ("model.onnx", path.stat().st_size, IMAGES)
    assert found.details["opset"] == 20
    assert found.details["operators"]["MatMul"] == 2
    assert found.details["inputs"] == ["x float32 (batch, 1, 8, 8)", "sigma float32 (batch)"]
    assert json.loads(json.dumps(found.to_dict()))["info"]["shape"] == [1, 8, 8]
    assert inspect_file(write_mixture(tmp_path / "s.onnx", IMAGES, MEANS, described=False)).info is None


def test_the_records_of_a_graph_are_read_and_what_others_wrote_is_named(tmp_path):
    model = onnx.load(write_mixture(tmp_path / "m.onnx", IMAGES, MEANS))
    record = GraphRecord(kind="sampler", plan=make_plan("ddim", 9), plan_input=False, window=4, span=4, reach=1)
    onnx.helper.set_model_props(model, {METADATA_KEY: IMAGES.to_json(), GRAPH_KEY: record.to_json(), "author": "them"})
    onnx.save(model, tmp_path / "s.onnx")
    found = inspect_file(tmp_path / "s.onnx")
    assert (found.kind, found.info) == ("sampler.onnx", IMAGES)
    assert found.details["graph"] == record.describe()
    assert found.details["other_metadata"] == ["author"]


def test_torch(tmp_path, monkeypatch):
    mixture = Mixture(MEANS, 0.1)
    save_model(tmp_path / "m.pt", mixture, record={"steps": 7})
    found = inspect_file(tmp_path / "m.pt")
    assert found.kind == "model.pt"
    assert found.parameters == MEANS.size + len(MEANS)
    assert found.details["record"] == {"steps": 7}
    assert found.details["config"]["kind"] == "mixture"
    json.dumps(found.to_dict())
    monkeypatch.setitem(sys.modules, "ncdeploy.denoisers.checkpoint", None)  # as if torch were missing
    with pytest.raises(DependencyError, match=r"pip install .*'\.\[torch\]'"):
        inspect_file(tmp_path / "m.pt")


def test_samples(tmp_path):
    np.savez(tmp_path / "s.npz", samples=np.arange(6, dtype=np.float32).reshape(3, 2), name=np.array("x"))
    arrays = inspect_file(tmp_path / "s.npz").details["arrays"]
    assert arrays["samples"] == {"dtype": "float32", "shape": [3, 2], "min": 0, "max": 5, "mean": 2.5}
    np.savez(tmp_path / "o.npz", samples=np.array([{}], dtype=object))
    with pytest.raises(FileError, match="Python objects"):
        inspect_file(tmp_path / "o.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(50), b"\x80\x04K\x01."])
def test_foreign(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(FileError) as e:
        inspect_file(tmp_path / "f")
    assert "\n" not in str(e.value)


def test_curve_summary():
    text = summarize_curve(IMAGES.error_curve)
    assert f"{IMAGES.error_curve.mse[0] ** 0.5:.3g} at sigma 0.002" in text
    assert "not measured" in summarize_curve(None)
