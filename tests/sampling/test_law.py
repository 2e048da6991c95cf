"""Acceptance in law: the distribution of sequential sampling, whatever theta, window and drafts."""

from math import exp, sqrt
from typing import Any

import numpy as np
import pytest

from ncdeploy import InputError, Plan, SampleOptions, make_plan, sample
from ncdeploy.sampling.callsizes import CallSizes
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.law import LawRun
from oracle import GaussianMixture, digits, error_curve

DOUBLE = np.zeros((), np.float64)
LINE = GaussianMixture(np.array([[-0.8], [0.1], [0.7]]), 0.1)
SPACE = GaussianMixture(np.random.default_rng(1).uniform(-0.8, 0.8, (4, 4)), 0.15)
PLANS = {"ddpm": make_plan("ddpm", 40), "ddim": make_plan("ddim", 40, eta=0.5), "sde": make_plan("dpmpp_2m_sde", 40)}
N = 1200


def law(
    mixture: GaussianMixture,
    plan: Plan,
    n: int = N,
    window: int = 8,
    *,
    first: int = 0,
    theta: float = 1.0,
    **rest: Any,
) -> Any:
    options = SampleOptions(
        shape=(mixture.dim,), like=DOUBLE, error_curve=rest.pop("curve", mixture.error_curve()), acceptance="law",
        theta=theta, **rest,
    )  # fmt: skip
    return sample(mixture, plan, seeds=range(first, first + n), window=window, options=options)


def sequential(mixture: GaussianMixture, plan: Plan, n: int = N) -> np.ndarray:
    """From other seeds, so that the two sets are independent."""
    options = SampleOptions(shape=(mixture.dim,), like=DOUBLE)
    return np.asarray(sample(mixture, plan, seeds=range(10**6, 10**6 + n), options=options).samples)


def p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Of the two-sample Kolmogorov-Smirnov test (asymptotic), the least over the axes times their number."""
    least = 1.0
    for x, y in zip(np.sort(a, axis=0).T, np.sort(b, axis=0).T, strict=True):
        both = np.concatenate([x, y])
        gap = np.abs(np.searchsorted(x, both, "right") / len(x) - np.searchsorted(y, both, "right") / len(y)).max()
        z = gap * sqrt(len(x) * len(y) / (len(x) + len(y)))
        least = min(least, 1.0 if z < 0.3 else 2 * sum((-1) ** (j - 1) * exp(-2 * (j * z) ** 2) for j in range(1, 50)))
    return min(1.0, least * a.shape[1])


@pytest.mark.parametrize("theta", [0.05, 1.0])
@pytest.mark.parametrize("window", [5, 40])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_samples_have_the_law_of_sequential_sampling(plan: Plan, window: int, theta: float) -> None:
    for mixture in (LINE, SPACE):
        result = law(mixture, plan, window=window, theta=theta)
        assert p_value(result.samples, sequential(mixture, plan)) > 0.01 / 24  # Bonferroni over the 24 tests
        assert result.depth < N * plan.evaluations


class Spoilt(LawRun):
    """Drafts that are off by 0.3 standard deviations of their noise, which they must not show."""

    def _follow(self, known: Any) -> Any:
        known = super()._follow(known)
        reach = self.tables.reach
        c = self.tables.consecutive(self.tables.noise, self.base + 1, self.tables.span)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.D[:, reach:] += np.where(self.b[..., :1] > 0, 0.3 * c[..., None] / self.b[..., :1], 0.0)
        self.x[:, reach:] = self._solve(self.tables.inverse)
        return known


class Credulous(Spoilt):
    """Accepts every draft."""

    def _log_uniform(self) -> Any:
        return np.full(self.node.shape, -np.inf)


@pytest.mark.parametrize(("driver", "low", "high"), [(Spoilt, 0.001, 1.0), (Credulous, 0.0, 1e-6)])
def test_bad_drafts_cost_calls_and_accepting_them_is_noticed(driver: type[LawRun], low: float, high: float) -> None:
    plan = PLANS["ddpm"]
    run = driver(
        Evaluator(LINE, (1,), None, DOUBLE), plan, seeds=list(range(N)), dim=1, window=8, tolerance=0.0, floor=0.1,
        curve=LINE.error_curve(), mean=None, lanes=N, like=DOUBLE, theta=1.0,
    )  # fmt: skip
    for _ in run.run():
        pass
    assert low <= p_value(run.samples, sequential(LINE, plan)) <= high


def test_a_sample_depends_on_its_seed_alone() -> None:
    plan = PLANS["sde"]
    many = law(SPACE, plan, 6)
    for i in range(6):
        one = law(SPACE, plan, 1, first=i)
        np.testing.assert_allclose(one.samples[0], many.samples[i], rtol=0, atol=1e-12)
    few = law(SPACE, plan, 6, max_rows=16)
    np.testing.assert_allclose(few.samples, many.samples, rtol=0, atol=1e-12)
    assert (few.rejections == many.rejections).all()


def test_rejections_are_as_many_as_their_probabilities_say() -> None:
    result = law(SPACE, PLANS["ddpm"], theta=1.0)
    assert result.rejections.sum() == pytest.approx(result.rejection_odds.sum(), rel=0.05)


@pytest.mark.parametrize(("steps", "window", "fewer"), [(100, 16, 0.9), (300, 64, 0.85)])
def test_it_takes_fewer_calls_than_pathwise(steps: int, window: int, fewer: float) -> None:
    options: dict[str, Any] = {"shape": (64,), "like": DOUBLE, "error_curve": error_curve()}
    options["mean"] = digits().means.mean(0)
    sweeps = [
        sample(
            digits(), make_plan("ddpm", steps), seeds=range(8), window=window,
            options=SampleOptions(**options, acceptance=how),
        ).sweeps.mean()
        for how in ("pathwise", "law")
    ]  # fmt: skip
    assert sweeps[1] < fewer * sweeps[0]


def test_without_a_curve_with_call_sizes_and_changing_windows() -> None:
    class Sized(GaussianMixture):
        sizes = CallSizes()

    plan = PLANS["ddpm"]
    sized = Sized(LINE.means, LINE.std)
    flat = ErrorCurve(sigmas=(1.0, 2.0), mse=(1e-30, 1e-30))
    for curve in (None, flat):
        run = LawRun(
            Evaluator(sized, (1,), None, DOUBLE), plan, seeds=list(range(N)), dim=1, window=8, tolerance=0.0, floor=0.1,
            curve=curve, mean=None, lanes=N // 4, like=DOUBLE,
        )  # fmt: skip
        widths = np.random.default_rng(0)
        for _ in run.run():
            run.window = int(widths.integers(1, 40))
        assert p_value(run.samples, sequential(LINE, plan)) > 0.001


@pytest.mark.parametrize(
    ("plan", "window", "options", "message"),
    [
        (make_plan("ddim", 10), 4, {}, "rows without noise"),
        (make_plan("unipc", 10), 4, {}, "rows without noise"),
        (make_plan("ddpm", 10), None, {}, "give a window"),
        (make_plan("ddpm", 10), 4, {"theta": 0.0}, "theta: got 0.0"),
        (make_plan("ddpm", 10), 4, {"theta": 1.5}, "theta: got 1.5"),
        (make_plan("ddpm", 10), 4, {"acceptance": "exact"}, "acceptance: got 'exact'"),
    ],
)
def test_what_cannot_be_is_refused(plan: Plan, window: Any, options: dict[str, Any], message: str) -> None:
    given = {"acceptance": "law", **options}
    with pytest.raises(InputError, match=message):
        sample(LINE, plan, seeds=[0], window=window, options=SampleOptions(shape=(1,), like=DOUBLE, **given))


def test_windows_end_where_drafts_jump() -> None:
    """Without that it takes 11.5 and 2.7; the law does not show it, see above."""
    options = SampleOptions(
        shape=(64,), like=DOUBLE, error_curve=error_curve(), mean=digits().means.mean(0), acceptance="law"
    )  # fmt: skip
    result = sample(digits(), make_plan("ddpm", 300), seeds=range(8), window=150, options=options)
    assert result.sweeps.mean() < 10
    assert result.nfe < 2.5 * 300
