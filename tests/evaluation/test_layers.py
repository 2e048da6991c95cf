"""The first layer that leaves tolerance: of a graph with one layer spoilt, of one that overflows in half precision."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from ncdeploy.denoisers.factory import build, default_config
from ncdeploy.errors import InputError
from ncdeploy.evaluation.layers import compare_layers, first_apart
from ncdeploy.export import export_onnx
from ncdeploy_cli.main import app
from tiny_models import IMAGES, write_mixture

NETWORK = {
    "kind": "unet",
    "channels": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [4],
    "width": 16,
    "head_width": 8,
}


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    made = build(default_config((1, 8, 8), num_classes=3, network=NETWORK)).eval()
    for weights in made.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    return made


@pytest.fixture(scope="module")
def graph(denoiser, tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    export_onnx(denoiser, path, verify=False)
    return path


def spoil(graph: Path, target: Path, layer: str, factor: float) -> Path:
    """The same graph with one layer's weights multiplied."""
    model = onnx.load(graph)
    node = next(n for n in model.graph.node if n.name.startswith(f"{layer}/") and n.op_type == "Conv")
    weights = next(t for t in model.graph.initializer if t.name == node.input[1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(factor), weights.name))
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("layer", ["network.inner", "network.down.1.conv1", "network.outer"])
def test_the_spoilt_layer_is_named(graph, tmp_path, layer):
    found = compare_layers(graph, spoil(graph, tmp_path / "spoilt.onnx", layer, 1.01))
    first = first_apart(found)
    assert first.layer == layer
    assert first.rms == pytest.approx(0.01, rel=0.5)  # the bias is as it was
    assert all(each.ok for each in found[: found.index(first)])
    assert first_apart(compare_layers(graph, graph)) is None


def test_the_layer_that_overflows_in_half_precision_is_named(denoiser, graph, tmp_path):
    """One convolution's weights are so large that its sums pass 65504; its float32 graph is fine."""
    large = spoil(graph, tmp_path / "large.onnx", "network.down.1.conv1", 1e6)
    at = dict(denoiser.named_parameters())["network.down.1.conv1.weight"]
    with torch.no_grad():
        at *= 1e6
        try:
            export_onnx(denoiser, tmp_path / "half.onnx", precision="fp16", verify=False)
        finally:
            at /= 1e6
    first = first_apart(compare_layers(large, tmp_path / "half.onnx"))
    assert first.layer == "network.down.1.conv1"
    assert (first.rms, first.to_dict()["rms"]) == (np.inf, None)


def test_a_graph_in_half_precision_agrees(denoiser, graph, tmp_path):
    export_onnx(denoiser, tmp_path / "half.onnx", precision="fp16", verify=False)
    found = compare_layers(graph, tmp_path / "half.onnx")
    assert first_apart(found) is None
    assert max(layer.rms for layer in found) > 1e-4
    assert first_apart(compare_layers(graph, tmp_path / "half.onnx", tolerance=1e-5)) is not None


def test_the_command(graph, tmp_path):
    spoilt = spoil(graph, tmp_path / "spoilt.onnx", "network.outer", 1.01)

    def run(*arguments: object) -> object:
        return CliRunner().invoke(app, ["verify", *map(str, arguments)])

    done = run(graph, spoilt, "--layers")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "first in layer network.outer (network.outer/" in done.stderr
    assert "--keep-fp32 network.outer" in done.stderr
    record = json.loads(run(graph, spoilt, "--layers", "--json").stdout)
    assert (record["ok"], record["first"]) == (False, "network.outer")
    same = run(graph, graph, "--layers")
    assert (same.exit_code, "agree, within 0" in same.stdout) == (0, True)
    assert "--threads: does nothing with --layers" in run(graph, graph, "--layers", "--threads", 1).stderr


def test_what_cannot_be_compared(graph, tmp_path):
    other = write_mixture(tmp_path / "other.onnx", IMAGES, np.ones((2, 1, 8, 8)))
    with pytest.raises(InputError, match="no layer of the same name"):
        compare_layers(graph, other)
    (tmp_path / "model.plan").write_bytes(b"ftrt" + bytes(20))
    with pytest.raises(InputError, match="of two graphs"):
        compare_layers(graph, tmp_path / "model.plan")
