"""The driver for devices against the one for NumPy: the same samples and sweeps, one launch a sweep, heard of late."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ncdeploy.sampling.device as device
import ncdeploy.sampling.device_state as device_state
from ncdeploy import NumericalError, make_plan
from ncdeploy.denoisers import Mixture
from ncdeploy.sampling.callsizes import CallSizes
from ncdeploy.sampling.capture import WARM
from ncdeploy.sampling.device import DeviceRun
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.parallel import ParallelRun
from ncdeploy.sampling.plan import Plan

MIXTURE = Mixture(np.random.default_rng(0).uniform(-1, 1, (20, 2, 3)).astype(np.float32), 0.1).double()
CURVE, SHAPE, LIKE = MIXTURE.info.error_curve, (2, 3), torch.zeros((), dtype=torch.float64)
SOLVERS = {
    "ddim": 30, "ddpm": 40, "euler": 15, "heun": 8, "dpmpp_2m": 20, "dpmpp_2m_sde": 24, "unipc": 10,
}  # fmt: skip


@dataclass
class Found:
    samples: Any
    sweeps: Any
    residual: Any
    calls: int
    rows: int
    estimates: list[Any]
    outputs: Any


def drive(kind: Any, plan: Plan, denoise: Any = MIXTURE, *, n: int = 3, lanes: int = 2, window: int = 7,
          labels: Any = None, conditions: Any = None, widths: Any = (), **given: Any) -> Found:  # fmt: skip
    """widths: windows to go on with, after 3 sweeps each"""
    evaluator = Evaluator(denoise, SHAPE, labels, LIKE, conditions)
    more = {"curve": CURVE, "tolerance": 1e-3, "mean": None, **given}
    run = kind(evaluator, plan, seeds=list(range(n)), dim=6, window=window, floor=0.1, lanes=lanes, like=LIKE, **more)
    estimates = []
    for k, sweep in enumerate(run.run()):
        estimates.append(sweep.estimate())
        if k % 3 == 2 and k // 3 < len(widths):
            run.window = widths[k // 3]
    return Found(run.samples, run.sweeps, run.residual, evaluator.calls, evaluator.rows, estimates, run.outputs)


def agree(plan: Plan, *args: Any, late: bool = True, **given: Any) -> Found:
    ours, theirs = (drive(kind, plan, *args, **given) for kind in (DeviceRun, ParallelRun))
    assert np.abs(np.asarray(ours.samples - theirs.samples)).max() <= 1e-12
    np.testing.assert_array_equal(ours.sweeps, theirs.sweeps)
    np.testing.assert_allclose(ours.residual, theirs.residual, rtol=1e-6, atol=1e-12)
    assert 0 <= ours.calls - theirs.calls <= 1
    assert ours.rows == theirs.rows
    assert len(ours.estimates) == len(theirs.estimates)
    for one, other in zip(ours.estimates, theirs.estimates, strict=True):
        assert np.abs(np.asarray(one - other)).max() <= 1e-12
    if theirs.outputs is not None:
        assert np.abs(np.asarray(ours.outputs - theirs.outputs)).max() <= 1e-12
    return ours


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_every_solver_at_windows_from_one_to_all(solver: str, online: bool) -> None:
    plan = make_plan(solver, SOLVERS[solver])
    curve = None if online else CURVE
    for window in (1, 5, plan.evaluations):
        agree(plan, window=window, curve=curve)
    agree(plan, n=1, lanes=1, window=4, curve=curve)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(
    "plan", [make_plan("ddim", 30, eta=0.5, clip=0.4, raw_noise=True), make_plan("dpmpp_2m", 20, clip=0.4)]
)
def test_plans_that_cut(plan: Plan, online: bool) -> None:
    agree(plan, curve=None if online else CURVE, widths=[12, 3], keep=True)


def test_no_tolerance_at_all() -> None:
    agree(make_plan("ddim", 12), window=12, tolerance=0.0)
    agree(make_plan("ddpm", 12), window=5, tolerance=0.0)


@pytest.mark.parametrize("online", [False, True])
def test_windows_that_change_on_the_way(online: bool) -> None:
    curve = None if online else CURVE
    for widths in ([12, 3, 20], [2, 30, 4]):
        agree(make_plan("ddpm", 40), widths=widths, curve=curve)
        agree(make_plan("dpmpp_2m", 40), widths=widths, curve=curve)


def test_a_start_and_what_is_kept() -> None:
    for plan in (make_plan("ddim", 20), make_plan("ddpm", 20)):
        first = agree(plan, keep=True)
        assert agree(plan, start=first.outputs + 0.01, keep=True).sweeps.sum() < first.sweeps.sum()
        agree(plan, start=first.samples[:, None], mean=None)


def test_labels_and_conditions_of_every_sample() -> None:
    def denoise(x: Any, sigma: Any, labels: Any, *, conditions: Any, sample: Any) -> Any:
        return MIXTURE(x, sigma) + 0.1 * labels[:, None, None] + conditions["shift"][sample][:, None]

    given = {"labels": np.array([3, 1, 2]), "conditions": {"shift": np.random.default_rng(1).normal(size=(3, 3))}}
    before = given["labels"].copy(), given["conditions"]["shift"].copy()
    agree(make_plan("ddim", 15), denoise, **given)
    agree(make_plan("ddpm", 15), denoise, **given)
    other = {"labels": np.array([0, 2, 9]), "conditions": {"shift": np.ones((3, 3))}}
    agree(make_plan("ddim", 15), denoise, **other)  # in the same places
    for mine, kept in zip((given["labels"], given["conditions"]["shift"]), before, strict=True):
        np.testing.assert_array_equal(mine, kept)


def test_noise_that_is_drawn_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_state, "NOISE_BYTES", 0)
    monkeypatch.setattr(device, "_kept", type(device._kept)())
    agree(make_plan("ddpm", 40), window=9)


def test_not_a_number_is_told_as_ever() -> None:
    def denoise(x: Any, sigma: Any) -> Any:
        out = MIXTURE(x, sigma)
        out[sigma < 5.0] = torch.nan
        return out

    told = []
    for kind in (DeviceRun, ParallelRun):
        with pytest.raises(NumericalError) as e:
            drive(kind, make_plan("ddim", 20), denoise)
        told.append(str(e.value))
    assert told[0] == told[1]


def test_calls_have_few_sizes_and_what_they_have_left_is_used() -> None:
    seen: list[int] = []

    def denoise(x: Any, sigma: Any) -> Any:
        seen.append(len(x))
        return MIXTURE(x, sigma)

    denoise.sizes = CallSizes()  # type: ignore[attr-defined]
    exact = drive(ParallelRun, make_plan("ddpm", 100), window=1, tolerance=0.0)
    for window in (7, 32):
        drive(DeviceRun, make_plan("ddpm", 100), window=window, tolerance=1e-6)  # whose places are not taken up
        seen.clear()
        found = drive(DeviceRun, make_plan("ddpm", 100), denoise, window=window, tolerance=1e-6)
        assert float((found.samples - exact.samples).abs().max()) < 1e-4
        assert set(seen) <= set(CallSizes().up_to(2 * window))
        assert found.rows <= sum(seen) <= 1.6 * found.rows


class Counted(TorchDispatchMode):
    """Operators that would wait for a device, or have another shape each time, are refused; the rest is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        name = func.name().removeprefix("aten::")
        assert not name.startswith(("_local_scalar_dense", "nonzero", "masked_select", "unique")), name
        if name.startswith("index"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]) if "put" in name else True
        return func(*args, **(kwargs or {}))


class Graphs:
    """What CUDA graphs do: replaying does the work again on the same places."""

    def __init__(self) -> None:
        self.captures = self.launches = 0

    def __call__(self, run: Any, pool: Any = None, *, commit: Any) -> Any:
        self.captures += 1
        for _ in range(WARM):
            run()
        with Counted():
            made = run()
        _, asked, report = made
        places = [a for a in (*asked[:3], *asked[3].values(), asked[4], report) if a is not None]

        def replay() -> None:
            self.launches += 1
            with Counted():
                state, again, told = run()
            for place, new in zip(places, [a for a in (*again[:3], *again[3].values(), again[4], told)
                                           if a is not None], strict=True):  # fmt: skip
                place.copy_(new)
            commit((state,))

        return replay, made, None


def test_a_sweep_is_one_launch_and_later_runs_take_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_kept", type(device._kept)())
    graphs, reports = Graphs(), []
    read_back = device.read_back
    monkeypatch.setattr(device, "read_back", lambda a: (reports.append(a.shape), read_back(a))[1])
    plan = make_plan("ddpm", 100)
    wanted = drive(ParallelRun, plan, window=16)
    first = drive(DeviceRun, plan, window=16, capture=graphs)
    assert graphs.captures == 1
    assert graphs.launches == len(first.estimates) - device.EAGER
    graphs.launches = 0
    reports.clear()
    again = drive(DeviceRun, plan, window=16, capture=graphs)
    assert graphs.captures == 1
    assert graphs.launches == len(reports) == len(again.estimates), "one launch, one report a sweep"
    assert again.calls - len(again.estimates) in (0, 1)
    for found in (first, again):
        assert float((found.samples - wanted.samples).abs().max()) <= 1e-12
        np.testing.assert_array_equal(found.sweeps, wanted.sweeps)
    other = drive(DeviceRun, plan, window=16, capture=graphs, n=2)
    assert graphs.captures == 2, "which is another kind of run"
    assert float((other.samples - wanted.samples[:2]).abs().max()) <= 1e-12


def test_the_host_hears_of_a_sweep_after_the_next_call_has_begun() -> None:
    events: list[str] = []

    def denoise(x: Any, sigma: Any) -> Any:
        events.append("call")
        return MIXTURE(x, sigma)

    run = DeviceRun(
        Evaluator(denoise, SHAPE, None, LIKE), make_plan("ddpm", 60), seeds=[0], dim=6, window=10, tolerance=1e-3,
        floor=0.1, curve=CURVE, mean=None, lanes=1, like=LIKE,
    )  # fmt: skip
    events.extend("heard" for _ in run.run())
    assert events[:3] == ["call", "call", "heard"]
    assert events.count("call") - events.count("heard") <= 1


def test_a_graph_that_cannot_be_made_is_done_without() -> None:
    def refuse(run: Any, pool: Any = None, *, commit: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    found = drive(DeviceRun, make_plan("ddim", 60), window=4, capture=refuse)
    wanted = drive(ParallelRun, make_plan("ddim", 60), window=4)
    assert float((found.samples - wanted.samples).abs().max()) <= 1e-12


def test_runs_of_other_seeds_and_labels_in_the_same_places() -> None:
    plan = make_plan("ddpm", 20)
    shifted = lambda by: lambda x, s: MIXTURE(x - by, s) + by  # noqa: E731
    for by in (0.0, 0.3, -0.2):
        one, other = (drive(kind, plan, shifted(by), mean=np.full(6, by)) for kind in (DeviceRun, ParallelRun))
        assert float((one.samples - other.samples).abs().max()) <= 1e-12
    first = replace(one, samples=one.samples.clone())
    drive(DeviceRun, plan, shifted(1.0))
    assert torch.equal(first.samples, one.samples), "what was returned is the caller's"
