"""The model repository for Triton, read with Triton's own definition of its configuration."""

import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bundle_files import write_engine
from ncdeploy import FileError, InputError, make_plan
from ncdeploy.bundle import make_bundle
from ncdeploy.bundle.triton import graph_config, write_repository
from tiny_models import IMAGES, write_mixture

PLANS = [make_plan("ddim", 5)]


@pytest.fixture(scope="session")
def definitions() -> Any:
    """model_config_pb2 of tritonclient, loaded alone: its package imports grpc, which nothing here needs."""
    pytest.importorskip("tritonclient", reason="pip install tritonclient")
    files = importlib.metadata.files("tritonclient") or []
    found = next(f for f in files if f.as_posix().endswith("tritonclient/grpc/model_config_pb2.py"))
    spec = importlib.util.spec_from_file_location("model_config_pb2", found.locate())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(definitions: Any, folder: Path) -> Any:
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), definitions.ModelConfig())


def tensors(ports: Any, definitions: Any) -> dict[str, tuple[str, list[int], list[int] | None]]:
    """name -> (type, dims, shape for the graph or None if it is dims)."""
    name = definitions.DataType.Name
    return {
        p.name: (name(p.data_type), list(p.dims), list(p.reshape.shape) if p.HasField("reshape") else None)
        for p in ports
    }


def write_sampler(path: Path) -> Path:
    """A graph with the kinds of ports that a sampler has: noise, a scalar, a count, and outputs."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["noise", "tolerance"], ["samples"]),
            helper.make_node("Identity", ["max_sweeps"], ["sweeps"]),
        ],
        "sampler",
        [
            helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", "nodes", 5]),
            helper.make_tensor_value_info("tolerance", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("max_sweeps", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["batch", "nodes", 5]),
            helper.make_tensor_value_info("sweeps", TensorProto.INT64, []),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_the_denoiser_is_batched_and_takes_a_sigma_for_each_row(definitions, tmp_path):
    info = replace(IMAGES, num_classes=3, guidance=False)
    model = write_mixture(tmp_path / "m.onnx", info, np.zeros((3, 1, 8, 8)))
    bundle = make_bundle(model, tmp_path / "b", plans=PLANS)
    (folder,) = write_repository(bundle.path, tmp_path / "r", max_batch=128, max_delay=500)
    config = parse(definitions, folder)
    assert (config.name, folder.name) == ("denoiser", "denoiser")
    assert config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == 128
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    # With batching, Triton puts the batch axis before dims, and before the shape that the graph gets.
    assert tensors(config.input, definitions) == {
        "x": ("TYPE_FP32", [1, 8, 8], None),
        "sigma": ("TYPE_FP32", [1], []),
        "labels": ("TYPE_INT64", [1], []),
    }
    assert tensors(config.output, definitions) == {"denoised": ("TYPE_FP32", [1, 8, 8], None)}
    assert (folder / "1" / "model.onnx").read_bytes() == model.read_bytes()


def test_the_sampler_is_served_as_it_is(definitions, tmp_path, model):
    sampler = write_sampler(tmp_path / "sampler.onnx")
    bundle = make_bundle(model, tmp_path / "b", plans=PLANS, graphs=[sampler])
    folders = write_repository(bundle.path, tmp_path / "r", prefix="five_")
    assert [folder.name for folder in folders] == ["five_denoiser", "five_sampler"]
    config = parse(definitions, folders[1])
    assert (config.name, config.platform, config.max_batch_size) == ("five_sampler", "onnxruntime_onnx", 0)
    assert not config.HasField("dynamic_batching")
    assert tensors(config.input, definitions) == {
        "noise": ("TYPE_FP32", [-1, -1, 5], None),
        "tolerance": ("TYPE_FP32", [1], []),
        "max_sweeps": ("TYPE_INT64", [1], []),
    }
    assert tensors(config.output, definitions) == {
        "samples": ("TYPE_FP32", [-1, -1, 5], None),
        "sweeps": ("TYPE_INT64", [1], []),
    }
    assert (folders[1] / "1" / "model.onnx").read_bytes() == sampler.read_bytes()


def test_a_tensorrt_engine(definitions, tmp_path):
    bundle = make_bundle(write_engine(tmp_path / "e.plan"), tmp_path / "b", plans=PLANS, verify=False)
    (folder,) = write_repository(bundle.path, tmp_path / "r")
    config = parse(definitions, folder)
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 32
    (group,) = config.instance_group
    assert list(group.profile) == ["0", "1"]
    with pytest.raises(InputError, match="max_batch: got 33, expected 1 to 32 rows"):
        write_repository(bundle.path, tmp_path / "r", max_batch=33)
    assert tensors(config.input, definitions) == {"x": ("TYPE_FP32", [5], None), "sigma": ("TYPE_FP32", [1], [])}
    assert [p.name for p in (folder / "1").iterdir()] == ["model.plan"]


def test_triton_s_definition_refuses_what_it_does_not_know(definitions, tmp_path, bundle):
    from google.protobuf import text_format

    (folder,) = write_repository(bundle.path, tmp_path / "r")
    path = folder / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size", "max_batch"))
    with pytest.raises(text_format.ParseError):
        parse(definitions, folder)


def test_a_repository_keeps_the_models_of_others(tmp_path, bundle):
    repository = tmp_path / "r"
    (repository / "other").mkdir(parents=True)
    (repository / "other" / "config.pbtxt").write_text("x")
    (folder,) = write_repository(bundle.path, repository)
    with pytest.raises(FileError, match=r"denoiser: exists; .* --force"):
        write_repository(bundle.path, repository)
    (folder / "1" / "model.onnx").write_text("damaged")
    write_repository(bundle.path, repository, force=True)
    assert (folder / "1" / "model.onnx").read_bytes() == bundle.engine.read_bytes()
    assert (repository / "other" / "config.pbtxt").read_text() == "x"
    assert sorted(p.name for p in repository.iterdir()) == ["denoiser", "other"]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"max_batch": 0}, "max_batch: got 0"), ({"max_delay": -1}, "max_delay: got -1"), ({"prefix": "a/b"}, "prefix")],
)
def test_wrong_values(tmp_path, bundle, options, said):
    with pytest.raises(InputError, match=said):
        write_repository(bundle.path, tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_the_command(tmp_path, bundle, run):
    done = run("triton", bundle.path, "-o", "repository", "--max-batch", 8)
    assert done.exit_code == 0, done.output
    assert "max_batch_size: 8" in (tmp_path / "repository" / "denoiser" / "config.pbtxt").read_text()


@pytest.mark.parametrize("name", ['x"\n}]\nbackend: "python', "x\\", "x\u202e", "y" * 600])
def test_names_in_a_graph_cannot_write_the_configuration(tmp_path, name):
    node = onnx.helper.make_node("Identity", [name], ["out"])
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 2]) for n in (name, "out")]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "graph.onnx")
    with pytest.raises(FileError, match="damaged ONNX file") as e:
        graph_config("graph", tmp_path / "graph.onnx")
    assert "\n" not in str(e.value)
