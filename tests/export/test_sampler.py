"""sampler.onnx draws the samples of the host loop, in as many sweeps, from the same noise; or it is not written."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

import ncdeploy.export.compose as compose_module
from export_graphs import MEANS, Bench, rms, whole_windows
from ncdeploy import SampleOptions, make_plan, open_engine, sample
from ncdeploy.backends.graphs.run import GraphEngine, is_graph
from ncdeploy.backends.graphs.tables import draw, draws_of, plan_tables, widest_window
from ncdeploy.denoisers import EDM, UNet, UNetConfig
from ncdeploy.errors import BackendError, FileError, InputError, NumericalError, ParityError
from ncdeploy.export import export_onnx
from ncdeploy.export.builder import Embedded
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.formats.graphrecord import GRAPH_KEY, GraphRecord
from ncdeploy.modelinfo import METADATA_KEY
from ncdeploy.parity.agreement import NO_FOLLOWING
from oracle import digits
from tiny_models import IMAGES, VECTORS, write_mixture, write_nan_below

PLANS = {
    "ddpm-60": make_plan("ddpm", 60),
    "ddim-40": make_plan("ddim", 40),
    "ddim-30-eta": make_plan("ddim", 30, eta=0.7),
    "dpmpp_2m-12": make_plan("dpmpp_2m", 12),
    "dpmpp_2m_sde-12": make_plan("dpmpp_2m_sde", 12),
    "unipc-10": make_plan("unipc", 10, order=3),
    "ipndm-10": make_plan("ipndm", 10),
    "heun-9": make_plan("heun", 9),
    "heun-9-churn": make_plan("heun", 9, churn=3),
}
SEEDS = range(3, 7)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("sampler"))


@pytest.mark.parametrize("options", [{}, {"plan_input": True}, {"whole": True}], ids=["inside", "input", "whole"])
@pytest.mark.parametrize("name", PLANS)
def test_samples_sweeps_and_residuals_are_those_of_the_host_loop(bench, name, options):
    plan = PLANS[name]
    window = min(10, plan.evaluations)
    got = bench.graph(plan, kind="sampler", window=window, **options).sample(SEEDS)
    wanted = sample(bench.host, plan, seeds=SEEDS, window=window)
    assert rms(got.samples, wanted.samples).max() <= 1e-4
    assert np.abs(got.sweeps - wanted.sweeps).max() <= 1
    np.testing.assert_allclose(got.residual, wanted.residual, rtol=0.02)
    assert got.depth < plan.evaluations
    assert got.nfe == pytest.approx(wanted.nfe, rel=0.05)
    assert rms(got.samples, np.roll(wanted.samples, 1, axis=0)).min() > 0.1, "samples must differ from one another"


@pytest.mark.parametrize("name", ["ddpm-60", "unipc-10"])
def test_at_tolerance_0_they_are_the_sequential_samples_of_the_exact_denoiser(bench, name):
    plan = PLANS[name]
    got = bench.graph(plan, kind="sampler", window=10).sample(SEEDS, tolerance=0)
    exact = sample(digits(), plan, seeds=SEEDS, options=SampleOptions(shape=(1, 8, 8), like=np.zeros(())))
    assert rms(got.samples, exact.samples).max() <= 1e-4


def test_a_sample_is_the_same_alone_and_in_any_batch(bench):
    graph = bench.graph(PLANS["ddpm-60"], kind="sampler", window=10)
    together = graph.sample(range(8))
    alone = graph.sample([5])
    in_turn = graph.sample(range(8), max_rows=30)
    assert rms(together.samples[5:6], alone.samples)[0] <= 1e-5
    assert together.sweeps[5] == alone.sweeps[0]
    assert rms(together.samples, in_turn.samples).max() <= 1e-5
    assert in_turn.depth == sum(max(in_turn.sweeps[i : i + 3]) for i in (0, 3, 6))
    assert len(set(together.sweeps)) > 1, "samples that are done wait for none, or this proves little"


def test_one_file_takes_many_plans(bench):
    graph = bench.graph(PLANS["ddpm-60"], kind="sampler", window=10, plan_input=True)
    for name in ("unipc-10", "ipndm-10", "ddim-40", "heun-9"):
        plan = PLANS[name]
        window = graph.window(plan)
        wanted = sample(bench.host, plan, seeds=SEEDS, window=window)
        got = graph.sample(SEEDS, plan=plan)
        assert rms(got.samples, wanted.samples).max() <= 1e-4
        assert np.abs(got.sweeps - wanted.sweeps).max() <= 1
    with pytest.raises(InputError, match="carries its own"):
        bench.graph(PLANS["ddpm-60"], kind="sampler", window=10).sample(SEEDS, plan=PLANS["heun-9"])


def test_plans_that_do_not_fit_the_tables():
    plan = PLANS["unipc-10"]
    with pytest.raises(InputError, match="up to 1"):
        plan_tables(plan, IMAGES, window=4, error_floor=0.1, reach=1)
    with pytest.raises(InputError, match="spans"):
        plan_tables(plan, IMAGES, window=4, error_floor=0.1, span=3)
    for span in (2, 5, 8):
        window = widest_window(plan, span)
        tables = plan_tables(plan, IMAGES, window=window, error_floor=0.1, span=span)
        assert tables["plan_nodes"].shape == (len(plan) + span, 4)
        with pytest.raises(InputError, match="spans"):
            plan_tables(plan, IMAGES, window=window + 1, error_floor=0.1, span=span)
    with pytest.raises(InputError, match="no room"):
        widest_window(plan, 1)


def test_the_loop_stops_when_it_is_told_to(bench):
    plan = PLANS["ddpm-60"]
    graph = bench.graph(plan, kind="sampler", window=10)
    full = graph.sample(SEEDS)
    enough = int(full.sweeps.min())
    cut = graph.sample(SEEDS, max_sweeps=enough)
    done = full.sweeps <= enough
    assert 0 < done.sum() < len(done)
    assert np.isinf(cut.residual[~done]).all()
    np.testing.assert_array_equal(cut.samples[done], full.samples[done])
    assert rms(cut.samples[~done], full.samples[~done]).max() < 0.5, "the last output of the window, not an early one"
    assert cut.sweeps.max() == enough
    loose = graph.sample(SEEDS, tolerance=0.05)
    assert loose.sweeps.mean() < full.sweeps.mean()


def test_noise_is_drawn_where_a_plan_uses_it(bench):
    assert draws_of(PLANS["heun-9"]) == draws_of(PLANS["ddim-40"]) == 1
    assert draws_of(PLANS["ddpm-60"]) == 60
    graph = onnx.load(bench.file(PLANS["ddpm-60"], kind="sampler", window=10)).graph
    noise = next(value for value in graph.input if value.name == "noise")
    assert noise.type.tensor_type.shape.dim[1].dim_value == 60
    assert draw([1, 2], np.array([[0, 3], [0, 3]]), IMAGES).shape == (2, 2, 1, 8, 8)


def test_a_model_without_an_error_curve(tmp_path):
    path = write_mixture(tmp_path / "m.onnx", VECTORS, np.eye(5))
    plan = PLANS["dpmpp_2m-12"]
    done = export_graph(path, tmp_path / "s.onnx", choose_record(plan, VECTORS, kind="sampler"), threads=1)
    assert done.agreement.ok
    wanted = sample(
        open_engine(path, threads=1), plan, seeds=SEEDS, window=12, options=SampleOptions(error_curve=NO_FOLLOWING)
    )
    assert rms(GraphEngine(tmp_path / "s.onnx").sample(SEEDS).samples, wanted.samples).max() <= 1e-4


def test_classes_reach_every_row(tmp_path):
    """Labels shift this denoiser's output, so a row that took another sample's label would show."""
    info = replace(IMAGES, num_classes=3)
    path = write_mixture(tmp_path / "m.onnx", info, MEANS[:50])
    model = onnx.load(path)
    zero = next(t for t in model.graph.initializer if t.name == "zero")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.array(0.05, np.float32), "zero"))
    onnx.save(model, path)
    labels = [2, 0, 3, 1]
    record = choose_record(PLANS["ddpm-60"], info, kind="sampler", window=10)
    export_graph(path, tmp_path / "s.onnx", record, threads=1)
    whole_windows(tmp_path / "s.onnx", tmp_path / "whole.onnx")
    for name in ("s.onnx", "whole.onnx"):
        got = GraphEngine(tmp_path / name, threads=1).sample(SEEDS, labels=labels)
        host = open_engine(path, threads=1)
        wanted = sample(host, PLANS["ddpm-60"], seeds=SEEDS, conditions={"labels": labels}, window=10)
        other = sample(host, PLANS["ddpm-60"], seeds=SEEDS, conditions={"labels": labels[::-1]}, window=10)
        assert rms(got.samples, wanted.samples).max() <= 1e-4
        assert rms(got.samples, other.samples).min() > 1e-2
    engine = GraphEngine(tmp_path / "s.onnx", threads=1)
    for wrong in (None, [0, 1], [0, 1, 2, 4]):
        with pytest.raises(InputError, match="labels"):
            engine.sample(SEEDS, labels=wrong)


def test_a_network_with_guidance(tmp_path):
    """The same, of a U-Net from PyTorch: labels and weights of guidance reach their rows."""
    config = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_width=8, width=16)
    info = replace(IMAGES, num_classes=3)
    torch.manual_seed(0)
    network = UNet(info.shape, config, 3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # fresh networks end in zeros
    export_onnx(EDM(network, info), tmp_path / "m.onnx", guidance=True, verify=False)
    host, plan, labels = open_engine(tmp_path / "m.onnx", threads=1), PLANS["dpmpp_2m_sde-12"], [2, 0, 1, 1]
    for kind in ("sampler", "sweep"):
        record = choose_record(plan, host.info, kind=kind, window=6)
        assert export_graph(tmp_path / "m.onnx", tmp_path / f"{kind}.onnx", record, threads=1).agreement.ok
        engine = GraphEngine(tmp_path / f"{kind}.onnx", threads=1)
        got = engine.sample(SEEDS, labels=labels, guidance=2.5, tolerance=1e-5)
        wanted = sample(
            host, plan, seeds=SEEDS, conditions={"labels": labels}, window=6, tolerance=1e-5,
            options=SampleOptions(guidance=2.5),
        )  # fmt: skip
        assert rms(got.samples, wanted.samples).max() <= 1e-4
        other = engine.sample(SEEDS, labels=labels, guidance=1.0, tolerance=1e-5)
        assert rms(got.samples, other.samples).min() > 1e-3
        if kind == "sampler":
            assert got.nfe == pytest.approx(wanted.nfe, rel=0.05)


@pytest.mark.parametrize(
    ("table", "column", "factor"),
    [("plan_rows", 0, 1.01), ("plan_rows", 1, 1.01), ("plan_nodes", 1, 1.02), ("plan_nodes", 0, 1.05),
     ("plan_rows", 2, 0.0)],
    ids=["state", "denoised", "noise", "sigma", "jacobian"],
)  # fmt: skip
def test_a_wrong_coefficient_is_not_written(bench, tmp_path, monkeypatch, table, column, factor):
    def corrupted(*args, **kwargs):
        tables = plan_tables(*args, **kwargs)
        tables[table][:, column] *= factor
        return tables

    monkeypatch.setattr(compose_module, "plan_tables", corrupted)
    target = tmp_path / "s.onnx"
    target.write_bytes(b"the previous graph")
    record = choose_record(PLANS["ddpm-60"], IMAGES, kind="sampler", window=10)
    with pytest.raises(ParityError, match=r"not written, it disagrees with the host loop: .*rms"):
        export_graph(bench.denoiser, target, record, threads=1)
    assert target.read_bytes() == b"the previous graph"
    assert list(tmp_path.iterdir()) == [target]


def test_the_file_is_pinned_checked_and_says_what_it_is(bench):
    plan = PLANS["ddpm-60"]
    path = bench.file(plan, kind="sampler", window=10)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert set(metadata) == {METADATA_KEY, GRAPH_KEY}
    record = GraphRecord.from_json(metadata[GRAPH_KEY])
    for name in ("sigmas", "state", "denoised", "noise", "evaluated"):
        np.testing.assert_array_equal(getattr(record.plan, name), getattr(plan, name))
    assert record.to_json() == metadata[GRAPH_KEY]
    assert is_graph(path)
    assert not is_graph(bench.denoiser)
    with pytest.raises(FileError, match="is a sampler graph, expected a denoiser"):
        open_engine(path)
    with pytest.raises(FileError, match="without a sampler"):
        GraphEngine(bench.denoiser)


def test_the_form_for_tensorrt_leaves_no_shape_to_the_data(bench, tmp_path):
    def operators(**options):
        graph = onnx.load(bench.file(PLANS["ddim-40"], kind="sampler", window=10, **options)).graph
        loop = next(node for node in graph.node if node.op_type == "Loop")
        return {node.op_type for node in loop.attribute[0].g.node}

    assert "NonZero" in operators()
    assert not {"NonZero", "Compress"} & operators(whole=True)
    whole = bench.file(PLANS["ddim-40"], kind="sampler", window=10, whole=True)
    with pytest.raises(BackendError, match="of an earlier version; export it again"):
        whole_windows(whole, tmp_path / "twice.onnx")


def test_nan_ends_with_the_seed(tmp_path):
    path = write_nan_below(tmp_path / "m.onnx", IMAGES, 1.0)
    record = choose_record(PLANS["dpmpp_2m-12"], IMAGES, kind="sampler")
    export_graph(path, tmp_path / "s.onnx", record, verify=False)
    with pytest.raises(NumericalError, match="seed 7"):
        GraphEngine(tmp_path / "s.onnx", threads=1).sample([7, 8])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"kind": "loop"}, {"window": 0}, {"window": 99}, {"span": "3"}, {"span": 10**9}, {"span": True},
        {"reach": 0}, {"reach": 10**9}, {"requires": ["extra"]}, {"plan": None}, {"plan": {"name": "x"}},
        {"plan_input": 1}, {"fixed_rows": None}, {"error_floor": -1}, {"error_floor": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_records_are_refused(change):
    record = json.loads(choose_record(PLANS["heun-9"], IMAGES, kind="sampler").to_json())
    GraphRecord.from_json(json.dumps(record))
    with pytest.raises(FileError, match="graph metadata") as e:
        GraphRecord.from_json(json.dumps(record | change))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', "null"])
def test_records_that_are_none(text):
    with pytest.raises(FileError, match="graph metadata"):
        GraphRecord.from_json(text)


def test_values_that_do_not_fit(bench, tmp_path):
    plan = PLANS["heun-9"]
    for options in ({"window": 0}, {"window": 18}, {"kind": "loop"}):
        with pytest.raises(InputError):
            choose_record(plan, IMAGES, **{"kind": "sampler", **options})
    graph = bench.graph(PLANS["ddpm-60"], kind="sampler", window=10)
    for options in ({"tolerance": -1}, {"tolerance": np.nan}, {"max_sweeps": 0}, {"max_rows": 9}, {"guidance": 1.5},
                    {"labels": [1] * 4}):  # fmt: skip
        with pytest.raises(InputError):
            graph.sample(SEEDS, **options)
    record = choose_record(plan, IMAGES, kind="sampler")
    with pytest.raises(InputError, match="the denoiser itself"):
        export_graph(bench.denoiser, bench.denoiser, record)
    with pytest.raises(FileError, match="expected a denoiser"):
        export_graph(bench.file(PLANS["ddpm-60"], kind="sampler", window=10), tmp_path / "s.onnx", record)


def test_a_network_with_control_flow_is_refused(bench):
    loop = onnx.load(bench.file(PLANS["ddpm-60"], kind="sampler", window=10)).graph
    with pytest.raises(BackendError, match="control flow"):
        Embedded(loop)
