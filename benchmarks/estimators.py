"""What the likelihood estimator saves: standard deviations against independent draws, at the same number of rows.

independent: Kong et al. 2023 as published, each term with noise and noise levels of its own, drawn from the same
logistic law; for a ratio, each of the two densities by itself. The exact denoiser of a mixture around digits, and
Gaussians, float64, at points of the data; for digits also eight standard deviations of a component outside.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ncdeploy.denoisers import Mixture
from ncdeploy.evaluation.budget import Budget
from ncdeploy.evaluation.gaussian import Gaussian
from ncdeploy.evaluation.likelihood import Denoise, Estimator

Floats = NDArray[np.float64]

BUDGET = Budget(goal=None)  # as many rows for either
POINTS = 4


def table() -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| data | estimate | rows a point | ours: nats | of that per dimension | independent: nats | ratio |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, denoise, data, x in _cases():
        dim = data[0].size
        reference = Gaussian.fitted(data, least_std=1e-3)
        estimator = Estimator(
            denoise=denoise, reference=reference, sigma_min=0.002, sigma_max=160.0, dtype=np.float64, budget=BUDGET
        )  # fmt: skip
        rows = 2 * BUDGET.repeats * BUDGET.levels
        for what, s in (("-log p", None), ("log p_s - log p, s = 0.2", 0.2)):
            found = estimator.nll(x) if s is None else estimator.ratio(x, s)
            ours = float(np.sqrt((found.error**2).mean()))
            theirs = _independent(estimator, x, s, rows)
            cost = rows * (1 if s is None else 2)
            yield (f"| {name} | {what} | {cost} | {ours:.2g} | {ours / dim:.1e} | {theirs:.2g} | {theirs / ours:.0f} |")


def _cases() -> Iterator[tuple[str, Denoise, Floats, Floats]]:
    rng = np.random.default_rng(0)
    for dim in (1, 2, 8, 64):
        basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        exact = Gaussian(mean=np.zeros(dim), variances=np.geomspace(0.05, 2, dim), basis=basis)
        data = rng.standard_normal((4000, dim)) * np.sqrt(exact.variances) @ basis.T
        yield f"Gaussian, d = {dim}", exact, data, data[:POINTS]
    mixture = Mixture.digits().double()

    def denoise(x: Floats, sigma: Floats) -> Floats:
        with torch.inference_mode():
            out: Floats = mixture(torch.from_numpy(x), torch.from_numpy(sigma)).numpy()
        return out

    data = mixture.sample(2000, torch.Generator().manual_seed(0)).numpy()
    yield "digits, d = 64", denoise, data, data[:POINTS]
    far = data[:POINTS] + 8 * mixture.std * rng.standard_normal(data[:POINTS].shape)
    yield "digits, far outside", denoise, data, far


def _independent(estimator: Estimator, x: Floats, s: float | None, rows: int) -> float:
    """Standard error, rms over points, of the mean over `rows` independent draws of alpha and noise."""
    rng = np.random.default_rng(1)
    variance = np.zeros(len(x))
    for level in (0.0,) if s is None else (0.0, s):
        for i, point in enumerate(x):
            tau, weight = estimator.alphas(rng.random(rows), estimator.sigma_max - 1)
            noise = rng.standard_normal((rows, point.size))
            sigma = np.hypot(tau, level)
            y = point.ravel() + tau[:, None] * noise
            D = estimator.denoise(y.reshape(-1, *point.shape), sigma).reshape(y.shape)
            error = (level**2 * noise - tau[:, None] * (point.ravel() - D)) / sigma[:, None] ** 2
            base = 0.0
            if s is None:  # the published baseline: what a Gaussian's error is on average
                base = (estimator.reference.variances / (estimator.reference.variances + tau[:, None] ** 2)).sum(axis=1)
            terms = 0.5 * weight * ((error**2).sum(axis=1) - base)
            variance[i] += terms.var(ddof=1) / rows
    return math.sqrt(float(variance.mean()))


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
