"""Graphs of ONNX Runtime need fixed memory and shapes for every id; the CPU runs what a GPU would capture."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from conditioned import PerSample, make
from ncdeploy.backends import onnxruntime as module
from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend
from ncdeploy.backends.onnxruntime_graphs import GRAPH_ID, GraphRuns
from ncdeploy.export import export_onnx
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity.inputs import draw_samples
from ncdeploy.sampling.callsizes import CallSizes
from tiny_models import write_mixture


class Watched:
    """A session that notes the id of every run, and where its binding reads and writes."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session, self.runs = session, list[tuple[str, int]]()

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runs.append((options.get_run_config_entry(GRAPH_ID), id(binding)))
        self._session.run_with_iobinding(binding, options)


@pytest.fixture(scope="module")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    info = ModelInfo(shape=(3,), sigma_min=0.01, sigma_max=80.0, sigma_data=0.5)
    means = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    return write_mixture(tmp_path_factory.mktemp("graphs") / "model.onnx", info, means)


@pytest.fixture
def watched(tiny_onnx: Path) -> Watched:
    return Watched(ort.InferenceSession(str(tiny_onnx), providers=["CPUExecutionProvider"]))


def inputs(info: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, *info.shape)).astype(np.float32)
    return {"x": x, "sigma": rng.uniform(0.1, 2.0, rows).astype(np.float32)}


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_every_size_has_a_graph_with_memory_of_its_own(watched: Watched, tiny_onnx: Path, kind: str) -> None:
    plain = OnnxRuntimeBackend(tiny_onnx)
    graphs = GraphRuns(ort, watched, "cpu", 0)
    results = []
    for seed, rows in enumerate((4, 2, 4, 4, 2)):
        feeds = inputs(plain.info, rows, seed)
        given = feeds if kind == "numpy" else {name: torch.from_numpy(value) for name, value in feeds.items()}
        results.append((np.asarray(graphs.run(given)), plain(**feeds)))
    for got, expected in results:  # none was written over by a later call
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    bindings = dict(watched.runs)
    assert len(bindings) == len(set(bindings.values())) == 2
    assert all(bindings[graph] == binding for graph, binding in watched.runs)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_conditions_are_read_again_in_every_call(tmp_path: Path, kind: str) -> None:
    export_onnx(make(PerSample), tmp_path / "m.onnx", verify=False)
    session = Watched(ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]))
    graphs, plain = GraphRuns(ort, session, "cpu", 0), OnnxRuntimeBackend(tmp_path / "m.onnx")
    for seed, (rows, samples) in enumerate([(4, 2), (4, 3), (4, 2)]):
        rng = np.random.default_rng(seed)
        given = draw_samples(plain.info, samples, rng)
        feeds: Any = {**inputs(plain.info, rows, seed), **given, "sample": rng.integers(0, samples, rows)}
        wanted = plain(feeds["x"], feeds["sigma"], conditions=given, sample=feeds["sample"])
        got = graphs.run(feeds if kind == "numpy" else {name: torch.from_numpy(v) for name, v in feeds.items()})
        np.testing.assert_allclose(np.asarray(got), wanted, atol=1e-6)
    assert len({graph for graph, _ in session.runs}) == 2


def test_arrays_and_tensors_do_not_share_a_graph(watched: Watched, tiny_onnx: Path) -> None:
    info = OnnxRuntimeBackend(tiny_onnx).info
    graphs, feeds = GraphRuns(ort, watched, "cpu", 0), inputs(info, 3, 0)
    graphs.run(feeds)
    graphs.run({name: torch.from_numpy(value) for name, value in feeds.items()})
    assert len({graph for graph, _ in watched.runs}) == 2


def test_a_call_is_filled_up_to_a_size(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnnxRuntimeBackend(tiny_onnx)
    expected = {rows: backend(**inputs(backend.info, rows, rows)) for rows in (1, 5, 7)}
    asked, denoise = [], module.Session.denoise
    monkeypatch.setattr(
        module.Session, "denoise", lambda self, feeds: (asked.append(len(feeds["x"])), denoise(self, feeds))[1]
    )
    backend.sizes = CallSizes()  # as on CUDA
    for rows, denoised in expected.items():
        np.testing.assert_allclose(backend(**inputs(backend.info, rows, rows)), denoised, rtol=0, atol=1e-6)
    assert asked == [1, 6, 8]
    assert backend.sizes.ready == {1, 6, 8}
