"""sweep.onnx: sweeps of a window without control flow; its host loop ends in the sequential samples."""

import numpy as np
import onnx
import pytest

import ncdeploy.export.compose as compose_module
from export_graphs import Bench, rms
from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.backends.graphs.tables import draw, plan_tables
from ncdeploy.errors import InputError, ParityError
from ncdeploy.export.compose import choose_record, export_graph
from oracle import digits
from tiny_models import IMAGES

PLANS = {
    "ddpm-60": make_plan("ddpm", 60),
    "dpmpp_2m-12": make_plan("dpmpp_2m", 12),
    "dpmpp_2m_sde-12": make_plan("dpmpp_2m_sde", 12),
    "unipc-10": make_plan("unipc", 10, order=3),
    "heun-9": make_plan("heun", 9),
    "heun-9-churn": make_plan("heun", 9, churn=3),
}
SEEDS = range(3, 7)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("sweep"))


@pytest.mark.parametrize("plan_input", [False, True], ids=["inside", "input"])
@pytest.mark.parametrize("sweeps", [1, 3, 9])
@pytest.mark.parametrize("name", PLANS)
def test_at_tolerance_0_the_samples_are_the_sequential_ones_of_the_exact_denoiser(bench, name, sweeps, plan_input):
    plan = PLANS[name]
    graph = bench.graph(plan, kind="sweep", window=9, sweeps=sweeps, plan_input=plan_input)
    got = graph.sample(SEEDS, tolerance=0)
    exact = sample(digits(), plan, seeds=SEEDS, options=SampleOptions(shape=(1, 8, 8), like=np.zeros(())))
    assert rms(got.samples, exact.samples).max() <= 1e-4
    assert got.residual.max() == 0


@pytest.mark.parametrize("name", PLANS)
def test_one_sweep_a_call_is_the_host_loop(bench, name):
    got = bench.graph(PLANS[name], kind="sweep", window=9, sweeps=1).sample(SEEDS)
    wanted = sample(bench.host, PLANS[name], seeds=SEEDS, window=9)
    assert rms(got.samples, wanted.samples).max() <= 1e-4
    assert np.abs(got.sweeps - wanted.sweeps).max() <= 1
    np.testing.assert_allclose(got.residual, wanted.residual, rtol=0.02)


def test_more_sweeps_a_call_read_back_less_often(bench):
    plan = PLANS["ddpm-60"]
    calls, sweeps = [], []
    for count in (1, 3):
        seen = []
        result = bench.graph(plan, kind="sweep", window=9, sweeps=count).sample(SEEDS, on_call=seen.append)
        calls.append(len(seen))
        sweeps.append(result.depth)
        a_call = sum(9 - sweep for sweep in range(count))  # of each sample, rows: those that are exact drop out
        assert result.nfe == pytest.approx(np.mean(result.sweeps) / count * a_call)
        assert seen[-1] == result.depth == count * len(seen)
    assert calls[1] < 0.7 * calls[0]
    assert sweeps[1] > sweeps[0]


def test_a_call_by_hand(bench):
    """The first call of ddpm-60 with K = 1, against the rows of the plan written out."""
    plan = PLANS["ddpm-60"]
    graph = bench.graph(plan, kind="sweep", window=9, sweeps=1)
    record, n = graph.record, 2
    x = np.zeros((n, record.slots, 1, 8, 8), np.float32)
    D = np.zeros_like(x)
    draws = draw([1, 2], np.tile(np.arange(record.span + 1), (n, 1)), IMAGES)
    x[:, 0] = plan.noise[0] * draws[:, 0]
    zero = np.zeros(n, np.int64)
    stop = zero + record.span
    new, outputs, residual = graph._session.run(
        ["x_new", "D_new", "residual"],
        {"x": x, "D": D, "before": zero, "base": zero, "known": zero - 1, "stop": stop, "noise": draws[:, 1:]},
    )
    g = IMAGES.error_curve.jacobian(plan.sigmas)
    guess, follow = [x[:, 0]], [D[:, 0]]
    for k in range(1, record.span + 1):  # first guess: outputs move with the injected noise
        follow.append(follow[-1] + (g[k] if plan.evaluated[k] else 0) * plan.noise[k] * draws[:, k])
        guess.append(plan.state[k, 0] * guess[-1] + plan.denoised[k, 0] * follow[k - 1] + plan.noise[k] * draws[:, k])
    found = [digits()(state, plan.sigmas[k]) for k, state in enumerate(guess[: record.span])]
    exact = [guess[0]]
    for k in range(1, record.span + 1):  # outputs follow the states with slope g; the base stands still
        output = found[k - 1] + (g[k - 1] * (exact[k - 1] - guess[k - 1]) if k > 1 else 0)
        exact.append(plan.state[k, 0] * exact[-1] + plan.denoised[k, 0] * output + plan.noise[k] * draws[:, k])
        change = np.sqrt(np.mean((exact[k] - guess[k]) ** 2, axis=(1, 2, 3)))
        np.testing.assert_allclose(residual[:, 0, k - 1], change / np.hypot(plan.sigmas[k], 0.1), rtol=1e-3)
        np.testing.assert_allclose(new[:, k], exact[k], atol=2e-4)
    np.testing.assert_allclose(outputs[:, 0], found[0], atol=2e-4)


def test_no_control_flow_and_no_shape_that_depends_on_data(bench):
    for plan_input in (False, True):
        path = bench.file(PLANS["unipc-10"], kind="sweep", window=9, sweeps=3, plan_input=plan_input)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        operators = {node.op_type for node in model.graph.node}
        assert not {"Loop", "If", "Scan", "NonZero", "Compress", "Unique"} & operators
        assert (model.ir_version, model.opset_import[0].version) == (10, 20)
        for value in model.graph.output:
            assert [bool(axis.dim_param) for axis in value.type.tensor_type.shape.dim][1:].count(True) == 0
        weights = [t for t in model.graph.initializer if t.name.endswith("/mu")]
        assert len(weights) == 1, "three sweeps share one set of weights"


@pytest.mark.parametrize("table", ["plan_rows", "plan_inverses", "plan_nodes"])
def test_a_wrong_table_is_not_written(bench, tmp_path, monkeypatch, table):
    def corrupted(*args, **kwargs):
        tables = plan_tables(*args, **kwargs)
        tables[table] = tables[table] * np.float32(1.01)
        return tables

    monkeypatch.setattr(compose_module, "plan_tables", corrupted)
    record = choose_record(PLANS["ddpm-60"], IMAGES, kind="sweep", window=9, sweeps=3)
    with pytest.raises(ParityError, match="disagrees with the host loop"):
        export_graph(bench.denoiser, tmp_path / "s.onnx", record, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_verification_passes_what_is_right(bench, tmp_path):
    record = choose_record(PLANS["dpmpp_2m_sde-12"], IMAGES, kind="sweep", sweeps=4)
    done = export_graph(bench.denoiser, tmp_path / "s.onnx", record, threads=1)
    assert done.agreement.ok
    assert done.agreement.to_dict()["sweeps"] is None
    assert done.size == (tmp_path / "s.onnx").stat().st_size


def test_a_sample_that_is_cut_off_says_so(bench):
    graph = bench.graph(PLANS["ddpm-60"], kind="sweep", window=9, sweeps=3)
    cut = graph.sample(SEEDS, max_sweeps=4)
    assert np.isinf(cut.residual).all()
    assert set(cut.sweeps) == {6}  # two calls: four sweeps were not enough after one
    assert np.isfinite(cut.samples).all()


@pytest.mark.parametrize("sweeps", [0, 13])
def test_sweeps_that_a_window_does_not_have(sweeps):
    with pytest.raises(InputError, match="sweeps"):
        choose_record(PLANS["dpmpp_2m-12"], IMAGES, kind="sweep", sweeps=sweeps)
