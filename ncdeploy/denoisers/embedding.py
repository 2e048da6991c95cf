"""What every network of ours is told beside x: the noise level, the class and conditions, as one vector."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ncdeploy.errors import InputError
from ncdeploy.ports import Condition


class Conditioning(nn.Module):
    """noise [B], labels int64 [B] or None, conditions [S, *shape] each with sample int64 [B], or none -> [B, width].

    noise passes through sines and cosines of geometrically spaced frequencies, then two linear layers; the label
    adds a learned vector before the second, and so do conditions. Class num_classes is "unconditional".

    frequencies: lowest and highest, in radians per unit of noise. EDM's c_noise = ln(sigma) / 4 spans about 3
    units and its training target is smooth in it, so (0.5, 16) resolves it; training steps want (1e-4, 1).
    """

    frequencies: Tensor

    def __init__(
        self, width: int, num_classes: int, frequencies: tuple[float, float], conditions: tuple[Condition, ...] = ()
    ) -> None:
        super().__init__()
        low, high = frequencies
        spaced = torch.linspace(math.log(low), math.log(high), width // 4).exp()
        self.register_buffer("frequencies", spaced, persistent=False)
        self.first = nn.Linear(2 * spaced.numel(), width)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.observed = nn.ModuleList(Observed(width, condition) for condition in conditions)
        self.second = nn.Linear(width, width)

    def forward(
        self, noise: Tensor, labels: Tensor | None, conditions: Mapping[str, Tensor] | None, sample: Tensor | None
    ) -> Tensor:
        phase = noise[:, None] * self.frequencies  # (B, width / 4)
        hidden = self.first(torch.cat([phase.cos(), phase.sin()], dim=1))
        if self.label is not None:
            hidden = hidden + self.label(labels)
        if conditions is not None and sample is not None:
            for part in self.observed:
                hidden = hidden + part(conditions).index_select(0, sample)
        return nn.functional.silu(self.second(nn.functional.silu(hidden)))


class Observed(nn.Module):
    """Conditions, [S, *shape] each -> [S, width] of one of them: its values less their means, over their spreads, which
    are those of the data (`fit`), through a linear layer. Where all are its null value, a learned vector instead.

    Raises InputError for a condition of integers, whose values it could only take for sizes.
    """

    mean: Tensor
    spread: Tensor
    null: Tensor

    def __init__(self, width: int, condition: Condition) -> None:
        super().__init__()
        self.name = condition.name
        if condition.dtype != "float32":
            raise InputError(
                f"condition {self.name}: holds integers, and this network takes real numbers; name classes `labels`, "
                "or give a column of 0 and 1 for each value, as float32"
            )
        size = math.prod(condition.shape)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.register_buffer("null", torch.tensor(condition.none()).flatten(), persistent=False)
        self.linear = nn.Linear(size, width)
        self.none = None if condition.null is None else nn.Parameter(torch.zeros(width))

    def forward(self, conditions: Mapping[str, Tensor]) -> Tensor:
        row = conditions[self.name].reshape(-1, self.mean.numel())
        seen: Tensor = self.linear((row - self.mean) / self.spread)
        if self.none is None:
            return seen
        away = (row - self.null).abs().amax(dim=1, keepdim=True)
        return torch.where(away > 0, seen, self.none)

    def fit(self, values: Tensor) -> None:
        """Take means and spreads from the data; a value that is always the same keeps its size."""
        row = values.reshape(-1, self.mean.numel()).double()
        spread = row.std(dim=0, correction=0)
        self.mean.copy_(row.mean(dim=0))
        self.spread.copy_(torch.where(spread > 1e-6 * row.abs().amax(dim=0), spread, 1.0))
