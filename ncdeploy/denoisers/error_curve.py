"""Measuring how well a denoiser denoises: E|x0 - D(x0 + sigma n, sigma)|^2 / d over a grid of sigma."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.sampling.errorcurve import ErrorCurve


@torch.no_grad()
def measure_error_curve(
    denoiser: Denoiser,
    x: Tensor,
    labels: Tensor | None = None,
    conditions: Mapping[str, Tensor] | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    batch: int = 256,
) -> ErrorCurve:
    """The denoising error on samples x [N, *shape] (model units) at each sigma, one draw of noise per sample; labels
    [N] and conditions [N, ...] are theirs.

    The same noise serves all sigmas, so that the curve is smooth. sigmas: default 40, geometric over the trained
    range. The denoiser keeps its mode; put it in eval() first.
    """
    if sigmas is None:
        sigmas = np.geomspace(denoiser.info.sigma_min, denoiser.info.sigma_max, 40).tolist()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    curve = []
    for sigma in sigmas:
        total = 0.0
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            clean = x[rows]
            level = torch.full((len(clean),), sigma, dtype=x.dtype, device=x.device)
            given: tuple[Any, ...] = (None if labels is None else labels[rows],)
            if conditions:
                own = {name: values[rows] for name, values in conditions.items()}
                given += own, torch.arange(len(clean), device=x.device)
            denoised = denoiser(clean + sigma * noise[rows], level, *given)
            total += float((clean - denoised).double().square().sum())
        curve.append(max(total / x.numel(), np.finfo(float).tiny))
    return ErrorCurve(sigmas=tuple(map(float, sigmas)), mse=tuple(curve))
