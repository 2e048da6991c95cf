"""The peers' loops in benchmarks/ compute what they are said to: or the comparison with them means nothing."""

import numpy as np
import pytest
import torch

from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.denoisers import Mixture
from ncdeploy.sampling.noise import normal

SHAPE = (4,)


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    means = np.random.default_rng(0).uniform(-1, 1, (12, *SHAPE))
    return Mixture(torch.from_numpy(means), 0.1).double()


def _draws(seed: int, steps: int) -> torch.Tensor:
    return torch.from_numpy(normal(np, [seed], np.arange(steps + 1)[None], 4)[0])


def _exact(mixture: Mixture, solver: str, steps: int, seed: int) -> torch.Tensor:
    like = torch.zeros((), dtype=torch.float64)
    with torch.inference_mode():
        return sample(mixture, make_plan(solver, steps), seeds=[seed], options=SampleOptions(like=like)).samples[0]


def _theirs(mixture: Mixture, solver: str, steps: int, draws: torch.Tensor, *, window: int, tolerance: float):
    from benchmarks.paradigms import paradigms, scheduler

    schedule = scheduler(solver, steps, torch.float64)
    with torch.inference_mode():
        return paradigms(mixture, schedule, draws, window=window, tolerance=tolerance)


@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
@pytest.mark.parametrize("window", [1, 7, 50])
def test_without_tolerance_paradigms_gives_our_sequential_sample(mixture, solver, window):
    exact = _exact(mixture, solver, 50, 3)
    draws = _draws(3, 50)
    run = _theirs(mixture, solver, 50, draws, window=window, tolerance=0.0)
    assert float((run.sample - exact).abs().max()) < 1e-8
    assert run.nfe >= 50
    assert run.sweeps <= 50
    other = _theirs(mixture, solver, 50, draws.roll(1, 0), window=window, tolerance=0.0)
    assert float((other.sample - exact).abs().max()) > 1e-3, "other noise has to give another sample"


def test_a_tolerance_buys_sweeps_and_costs_fidelity(mixture):
    exact, draws = _exact(mixture, "ddpm", 200, 0), _draws(0, 200)
    runs = [_theirs(mixture, "ddpm", 200, draws, window=50, tolerance=t) for t in (0.0, 0.1, 3.0)]
    assert runs[0].sweeps > runs[1].sweeps > runs[2].sweeps
    off = [float((run.sample - exact).square().mean().sqrt()) for run in runs]
    assert off[0] < off[1] < off[2]
    assert off[1] < 0.05


def test_the_pipeline_loop_is_the_sequential_sampler(mixture):
    from benchmarks.paradigms import pipeline, scheduler

    draws = _draws(5, 40)
    with torch.inference_mode():
        run = pipeline(mixture, scheduler("ddim", 40, torch.float64, parallel=False), draws[:1])
    assert run.sweeps == run.nfe == 40
    assert float((run.sample - _exact(mixture, "ddim", 40, 5)).abs().max()) < 1e-8
