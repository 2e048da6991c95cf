"""Sweeps, evaluations and fidelity of the parallel driver on an exact denoiser (no training involved).

The denoiser is that of a Gaussian mixture around handwritten digits, in float64. Sweeps are network calls
one after another; NFE is relative to the K evaluations of sequential sampling; rms is to the sequential
result from the same noise.
"""

from collections.abc import Iterator

import numpy as np
import torch

from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.denoisers import Mixture

ROWS = (
    ("ddpm", 1000, 64),
    ("ddpm", 1000, 256),
    ("ddim", 1000, 256),
    ("ddim", 100, 100),
    ("dpmpp_2m", 25, 25),
    ("dpmpp_2m_sde", 25, 25),
    ("unipc", 25, 25),
    ("ipndm", 25, 25),
    ("heun", 18, 35),
)


def table(seeds: int = 32) -> Iterator[str]:
    """Lines of a Markdown table."""
    mixture = Mixture.digits().double()
    like = torch.zeros((), dtype=torch.float64)
    yield "| plan | window | sequential depth | sweeps | NFE / K | median rms | beyond 1e-2 |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for solver, steps, window in ROWS:
        plan = make_plan(solver, steps)
        with torch.inference_mode():
            exact = sample(mixture, plan, seeds=range(seeds), options=SampleOptions(like=like))
            result = sample(mixture, plan, seeds=range(seeds), window=window, options=SampleOptions(like=like))
        error = (result.samples - exact.samples).flatten(1).square().mean(1).sqrt().numpy()
        yield (
            f"| {plan.name} | {window} | {plan.evaluations} | {result.sweeps.mean():.1f} | "
            f"{result.nfe / plan.evaluations:.2f} | {np.median(error):.0e} | {(error > 1e-2).mean():.0%} |"
        )


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
