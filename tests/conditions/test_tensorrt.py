"""Engines of a conditional model: the real compiler's profiles, and calls on a simulated GPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulated_gpu
from conditioned import PerSample, make
from ncdeploy import SampleOptions, make_plan, open_engine, sample
from ncdeploy.backends.tensorrt.backend import TensorRTBackend
from ncdeploy.build.engine import build_engine
from ncdeploy.export import export_onnx
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.formats.profiles import profiles_for
from ncdeploy.formats.sidecar import BuildOptions, read_sidecar
from ncdeploy.parity.inputs import draw_samples

N = 9
GIVEN = draw_samples(make().info, N, np.random.default_rng(3))
PROFILES = profiles_for(4, 8, 4)
PLAN = make_plan("ddim", 8, schedule="karras")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conditions") / "model.onnx"
    export_onnx(make(PerSample), path, threads=1)
    return path


@pytest.fixture
def engine(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    device = simulated_gpu.install(monkeypatch)
    build_engine(exported, tmp_path / "m.plan", PROFILES, BuildOptions(), command="")
    device.log.clear()
    opened = TensorRTBackend(tmp_path / "m.plan")
    yield opened
    opened.close()
    assert device.held == 0


def test_a_build_compares_times_and_lists_layers(engine: Any) -> None:
    assert engine.sidecar.parity["ok"]
    assert engine.sidecar.latency
    assert engine.layers(5)


@pytest.mark.parametrize("samples", [1, 3, 8, 9])
@pytest.mark.parametrize("window", [None, 3])
def test_samples_are_those_of_the_graph(engine: Any, exported: Path, samples: int, window: int | None) -> None:
    """Up to twice the 4 samples that it was built for in one call; more go in parts."""
    given = {name: values[:samples] for name, values in GIVEN.items()}
    run: Any = {"seeds": range(samples), "conditions": given, "window": window, "tolerance": 1e-6}
    wanted = sample(open_engine(exported, threads=1), PLAN, **run).samples
    np.testing.assert_allclose(sample(engine, PLAN, **run).samples, wanted, atol=1e-5)


def test_guidance_outside(engine: Any, exported: Path) -> None:
    run: Any = {"seeds": range(4), "conditions": {k: v[:4] for k, v in GIVEN.items()}, "window": 2}
    run["options"] = SampleOptions(guidance=2.0)
    wanted = sample(open_engine(exported, threads=1), PLAN, **run).samples
    np.testing.assert_allclose(sample(engine, PLAN, **run).samples, wanted, atol=1e-5)


def test_rows_in_any_order_of_more_samples_than_it_takes(engine: Any, exported: Path) -> None:
    rng = np.random.default_rng(0)
    x, sigma = rng.standard_normal((50, 6)).astype(np.float32), np.full(50, 0.5, np.float32)
    rows = {"conditions": GIVEN, "sample": rng.integers(0, N, 50)}
    wanted = open_engine(exported, threads=1)(x, sigma, **rows)
    np.testing.assert_allclose(engine(x, sigma, **rows), wanted, atol=1e-5)


def test_a_call_of_other_samples_drops_the_captured_graph(engine: Any) -> None:
    log = simulated_gpu.Engine.device.log

    def call(samples: int) -> None:
        given = {name: values[:samples] for name, values in GIVEN.items()}
        engine(np.zeros((6, 6), np.float32), np.ones(6, np.float32), conditions=given, sample=np.zeros(6, np.int64))

    for samples in (2, 2, 2, 3, 3, 3):
        call(samples)
    assert log == ["profile 1", "enqueue", "enqueue", "capture", "launch"] * 2
    log.clear()
    call(3)
    assert log == ["launch"]


def test_the_real_compiler_takes_ranges_of_rows_and_of_samples(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: dict[str, Any] = {}
    from ncdeploy.build import compiler

    shapes = compiler._shapes

    def spy(*args: Any) -> Any:
        profile = shapes(*args)
        ranges = {name: [tuple(sizes) for sizes in (p.min, p.opt, p.max)] for name, p in profile.items()}
        seen.setdefault("profiles", []).append(ranges)
        return profile

    monkeypatch.setattr(compiler, "_shapes", spy)
    plan = tmp_path / "m.plan"
    build_engine(exported, plan, PROFILES, BuildOptions(), command="", runtime="rtx")
    record = json.loads((tmp_path / "m.plan.json").read_text())
    assert read_sidecar(plan).model.conditions == make().info.conditions
    assert record["model"]["requires"] == ["conditions"]
    first, second = seen["profiles"]
    assert first["tokens"] == second["tokens"] == [(1, 4, 5), (4, 4, 5), (8, 4, 5)]
    assert first["task"] == [(1,), (4,), (8,)]
    assert (first["sample"], second["sample"]) == ([(1,), (4,), (4,)], [(5,), (16,), (32,)])

    seen.clear()
    for kind in ("sampler", "sweep"):
        graph = tmp_path / f"{kind}.onnx"
        record = choose_record(PLAN, make().info, kind=kind, window=3, sweeps=2)
        export_graph(exported, graph, record, verify=False)
        samples = profiles_for(4, 1, 1)
        build_engine(graph, tmp_path / f"{kind}.plan", samples, BuildOptions(), command="", runtime="rtx")
        assert seen["profiles"][-1]["tokens"] == [(1, 4, 5), (4, 4, 5), (4, 4, 5)]
