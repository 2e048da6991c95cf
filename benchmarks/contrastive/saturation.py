"""How much of the contrastive loss still teaches: the mean slope of softplus, at the exact log-likelihood ratio.

The slope is the probability given to the wrong answer; 0.5 is a guess, 0 a loss that is saturated. Exact mixtures
around handwritten digits of 8 x 8 values, enlarged by repetition to more dimensions; s log-uniform over the range
of training.

`python -m benchmarks.contrastive.saturation`
"""

import math
from collections.abc import Iterator

import torch

from ncdeploy.denoisers import Mixture
from ncdeploy.training import ContrastiveConfig

POINTS = 2000


def table() -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| dimensions | noised against clean data | gap 0.5 | gap 1 | gap 2 |"
    yield "| --- | --- | --- | --- | --- |"
    means = Mixture.digits().means.flatten(1)
    planes = torch.pca_lowrank(means - means.mean(0), 2, niter=8)[2]
    cases = [(means - means.mean(0)) @ planes / 2, means, means.repeat(1, 4), means.repeat(1, 48)]
    for points in cases:
        mixture = Mixture(points, 0.1).double()
        cells = (f"{_slope(mixture, gap):.3f}" for gap in (0.0, 0.5, 1.0, 2.0))
        yield f"| {mixture.info.dim} | " + " | ".join(cells) + " |"


def _slope(mixture: Mixture, gap: float) -> float:
    options, unit, dim = ContrastiveConfig(gap=gap), mixture.info.sigma_data, mixture.info.dim
    generator = torch.Generator().manual_seed(0)
    x0 = mixture.sample(POINTS, generator)
    spread = torch.rand(POINTS, generator=generator, dtype=torch.float64)
    s = unit * torch.exp(math.log(options.s_min) + math.log(options.s_max / options.s_min) * spread)
    base = options.base_share(dim) * s
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(POINTS // 2)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    w = x0 + torch.where(sign < 0, s, base)[:, None] * noise
    ratio = mixture.log_prob(w, s) - mixture.log_prob(w, base)
    return float(torch.sigmoid(sign * ratio).mean())


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
