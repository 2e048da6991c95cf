"""Acceptance in law, and starting from the last answer: every figure beside its bar.

    python -m benchmarks.law [--quick] [--only law mixture unet pathwise warm wall] [--model demo/model.onnx]

law       20,000 samples against 20,000 that are drawn step by step, from other seeds: the least p of two-sample
          Kolmogorov-Smirnov tests, in 4-D on the axes and on as many other lines, times their number; the bar is 0.01
          over the number of cells. Spoilt: every draft is off by 0.3 standard deviations of its noise. The control
          accepts all of those, so that a test without power would not show it.
mixture   sweeps and evaluations (in those of step by step) on the exact denoiser of digits, in float64
unet      the same on a model, that of the demo unless another is named
pathwise  sweeps and rows, summed over seeds, which must stay what they were
wall      seconds pathwise over those in law, taken in turn on the model, one sample at a time: needs a quiet machine
warm      median sweeps of runs that start from the last answer while what the model is told drifts
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy import ErrorCurve, Plan, SampleOptions, make_plan, open_engine, sample
from ncdeploy.auto.latency import measure_latency
from ncdeploy.sampling.posterior import Posterior

Floats = NDArray[np.float64]
Row = tuple[str, str, str, bool]  # what, the figure, its bar, whether it is reached

THETAS = (0.01, 0.1)  # beside 1
WINDOWS = (8, 32, 100)
STEPS = 100
OFF = 0.3  # of spoilt drafts, in standard deviations of their noise
BARS = (  # steps, window, sweeps, evaluations over K
    (1000, 64, 21.0, 1.30),
    (1000, 256, 12.5, 2.4),
    (100, 16, 13.0, 1.85),
)
PATHWISE = (  # solver, steps, window; sweeps and rows of 16 seeds before there was acceptance in law
    ("ddpm", 1000, 64, 440, 27094),
    ("ddpm", 1000, 256, 219, 46465),
    ("ddim", 100, 100, 120, 4676),
    ("dpmpp_2m", 25, 25, 123, 1321),
    ("dpmpp_2m_sde", 25, 25, 153, 1468),
    ("unipc", 25, 25, 111, 1185),
    ("heun", 18, 35, 128, 1884),
)
UNET_BARS = ((1000, 32, 42.0, 1.25), (1000, 64, 27.0, 1.40))


class Exact(Posterior):
    """The exact denoiser of a mixture, with its error curve."""

    def __init__(self, means: Floats, std: float) -> None:
        super().__init__(means, std=std)
        rng, sigmas = np.random.default_rng(0), np.geomspace(0.002, 200, 48)
        clean = means[rng.integers(len(means), size=2048)]
        clean = clean + std * rng.standard_normal(clean.shape)
        noise = rng.standard_normal(clean.shape)
        mse = [float(np.mean((self(clean + s * noise, s) - clean) ** 2)) for s in sigmas]
        self.curve = ErrorCurve(sigmas=tuple(sigmas), mse=tuple(mse))

    def options(self, **more: Any) -> SampleOptions:
        """Of a run in float64."""
        dim = self.means.shape[1]
        return SampleOptions(
            shape=(dim,), like=np.zeros(()), error_curve=self.curve, mean=self.means.mean(0), **more
        )  # fmt: skip


def digits() -> Exact:
    """64 values in -1 .. 1."""
    from sklearn.datasets import load_digits

    return Exact(load_digits().data / 8 - 1, 0.1)


def law(samples: int) -> Iterator[Row]:
    """Does it sample what sequential sampling samples?"""
    mixtures = {
        "1-D": Exact(np.array([[-0.8], [0.1], [0.7]]), 0.1),
        "4-D": Exact(np.random.default_rng(1).uniform(-0.8, 0.8, (4, 4)), 0.15),
    }
    plans = [make_plan("ddpm", STEPS), make_plan("ddim", STEPS, eta=0.5), make_plan("dpmpp_2m_sde", STEPS)]
    ways = [(1.0, 0.0), (1.0, OFF)] + [(theta, 0.0) for theta in THETAS]
    bar = 0.01 / (len(mixtures) * len(plans) * len(WINDOWS) * len(ways))

    @cache
    def wanted(kind: str, plan: Plan) -> Floats:
        options, seeds = mixtures[kind].options(), range(10**6, 10**6 + samples)
        return np.asarray(sample(mixtures[kind], plan, seeds=seeds, options=options).samples)

    for (theta, off), plan, window, kind in product(ways, plans, WINDOWS, mixtures):
        found, sweeps = drafted(mixtures[kind], plan, samples, window, theta, off)
        p, spoilt = p_value(found, wanted(kind, plan)), ", spoilt drafts" if off else ""
        what = f"law, {kind}, {plan.name}, window {window}, theta {theta:g}{spoilt}"
        yield what, f"p {p:.2g}, {sweeps:.1f} sweeps", f"p ≥ {bar:.1g}", p >= bar
    for plan, kind in product(plans, mixtures):
        p = p_value(drafted(mixtures[kind], plan, samples, 32, 1.0, OFF, accept_all=True)[0], wanted(kind, plan))
        yield f"control, {kind}, {plan.name}: accepts always", f"p {p:.1g}", "p < 1e-6", p < 1e-6


def drafted(
    exact: Exact, plan: Plan, n: int, window: int, theta: float, off: float, accept_all: bool = False
) -> tuple[Floats, float]:
    """Samples in law and their mean sweeps, with drafts that are off."""
    from ncdeploy.sampling.evaluator import Evaluator
    from ncdeploy.sampling.law import LawRun

    class Spoilt(LawRun):
        def _follow(self, known: Any) -> Any:
            known = super()._follow(known)
            if off:
                c = self.tables.consecutive(self.tables.noise, self.base + 1, self.tables.span)[..., None]
                b = self.b[..., :1]
                self.D[:, self.tables.reach :] += np.divide(off * c, b, out=np.zeros_like(b), where=b > 0)
                self.x[:, self.tables.reach :] = self._solve(self.tables.inverse)
            return known

        def _log_uniform(self) -> Any:
            return np.full(self.node.shape, -np.inf) if accept_all else super()._log_uniform()

    like, dim = np.zeros(()), exact.means.shape[1]
    run = Spoilt(
        Evaluator(exact, (dim,), None, like), plan, seeds=list(range(n)), dim=dim, window=window, tolerance=0.0,
        floor=0.1, curve=exact.curve, mean=exact.means.mean(0), lanes=min(n, 1000), like=like, theta=theta,
    )  # fmt: skip
    for _ in run.run():
        pass
    return run.samples, float(run.sweeps.mean())


def p_value(a: Floats, b: Floats) -> float:
    """Of two-sample Kolmogorov-Smirnov tests (asymptotic) along lines, the least times their number."""
    dim = a.shape[1]
    lines = np.eye(dim)
    if dim > 1:
        lines = np.concatenate([lines, np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0]])
    least = 1.0
    for x, y in zip(np.sort(lines @ a.T), np.sort(lines @ b.T), strict=True):
        both = np.concatenate([x, y])
        gap = np.abs(np.searchsorted(x, both, "right") / len(x) - np.searchsorted(y, both, "right") / len(y)).max()
        z = gap * math.sqrt(len(x) * len(y) / (len(x) + len(y)))
        tail = 1.0 if z < 0.3 else 2 * sum((-1) ** (j - 1) * math.exp(-2 * (j * z) ** 2) for j in range(1, 50))
        least = min(least, tail)
    return min(1.0, least * len(lines))


def mixture(seeds: int) -> Iterator[Row]:
    """How many sweeps it takes on an exact denoiser."""
    exact = digits()
    for steps, window, most, evaluations in BARS:
        yield from costs("mixture", exact, exact.options, seeds, steps, window, most, evaluations)


def unet(model: Path, seeds: int) -> Iterator[Row]:
    """The same on a network."""
    engine = open_engine(model)
    for steps, window, most, evaluations in UNET_BARS:
        yield from costs("U-Net", engine, SampleOptions, seeds, steps, window, most, evaluations)
    engine.close()


def costs(
    what: str, denoise: Any, options: Callable[..., SampleOptions], seeds: int, steps: int, window: int, most: float,
    evaluations: float,
) -> Iterator[Row]:  # fmt: skip
    """Sweeps and evaluations, pathwise beside them."""
    plan = make_plan("ddpm", steps)
    for theta in (None, 0.1, 0.5, 1.0):
        how = {} if theta is None else {"acceptance": "law", "theta": theta}
        result = sample(denoise, plan, seeds=range(seeds), window=window, options=options(**how))
        sweeps, nfe = result.sweeps.mean(), result.nfe / plan.evaluations
        error = result.sweeps.std() / math.sqrt(seeds)
        name = "pathwise" if theta is None else f"theta {theta:g}"
        bar = f"≤ {most:g} and {evaluations:g}" if theta == 1 else ""
        reached = theta != 1 or (sweeps <= most and nfe <= evaluations)
        yield f"{what}, {plan.name}, window {window}, {name}", f"{sweeps:.1f} ± {error:.1f} and {nfe:.2f}", bar, reached


def wall(model: Path, seeds: int) -> Iterator[Row]:
    """What that comes to on the clock."""
    engine, plan = open_engine(model), make_plan("ddpm", 1000)
    latency = measure_latency(engine, shape=engine.info.shape, max_rows=1024, like=np.zeros((), np.float32))
    for window in ("auto", 32, 64):
        ratios = []
        for seed in range(seeds):
            seconds = []
            for how in ("pathwise", "law"):
                options = SampleOptions(acceptance=how, latency=latency if window == "auto" else None)
                seconds.append(sample(engine, plan, seeds=[seed], window=window, options=options).wall_s)
            ratios.append(seconds[0] / seconds[1])
        median = float(np.median(ratios))
        figure = f"{median:.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
        yield f"wall, {plan.name}, window {window}, n = 1", figure, "≥ 1.15", median >= 1.15
    engine.close()


def pathwise() -> Iterator[Row]:
    """Counts of the other acceptance, which must not change."""
    exact, seeds = digits(), 16
    for solver, steps, window, sweeps, rows in PATHWISE:
        result = sample(exact, make_plan(solver, steps), seeds=range(seeds), window=window, options=exact.options())
        found = int(result.sweeps.sum()), round(result.nfe * seeds)
        bar = f"{sweeps} and {rows}"
        yield f"pathwise, {solver}-{steps}, window {window}", f"{found[0]} and {found[1]}", bar, found == (sweeps, rows)


def warm(seeds: int) -> Iterator[Row]:
    """A class or an observation that drifts: D of data that move a little from one call to the next."""
    exact = digits()

    def drifted(by: float) -> Callable[..., Floats]:
        return lambda x, sigma: exact(x - by, sigma) + by

    for plan, acceptance in ((make_plan("ddim", 50), "pathwise"), (make_plan("ddpm", 100), "law")):

        def run(by: float, start: Any, plan: Plan = plan, acceptance: str = acceptance) -> Any:
            given = exact.options(acceptance=acceptance, start=start, keep=True)
            return sample(drifted(by), plan, seeds=range(seeds), window=plan.evaluations, options=given)

        cold = run(0.0, None)
        counts, state = [], cold.trajectory
        for step in range(1, 11):
            result = run(0.002 * step, state)
            counts.append(result.sweeps)
            state = result.trajectory
        median, name = float(np.median(counts)), f"{plan.name}, {acceptance}"
        before = float(np.median(cold.sweeps))
        yield f"warm, {name}, from the last answer", f"{median:g} sweeps, cold {before:g}", "≤ 5", median <= 5
        guess = np.random.default_rng(0).standard_normal((seeds, 64))
        random = float(np.median(run(0.0, guess).sweeps))
        yield (
            f"warm, {name}, from a random guess",
            f"{random:g} sweeps, cold {before:g}",
            "≤ cold + 2",
            random <= before + 2,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the samples, 4 seeds")
    parser.add_argument("--model", type=Path, default=Path("demo/model.onnx"))
    tables: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
        "law": lambda a: law(1000 if a.quick else 20_000),
        "mixture": lambda a: mixture(4 if a.quick else 32),
        "unet": lambda a: unet(a.model, 4 if a.quick else 16),
        "pathwise": lambda a: pathwise(),
        "wall": lambda a: wall(a.model, 4 if a.quick else 32),
        "warm": lambda a: warm(4 if a.quick else 16),
    }
    parser.add_argument("--only", nargs="+", choices=tables, default=list(tables), metavar="TABLE")
    args = parser.parse_args()
    print("| what | figure | bar | reached | s |\n| --- | --- | --- | --- | --- |")
    missed, begin = 0, time.perf_counter()
    for name in args.only:
        for what, figure, bar, reached in tables[name](args):
            missed += not reached
            took, begin = time.perf_counter() - begin, time.perf_counter()
            print(f"| {what} | {figure} | {bar} | {'yes' if reached else 'NO'} | {took:.0f} |", flush=True)
    raise SystemExit(f"{missed} bars missed" if missed else 0)


if __name__ == "__main__":
    main()
