"""Graphs whose weights lie in files beside them: found there and nowhere else, and part of what is checked."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from ncdeploy import FileError, make_plan, open_bundle, open_engine
from ncdeploy.bundle.triton import write_repository
from ncdeploy.bundle.writer import make_bundle
from ncdeploy.formats.onnxfile import external_data, read_onnx
from ncdeploy.formats.sidecar import graph_digest
from tiny_models import POINTS, write_mixture


def save_apart(folder: Path, location: str = "model.data") -> Path:
    """A graph with its weights in another file."""
    whole = onnx.load(write_mixture(folder / "whole.onnx", POINTS, np.random.default_rng(0).normal(size=(300, 2))))
    onnx.save(whole, folder / "model.onnx", save_as_external_data=True, location=location, size_threshold=100)
    return folder / "model.onnx"


def point_to(graph: Path, location: str) -> None:
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    graph.write_bytes(model.SerializeToString())


def test_found_beside_the_graph(tmp_path: Path) -> None:
    graph = save_apart(tmp_path)
    assert external_data(graph) == {"model.data"}
    x = np.ones((2, 2), np.float32)
    found = [open_engine(tmp_path / name)(x, np.ones(2, np.float32)) for name in ("model.onnx", "whole.onnx")]
    assert np.array_equal(*found)
    before = graph_digest(graph)
    data = (tmp_path / "model.data").read_bytes()
    (tmp_path / "model.data").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert graph_digest(graph) != before


OUTSIDE = ["../secret", "/etc/passwd", "a/../../secret", "..", "a\\..\\secret", "C:secret", "", "a\0b", "./../secret"]


@pytest.mark.parametrize("location", OUTSIDE)
def test_refused_elsewhere(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    graph = save_apart(tmp_path / "in")
    point_to(graph, location)
    for read in (read_onnx, open_engine):
        with pytest.raises(FileError, match=r"not in its folder|a folder") as e:
            read(graph)
        assert "\n" not in str(e.value)


def test_refused_through_a_link_and_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    graph = save_apart(tmp_path / "in")
    (tmp_path / "in" / "model.data").rename(tmp_path / "secret")
    with pytest.raises(FileError, match="no such file"):
        open_engine(graph)
    (tmp_path / "in" / "model.data").symlink_to(tmp_path / "secret")
    with pytest.raises(FileError, match="link out of its folder"):
        open_engine(graph)


def test_a_bundle_has_and_checks_them(tmp_path: Path) -> None:
    graph, plan = save_apart(tmp_path), make_plan("ddim", 5)
    bundle = make_bundle(graph, tmp_path / "bundle", plans=[plan])
    x = np.ones((2, 2), np.float32)
    assert np.array_equal(open_engine(bundle)(x, x[0]), open_engine(graph)(x, x[0]))
    write_repository(bundle.path, tmp_path / "triton")
    assert (tmp_path / "triton" / "denoiser" / "1" / "model.data").read_bytes() == (
        tmp_path / "model.data"
    ).read_bytes()
    data = (bundle.path / "model.data").read_bytes()
    (bundle.path / "model.data").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FileError, match=r"model\.data: has changed"):
        open_bundle(bundle.path)


def test_a_bundle_takes_no_other_kinds_of_files(tmp_path: Path) -> None:
    graph = save_apart(tmp_path, "library.so")
    with pytest.raises(FileError, match="all a bundle holds"):
        make_bundle(graph, tmp_path / "bundle", plans=[make_plan("ddim", 5)])
