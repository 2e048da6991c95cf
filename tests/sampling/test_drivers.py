"""Both drivers on the exact denoiser: the same samples, however they are computed."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keywords import grouped
from ncdeploy import InputError, ModelInfo, NumericalError, Plan, SampleOptions, iterate, make_plan, sample
from ncdeploy.result import Result
from ncdeploy.sampling import noise_window
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.window import WindowTables
from oracle import digits, error_curve

SHAPE = (1, 8, 8)
PLANS = {
    "ddpm": lambda: make_plan("ddpm", 60),
    "ddpm-beta": lambda: make_plan("ddpm", 60, variance="beta"),
    "ddim": lambda: make_plan("ddim", 50),
    "ddim-eta": lambda: make_plan("ddim", 50, eta=0.7),
    "euler": lambda: make_plan("euler", 30),
    "heun": lambda: make_plan("heun", 18),
    "heun-churn": lambda: make_plan("heun", 18, churn=2, churn_noise=1.003),
    "dpmpp_2m": lambda: make_plan("dpmpp_2m", 25),
    "dpmpp_2m_sde": lambda: make_plan("dpmpp_2m_sde", 25),
    "unipc": lambda: make_plan("unipc", 25),
    "ipndm": lambda: make_plan("ipndm", 25),
}
DOUBLE = np.zeros((), np.float64)


def run(plan: Plan, n: int = 4, **options: Any) -> Result:
    options = {"like": DOUBLE, "shape": SHAPE, "seeds": range(n), "error_curve": error_curve()} | options
    return sample(digits(), plan, **grouped(**options))


@cache
def sequential(name: str, n: int = 4) -> np.ndarray:
    return run(PLANS[name](), n).samples


def rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).mean(axis=(1, 2, 3)))


@pytest.mark.parametrize("name", PLANS)
def test_window_of_one_is_sequential_sampling(name: str) -> None:
    plan = PLANS[name]()
    result = run(plan, window=1)
    assert np.abs(result.samples - sequential(name)).max() <= 1e-13
    assert result.sweeps.tolist() == [plan.evaluations] * 4
    assert result.depth == result.nfe == plan.evaluations


@pytest.mark.parametrize("curve", [True, False], ids=["curve", "online"])
@pytest.mark.parametrize("name", PLANS)
def test_tolerance_zero_reaches_the_sequential_result(name: str, curve: bool) -> None:
    plan = PLANS[name]()
    result = run(plan, window=plan.evaluations, tolerance=0.0, error_curve=error_curve() if curve else None)
    assert np.abs(result.samples - sequential(name)).max() <= 1e-12
    assert result.sweeps.max() <= plan.evaluations
    assert result.residual.max() == 0


@pytest.mark.parametrize("curve", [True, False], ids=["curve", "online"])
@pytest.mark.parametrize("name", PLANS)
def test_the_default_tolerance_is_faithful(name: str, curve: bool) -> None:
    plan = PLANS[name]()
    mean = digits().means.mean(0)
    result = run(plan, 64, window=plan.evaluations, error_curve=error_curve() if curve else None, mean=mean)
    error = rms(result.samples, sequential(name, 64))
    assert np.median(error) <= 2e-4
    assert (error > 1e-2).mean() <= 0.02
    assert 0 < result.residual.max() <= 1e-3
    assert result.sweeps.max() < plan.evaluations
    assert result.depth == result.sweeps.max()


def test_a_wrong_linear_part_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = WindowTables.triangle
    monkeypatch.setattr(WindowTables, "triangle", lambda self, by_lag, first: exact(self, by_lag, first) * (1 + 1e-6))
    result = run(PLANS["ddim"](), window=20, tolerance=0.0)
    assert np.abs(result.samples - sequential("ddim")).max() > 1e-9


@pytest.mark.parametrize("name", ["ddpm", "unipc", "ipndm"])
def test_a_batch_gives_what_single_runs_give(name: str) -> None:
    plan = PLANS[name]()
    together = run(plan, 64, window=12)
    alone = [run(plan, window=12, seeds=[seed]) for seed in range(64)]
    np.testing.assert_allclose(together.samples, np.concatenate([r.samples for r in alone]), rtol=0, atol=1e-12)
    assert together.nfe * 64 <= sum(r.nfe for r in alone)
    assert together.sweeps.tolist() == [r.depth for r in alone]
    assert together.depth == together.sweeps.max()


@pytest.mark.parametrize("window", [None, 10])
def test_samples_in_turn_equal_samples_at_once(window: int | None) -> None:
    plan = PLANS["ddpm"]()
    largest = 0

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        nonlocal largest
        largest = max(largest, len(x))
        return digits()(x, sigma)

    in_turn = sample(
        denoise, plan, seeds=range(7), window=window,
        options=SampleOptions(shape=SHAPE, like=DOUBLE, max_rows=39 if window else 3, error_curve=error_curve()),
    )  # fmt: skip
    assert largest == (30 if window else 3)  # whole windows
    at_once = run(plan, 7, window=window)
    np.testing.assert_allclose(in_turn.samples, at_once.samples, rtol=0, atol=1e-12)
    assert in_turn.nfe == at_once.nfe


def test_a_free_lane_takes_the_next_sample_at_once() -> None:
    working = [s.lanes.tolist() for s in iterate(
        digits(), PLANS["ddpm"](), seeds=range(6), window=10,
        options=SampleOptions(shape=SHAPE, max_rows=20, error_curve=error_curve(), like=DOUBLE),
    )]  # fmt: skip
    last_start = next(i for i, lanes in enumerate(working) if 5 in lanes)
    assert all(len(lanes) == 2 for lanes in working[:last_start])
    assert len({tuple(lanes) for lanes in working[: last_start + 1]}) > 4  # they come and go one by one


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("name", ["ddpm", "heun", "unipc"])
def test_torch_tensors_give_the_same_samples(name: str, window: int | None) -> None:
    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(digits()(x.numpy(), sigma.numpy()))

    result = sample(
        denoise, PLANS[name](), seeds=range(4), window=window,
        options=SampleOptions(shape=SHAPE, error_curve=error_curve(), like=torch.zeros((), dtype=torch.float64)),
    )  # fmt: skip
    assert isinstance(result.samples, torch.Tensor)
    np.testing.assert_allclose(result.samples.numpy(), run(PLANS[name](), window=window).samples, rtol=0, atol=1e-9)


def test_single_precision_stays_close() -> None:
    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        assert x.dtype == sigma.dtype == np.float32
        return digits()(x, sigma).astype(np.float32)

    for window in (None, 25):
        result = sample(
            denoise, PLANS["heun"](), seeds=range(4), window=window, tolerance=1e-4, options=SampleOptions(shape=SHAPE)
        )
        assert result.samples.dtype == np.float32
        assert np.median(rms(result.samples, sequential("heun"))) < 1e-4


def test_labels_follow_their_samples() -> None:
    """D is the label's constant, so every sample must come out as its own label."""
    seen: set[int] = set()

    def denoise(x: np.ndarray, sigma: np.ndarray, labels: np.ndarray) -> np.ndarray:
        seen.update(labels.tolist())
        return np.ones_like(x) * labels[:, None, None, None]

    for window in (None, 7):
        result = sample(
            denoise, PLANS["ddim"](), seeds=range(5), conditions={"labels": [4, 1, 3, 0, 2]}, window=window,
            options=SampleOptions(shape=SHAPE, max_rows=14, like=DOUBLE),
        )  # fmt: skip
        np.testing.assert_allclose(result.samples.mean(axis=(1, 2, 3)), [4, 1, 3, 0, 2], atol=1e-12)
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("window", [None, 10])
def test_every_sweep_is_reported(window: int | None) -> None:
    plan = PLANS["ddim"]()
    steps = iterate(
        digits(), plan, seeds=range(3), window=window,
        options=SampleOptions(shape=SHAPE, error_curve=error_curve(), like=DOUBLE),
    )  # fmt: skip
    before, rows, final = np.zeros(3), 0, None
    with pytest.raises(InputError, match="result: the run has not come to its end"):
        _ = steps.result
    for sweep in steps:
        assert np.all(sweep.accepted >= before)
        before, rows, final = sweep.accepted, rows + sweep.rows, sweep.estimate()
        assert final.shape == (3, *SHAPE)
    result = steps.result
    assert rows / 3 == result.nfe
    if window:
        assert before.tolist() == [len(plan)] * 3
        np.testing.assert_array_equal(final, result.samples)
    else:
        # The last D of a plan that ends at sigma = 0 is the sample.
        np.testing.assert_allclose(final, result.samples, atol=1e-12)
    np.testing.assert_array_equal(sweep.estimate(), final)  # there is no next sweep


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m", "heun"])
def test_the_residual_is_the_largest_that_was_accepted(name: str) -> None:
    plan = PLANS[name]()
    steps = iterate(digits(), plan, **grouped(seeds=range(4), window=12, shape=SHAPE, like=DOUBLE, tolerance=0.02))
    largest, last = np.zeros(4), np.zeros(4)
    for sweep in steps:
        node = sweep.base[:, None] + 1 + np.arange(sweep.residual.shape[1])
        held = node < np.minimum(sweep.accepted[sweep.lanes], len(plan) - 1)[:, None]
        last[sweep.lanes] = np.where(held, sweep.residual, 0.0).max(axis=1)
        largest = np.maximum(largest, last)
    assert steps.result.residual.tolist() == largest.tolist()
    assert np.all(last < largest)


def test_a_backend_supplies_shape_and_curve() -> None:
    class Engine:
        info = ModelInfo(
            shape=SHAPE, sigma_min=0.002, sigma_max=200.0, sigma_data=0.7,
            error_curve=error_curve(), mean=tuple(digits().means.mean(0)),
        )  # fmt: skip

        def __call__(self, x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
            return digits()(x, sigma)

    plan = PLANS["ddim"]()
    by_info = sample(Engine(), plan, seeds=range(2), window=50, options=SampleOptions(like=DOUBLE))
    by_hand = run(plan, 2, window=50, mean=digits().means.mean(0))
    np.testing.assert_array_equal(by_info.samples, by_hand.samples)
    assert by_info.depth == by_hand.depth < run(plan, 2, window=50, error_curve=None).depth


@pytest.mark.parametrize("window", [None, 8])
def test_nan_names_node_sigma_and_sample(window: int | None) -> None:
    plan = PLANS["euler"]()

    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        D = digits()(x, sigma)
        D[np.isclose(sigma, plan.sigmas[5])] = np.nan
        return D

    with pytest.raises(NumericalError, match=rf"node 5 \(sigma = {plan.sigmas[5]:.6g}\) of sample 0"):
        sample(denoise, plan, seeds=range(2), window=window, options=SampleOptions(shape=SHAPE, like=DOUBLE))


def test_infinities_that_cancel_are_an_error_like_any_other() -> None:
    def denoise(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        D = digits()(x, sigma)
        D[..., 0], D[..., 1] = np.inf, -np.inf
        return D

    with pytest.raises(NumericalError, match="node 0"):
        sample(denoise, PLANS["euler"](), seeds=range(2), options=SampleOptions(shape=SHAPE, like=DOUBLE))


def test_a_window_may_be_a_number_of_numpy() -> None:
    result = run(PLANS["ddim"](), window=np.int64(8))
    assert result.depth == run(PLANS["ddim"](), window=8).depth
    assert type(result.window) is int


@pytest.mark.parametrize("window", [20, 60])
def test_no_noise_is_drawn_behind_the_last_node(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    last = 0

    def counted(xp: Any, seeds: Any, nodes: Any, *args: Any, **options: Any) -> Any:
        nonlocal last
        last = max(last, int(nodes.max()))
        return normal(xp, seeds, nodes, *args, **options)

    monkeypatch.setattr(noise_window, "normal", counted)
    plan = PLANS["ddpm"]()
    run(plan, 1, window=window)
    assert last == len(plan) - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window: got 0"),
        ({"window": True}, "window: got True"),
        ({"window": 2.5}, "window: got 2.5"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"error_floor": 0.0}, "error_floor"),
        ({"window": 20, "max_rows": 19}, "max_rows: got 19; a window of 20"),
        ({"labels": [1]}, "labels: got 1 for 4 seeds"),
        ({"seeds": []}, "seeds"),
        ({"seeds": 4}, r"seeds: got 4; .* seeds=range\(4\) for 4"),
        ({"seeds": [1.5]}, r"seeds: got \[1.5\]; expected one integer per sample$"),
        ({"mean": np.zeros(3), "window": 5}, "mean: got 3 values for samples of 64"),
        ({"shape": None}, "shape"),
        ({"shape": (0, 8)}, r"shape: got \(0, 8\)"),
        ({"like": [0.0]}, "like: got list; expected a NumPy array or a torch tensor"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(PLANS["ddim"](), **options)


@pytest.mark.parametrize(
    ("denoise", "plan", "given", "message"),
    [
        ("model.onnx", None, {}, r"denoise: got a path; open it first, with open_engine\('model.onnx'\)"),
        (Path("model.onnx"), None, {}, "denoise: got a path"),
        (3, None, {}, "denoise: got int; expected a callable"),
        (None, "ddim-50", {}, "plan: got 'ddim-50'; expected a Plan, such as make_plan"),
        (None, Path("a.plan"), {}, "plan: got PosixPath"),
        (None, None, {"options": {"max_rows": 3}}, "options: got dict"),
        (None, None, {"conditions": [1, 2]}, "conditions: got list"),
    ],
)
def test_what_is_no_engine_no_plan_or_no_options_is_told_in_a_line(
    denoise: Any, plan: Any, given: dict[str, Any], message: str
) -> None:
    options = {"seeds": range(2), "options": SampleOptions(shape=SHAPE)} | given
    with pytest.raises(InputError, match=message):
        iterate(denoise or digits(), plan or PLANS["ddim"](), **options)


def test_a_window_beyond_the_plan_is_the_plan() -> None:
    whole, beyond = (run(PLANS["ddim"](), window=window) for window in (50, 1000))
    assert np.array_equal(whole.samples, beyond.samples)
    assert (whole.window, whole.depth) == (beyond.window, beyond.depth)
    assert whole.window == 50


@pytest.mark.parametrize("broken", [lambda x, s: x[:-1], lambda x, s: x.astype(np.float32), lambda x, s: None])
def test_a_denoiser_of_the_wrong_shape_or_dtype_is_refused(broken: Any) -> None:
    with pytest.raises(InputError, match="D must match x"):
        sample(broken, PLANS["ddim"](), seeds=range(2), options=SampleOptions(shape=SHAPE, like=DOUBLE))


def test_state_is_proportional_to_the_window_not_to_the_plan() -> None:
    from ncdeploy.sampling.evaluator import Evaluator
    from ncdeploy.sampling.parallel import ParallelRun

    sizes = []
    for steps in (100, 1000):
        plan = make_plan("ddpm", steps)
        driver = ParallelRun(
            Evaluator(digits(), SHAPE, None, DOUBLE), plan, seeds=[0], dim=64, window=16, tolerance=1e-3, floor=0.1,
            curve=error_curve(), mean=None, lanes=1, like=DOUBLE,
        )  # fmt: skip
        next(driver.run())
        sizes.append((driver.x.nbytes, driver.D.nbytes, driver.noise._block.nbytes))
    assert sizes[0] == sizes[1]
