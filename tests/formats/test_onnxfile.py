"""Reading ONNX files without the onnx package: it must agree with the onnx package."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ncdeploy.errors import FileError
from ncdeploy.formats.onnxfile import is_onnx, read_onnx
from ncdeploy.ports import Port
from tiny_models import IMAGES, write_mixture


@pytest.fixture
def model(tmp_path):
    return write_mixture(tmp_path / "m.onnx", IMAGES, np.random.default_rng(0).standard_normal((300, 1, 8, 8)))


def test_agrees_with_onnx(model):
    found, truth = read_onnx(model), onnx.load(model)
    assert found.operators == Counter(node.op_type for node in truth.graph.node)
    assert found.metadata == {p.key: p.value for p in truth.metadata_props}
    assert (found.ir_version, found.opset) == (truth.ir_version, truth.opset_import[0].version)
    floats = [numpy_helper.to_array(t) for t in truth.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert found.parameters == sum(t.size for t in floats)
    assert found.inputs == (
        Port(name="x", dtype="float32", shape=("batch", 1, 8, 8)),
        Port(name="sigma", dtype="float32", shape=("batch",)),
    )
    assert found.outputs == (Port(name="denoised", dtype="float32", shape=("batch", 1, 8, 8)),)


def test_unusual_models(tmp_path):
    """Initializers listed as inputs (IR 3), packed dims, an unnamed dynamic axis, a foreign operator set."""
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 3])
    w = helper.make_tensor_value_info("w", TensorProto.DOUBLE, [3])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 3])
    graph = helper.make_graph([node], "g", [x, w], [y], [helper.make_tensor("w", TensorProto.DOUBLE, [3], [1, 2, 3])])
    sets = [helper.make_opsetid("com.example", 7), helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=3), tmp_path / "old.onnx")
    found = read_onnx(tmp_path / "old.onnx")
    assert found.inputs == (Port(name="x", dtype="float64", shape=("", 3)),)
    assert (found.opset, found.ir_version, found.parameters) == (13, 3, 3)


def test_every_truncation_of_the_graph_is_noticed(model):
    content = model.read_bytes()
    end = content.index(b"sigma_min")  # in the metadata, which follow the graph
    for size in range(3, end, 997):
        model.write_bytes(content[:size])
        with pytest.raises(FileError, match="cut short"):
            is_onnx(model)


def test_random_damage_never_escapes_as_another_error(model):
    content = model.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), 20):
            damaged[at] = rng.integers(0, 256)
        model.write_bytes(bytes(damaged))
        try:
            if is_onnx(model):
                read_onnx(model)
        except FileError as e:
            assert "\n" not in str(e)  # noqa: PT017


@pytest.mark.parametrize("content", [b"import torch\nimport numpy\n", b"Be it known " * 50, bytes(1000), b"{}" * 99])
def test_other_files_are_not_onnx(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    assert not is_onnx(tmp_path / "f")
