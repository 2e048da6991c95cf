"""Small networks that take conditions, and their denoisers."""

from typing import Any

import torch
from torch import Tensor, nn

from ncdeploy import Condition
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.importers.module import wrap_module

SHAPE = (6,)
OBS = Condition(name="obs", dtype="float32", shape=(2, 3), null=0.0)
TASK = Condition(name="task", dtype="int64", shape=(), null=3)
TOKENS = Condition(name="tokens", dtype="float32", shape=(4, 5))
CONDITIONS = (OBS, TASK, TOKENS)


class PerRow(nn.Module):
    """Takes a condition for every row."""

    def __init__(self) -> None:
        super().__init__()
        self.task = nn.Embedding(4, 3)
        self.inside = nn.Sequential(nn.Linear(6 + 1 + 6 + 3 + 5, 16), nn.SiLU(), nn.Linear(16, 6))

    def forward(self, x: Tensor, noise: Tensor, obs: Tensor, task: Tensor, tokens: Tensor) -> Tensor:
        parts = [x, noise[:, None], obs.flatten(1), self.task(task), tokens.mean(1).tanh()]
        result: Tensor = 0.3 * self.inside(torch.cat(parts, 1))
        return result


class PerSample(PerRow):
    """Computes what depends on the conditions alone once a sample, and gathers that."""

    def forward(  # type: ignore[override]
        self, x: Tensor, noise: Tensor, obs: Tensor, task: Tensor, tokens: Tensor, sample: Tensor
    ) -> Tensor:
        known = torch.cat([obs.flatten(1), self.task(task), tokens.mean(1).tanh()], 1)
        result: Tensor = 0.3 * self.inside(torch.cat([x, noise[:, None], known[sample]], 1))
        return result


def make(kind: type[PerRow] = PerRow, **options: Any) -> Denoiser:
    torch.manual_seed(0)
    return wrap_module(kind(), shape=SHAPE, predicts="F", conditions=CONDITIONS, **options).eval()


def per_row() -> nn.Module:
    """A factory, for files."""
    return PerRow()
