"""Graphs that accept in law decide as the host loop does, node by node, and draw its samples."""

import json

import numpy as np
import onnx
import pytest

from export_graphs import Bench, rms
from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.errors import InputError
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.formats.graphrecord import GRAPH_KEY
from tiny_models import IMAGES

PLANS = {
    "ddpm-100": make_plan("ddpm", 100),
    "ddim-50-eta": make_plan("ddim", 50, eta=0.5),
    "dpmpp_2m_sde-30": make_plan("dpmpp_2m_sde", 30),
}
SEEDS, WINDOW = range(3, 9), 30
FORMS = {
    "inside": {"kind": "sampler"},
    "input": {"kind": "sampler", "plan_input": True},
    "whole": {"kind": "sampler", "whole": True},
    "sweep": {"kind": "sweep"},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("law"))


def law_graph(bench, plan, form):
    return bench.graph(plan, window=WINDOW, acceptance="law", **FORMS[form])


@pytest.mark.parametrize(
    ("name", "form", "theta"),
    [*((name, form, 1.0) for name in PLANS for form in FORMS), ("ddpm-100", "inside", 0.2), ("ddpm-100", "sweep", 0.2)],
)
def test_decisions_and_samples_are_those_of_the_host_loop(bench, name, form, theta):
    plan = PLANS[name]
    got = law_graph(bench, plan, form).sample(SEEDS, theta=theta)
    options = SampleOptions(acceptance="law", theta=theta)
    wanted = sample(bench.host, plan, seeds=SEEDS, window=WINDOW, options=options)
    assert rms(got.samples, wanted.samples).max() <= 1e-4
    np.testing.assert_array_equal(got.sweeps, wanted.sweeps)
    np.testing.assert_array_equal(got.rejections, wanted.rejections)
    np.testing.assert_allclose(got.rejection_odds, wanted.rejection_odds, rtol=1e-2)
    assert got.residual.max() == 0 < wanted.rejections.sum()
    if form in ("inside", "input"):  # a call has the rows that are needed, without those behind a draft that jumps
        assert got.nfe == wanted.nfe


def test_another_uniform_is_another_decision(bench, monkeypatch):
    graph = law_graph(bench, PLANS["ddpm-100"], "inside")
    once = graph.sample(SEEDS)
    monkeypatch.setattr("ncdeploy.backends.graphs.run.log_uniform", lambda seeds, plan, nodes: np.zeros(nodes.shape))
    never = graph.sample(SEEDS)
    assert never.rejections.sum() > 2 * once.rejections.sum()
    assert rms(once.samples, never.samples).max() > 0.1


def test_the_loop_stops_when_it_is_told_to(bench):
    graph = law_graph(bench, PLANS["ddpm-100"], "inside")
    full = graph.sample(SEEDS)
    cut = graph.sample(SEEDS, max_sweeps=int(full.sweeps.min()))
    done = full.sweeps == full.sweeps.min()
    np.testing.assert_array_equal(cut.samples[done], full.samples[done])
    assert np.isinf(cut.residual[~done]).all()
    assert np.isfinite(cut.samples).all()


@pytest.mark.parametrize("kind", ["sampler", "sweep"])
def test_it_is_compared_before_it_is_written(bench, tmp_path, kind):
    record = choose_record(PLANS["dpmpp_2m_sde-30"], IMAGES, kind=kind, acceptance="law", window=12)
    done = export_graph(bench.denoiser, tmp_path / "g.onnx", record, threads=1)
    assert done.agreement.ok
    assert done.agreement.sweeps == 0
    written = {entry.key: entry.value for entry in onnx.load(done.path).metadata_props}[GRAPH_KEY]
    assert json.loads(written)["requires"] == ["acceptance"], "an earlier version would take it for pathwise"
    assert ", in law;" in done.record.describe()


def test_what_cannot_be_is_refused(bench):
    with pytest.raises(InputError, match="rows without noise"):
        choose_record(make_plan("ddim", 10), IMAGES, kind="sampler", acceptance="law")
    with pytest.raises(InputError, match="in law makes 1"):
        choose_record(PLANS["ddpm-100"], IMAGES, kind="sweep", acceptance="law", sweeps=3)
    with pytest.raises(InputError, match="accepts in law and has none"):
        law_graph(bench, PLANS["ddpm-100"], "inside").sample(SEEDS, tolerance=1e-3)
    with pytest.raises(InputError, match="theta: got 0"):
        law_graph(bench, PLANS["ddpm-100"], "inside").sample(SEEDS, theta=0)
    with pytest.raises(InputError, match="rows without noise"):
        law_graph(bench, PLANS["ddpm-100"], "input").sample(SEEDS, plan=make_plan("ddim", 20))
