"""The figures of one trained model in the study."""

import math
from typing import Any

import numpy as np

from benchmarks.contrastive.sets import Study
from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.evaluation.budget import Budget
from ncdeploy.evaluation.classification import log_losses
from ncdeploy.evaluation.distances import energy_distance, mmd
from ncdeploy.evaluation.likelihood import Estimator
from ncdeploy.evaluation.visited import Visited, visited_error
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.posterior import Posterior

BANDWIDTH = math.sqrt(0.03)  # the paper's kernel exp(-|x - y|^2 / (2 * 0.03)), for standardised points of a plane
EDGES = (0.03, 0.1, 0.3, 1.0, 10.0)
LEVELS = (0.05, 5.0)
WINDOWS, TOLERANCES = (64, 256), (0.01, 0.1, 1.0)


def run_name(plan: str, window: int, tolerance: float) -> str:
    """The key of a parallel run in a record."""
    return f"{plan}, window {window}, tolerance {tolerance:g}"


def measure(engine: TorchBackend, study: Study, *, samples: int) -> dict[str, Any]:
    """JSON-able; every model of a study meets the same points, noise and seeds."""
    data, plane = study.data, study.data.shape == (2,)
    points = data.held_out[: 400 if plane else 96]
    budget = Budget(repeats=4, levels=32, goal=None)
    estimator = Estimator.of(engine, engine.info, data.x[:5000], budget=budget)
    nll = estimator.nll(points).value
    found: dict[str, Any] = {"nll": float(nll.mean())}
    rng = np.random.default_rng(0)
    tested = data.held_out[: 1000 if plane else 400].astype(np.float64)
    s = data.sigma_data * np.exp(np.log(LEVELS[0]) + np.log(LEVELS[1] / LEVELS[0]) * rng.random(len(tested)))
    noised = np.arange(len(tested)) % 2 == 1
    wide = np.where(noised, s, 0.0).reshape(-1, *[1] * (tested.ndim - 1))
    w = tested + wide * rng.standard_normal(tested.shape)
    found["log_loss"] = float(log_losses(estimator.ratio(w, s).value, noised).mean())
    if study.jittered:
        exact = study.log_prob(w, s) - study.log_prob(w, np.zeros(len(w)))
        found["log_loss_bayes"] = float(log_losses(exact, noised).mean())

    long = make_plan("ddpm", 1000)
    posterior, seeds = Posterior(study.means, std=study.jitter), range(max(8, samples // 5))
    visited, alone = (
        visited_error(
            engine, engine.info, long, posterior, data.held_out, window=window, seeds=seeds, tolerance=1e-2,
            edges=EDGES, most=most,
        )
        for window, most in ((100, 1024), (None, 16))
    )  # fmt: skip
    found["visited"], found["training"] = visited.visited, visited.training
    found["visited_sequential"] = _at_levels_of(visited, alone)
    found["groups"] = [[*g.sweeps, *g.sigma, g.states, g.visited, g.training] for g in visited.groups]

    runs: dict[str, tuple[Plan, int | None, float]] = {
        run_name("ddpm-1000", window, tolerance): (long, window, tolerance)
        for window in WINDOWS
        for tolerance in TOLERANCES
    }
    runs["ddim-100 parallel"] = make_plan("ddim", 100), 100, 1e-2
    runs["dpmpp_2m-25 parallel"] = make_plan("dpmpp_2m", 25), 25, 1e-2
    runs["dpmpp_2m-25"] = make_plan("dpmpp_2m", 25), None, 0.0
    reference = data.held_out[:4000]
    width = BANDWIDTH if plane else None
    for name, (plan, window, tolerance) in runs.items():
        result = sample(
            engine, plan, seeds=range(samples), window=window, tolerance=tolerance,
            options=SampleOptions(max_rows=25_600),
        )  # fmt: skip
        found[name] = {
            "energy": energy_distance(result.samples, reference),
            "mmd": mmd(result.samples, reference, bandwidth=width),
            "sweeps": float(result.sweeps.mean()),
        }
    floor = data.x[:samples]
    found["floor"] = {
        "energy": energy_distance(floor, reference),
        "mmd": mmd(floor, reference, bandwidth=width),
    }
    return found


def _at_levels_of(mix: Visited, other: Visited) -> float:
    """The error on what `other` visited, every range of noise levels counted as often as in `mix`."""
    total, count = 0.0, 0
    for level in dict.fromkeys(g.sigma for g in mix.groups):
        own = [g for g in other.groups if g.sigma == level]
        states = sum(g.states for g in mix.groups if g.sigma == level)
        total += states * sum(g.states * g.visited**2 for g in own) / sum(g.states for g in own)
        count += states
    return math.sqrt(total / count)
