"""Graphs with a sampler in them: with conditions the samples are those of the host loop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from conditioned import CONDITIONS, OBS, PerSample, make
from ncdeploy import InputError, make_plan, open_engine, sample
from ncdeploy.backends.graphs.run import GraphEngine
from ncdeploy.export import export_onnx
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.export.passes.whole_windows import WholeWindows
from ncdeploy.parity.inputs import draw_samples

N = 5
INFO = make().info
GIVEN = draw_samples(INFO, N, np.random.default_rng(3))
PLAN = make_plan("ddpm", 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs")
    export_onnx(make(PerSample), path / "m.onnx", threads=1)
    export_onnx(make(PerSample), path / "guided.onnx", guidance=True, threads=1)
    for kind in ("sampler", "sweep"):
        for name in ("m", "guided"):
            record = choose_record(PLAN, INFO, kind=kind, window=6, sweeps=2)
            done = export_graph(path / f"{name}.onnx", path / f"{kind}-{name}.onnx", record, threads=1)
            assert done.agreement is not None
    whole, _ = WholeWindows()(onnx.load(path / "sampler-m.onnx"))
    onnx.save(whole, path / "whole-m.onnx")
    return path


@pytest.mark.parametrize("kind", ["sampler", "sweep", "whole"])
def test_samples_are_those_of_the_host_loop(folder: Path, kind: str) -> None:
    graph = GraphEngine(folder / f"{kind}-m.onnx", threads=1)
    wanted = sample(
        open_engine(folder / "m.onnx", threads=1), PLAN, seeds=range(N), conditions=GIVEN, window=6, tolerance=1e-6
    ).samples
    for rows in (None, 2 * 6):
        got = graph.sample(range(N), conditions=GIVEN, tolerance=1e-6, max_rows=rows).samples
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    order = np.random.default_rng(0).permutation(N)
    moved = {name: values[order] for name, values in GIVEN.items()}
    got = graph.sample(order.tolist(), conditions=moved, tolerance=1e-6).samples
    np.testing.assert_allclose(got, wanted[order], atol=1e-4)
    wrong = graph.sample(order.tolist(), conditions=GIVEN, tolerance=1e-6).samples
    assert np.abs(wrong - wanted[order]).max() > 0.05


@pytest.mark.parametrize("kind", ["sampler", "sweep"])
def test_guidance_inside(folder: Path, kind: str) -> None:
    graph = GraphEngine(folder / f"{kind}-guided.onnx", threads=1)
    plain = GraphEngine(folder / f"{kind}-m.onnx", threads=1).sample(range(N), conditions=GIVEN).samples
    one, three = (graph.sample(range(N), conditions=GIVEN, guidance=w).samples for w in (None, 3.0))
    np.testing.assert_allclose(one, plain, atol=2e-3)
    assert np.abs(three - plain).max() > 0.01


def test_what_depends_on_conditions_alone_is_outside_the_loop(folder: Path) -> None:
    graph = onnx.load(folder / "sampler-m.onnx").graph
    body = next(a.g for node in graph.node if node.op_type == "Loop" for a in node.attribute if a.name == "body")
    names = {c.name for c in CONDITIONS}
    assert not [node.name for node in body.node if names & set(node.input)]
    assert [node.name for node in graph.node if names & set(node.input)]
    sweep = onnx.load(folder / "sweep-m.onnx").graph
    assert sum("tokens" in node.input for node in sweep.node) == sum("tokens" in node.input for node in graph.node)


def test_what_does_not_fit(folder: Path) -> None:
    graph = GraphEngine(folder / "sampler-m.onnx", threads=1)
    for given, said in ((None, "obs is missing"), (GIVEN | {"goal": GIVEN["obs"]}, "got 'goal'")):
        with pytest.raises(InputError, match=said):
            graph.sample(range(N), conditions=given)
    for name in ("stop", "tolerance", "plan_nodes"):
        with pytest.raises(InputError, match=f"condition {name}: sweep and sampler graphs have"):
            choose_record(PLAN, replace(INFO, conditions=(replace(OBS, name=name),)), kind="sampler")


def test_on_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncdeploy_cli.main import app

    monkeypatch.chdir(tmp_path)
    np.savez("given.npz", **GIVEN)
    words = [part for c in CONDITIONS for part in ("--condition", f"{c.name}=given.npz:{c.name}")]

    def run(*args: Any) -> Any:
        return CliRunner().invoke(app, ["sample", *(str(a) for a in args)])

    for kind in ("sampler", "sweep"):
        done = run(folder / f"{kind}-m.onnx", "-n", N, *words, "-o", f"{kind}.npy")
        assert done.exit_code == 0, done.output
        wanted = GraphEngine(folder / f"{kind}-m.onnx").sample(range(N), conditions=GIVEN).samples
        np.testing.assert_allclose(np.load(f"{kind}.npy"), wanted, atol=1e-5)
    done = run(folder / "sampler-m.onnx", "-n", N, "-o", "none.npy")
    assert done.exit_code == 1
    assert "obs is missing" in done.output
