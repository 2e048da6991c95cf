"""A residual multi-layer perceptron for vectors and for small pictures laid flat."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from ncdeploy.denoisers.embedding import Conditioning
from ncdeploy.errors import InputError
from ncdeploy.ports import Condition

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """width of every hidden layer (a multiple of 4), number of residual blocks, frequencies of the noise embedding."""

    width: int = 128
    blocks: int = 4
    frequencies: tuple[float, float] = (0.5, 16.0)

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 4:
            raise InputError(f"width: got {self.width}, expected a multiple of 4, at least 8")
        if self.blocks < 1:
            raise InputError(f"blocks: got {self.blocks}, expected at least 1")
        if not 0 < self.frequencies[0] < self.frequencies[1]:
            raise InputError(f"frequencies: got {self.frequencies}, expected 0 < lowest < highest")


class MLP(nn.Module):
    """x [B, *shape], noise [B], labels int64 [B] or None, conditions of real numbers -> [B, *shape]. The last layer
    starts at zero."""

    def __init__(
        self,
        shape: tuple[int, ...],
        config: MLPConfig,
        num_classes: int = 0,
        conditions: tuple[Condition, ...] = (),
    ) -> None:
        super().__init__()
        self.shape = shape
        self.config: dict[str, Any] = {"kind": "mlp", **asdict(config), "frequencies": list(config.frequencies)}
        self.conditioning = Conditioning(config.width, num_classes, config.frequencies, conditions)
        self.inner = nn.Linear(math.prod(shape), config.width)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.outer = zeroed(nn.Linear(config.width, math.prod(shape)))

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        condition = self.conditioning(noise, labels, conditions, sample)
        hidden = self.inner(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        output: Tensor = self.outer(nn.functional.silu(self.norm(hidden)))
        return output.reshape(-1, *self.shape)


class Block(nn.Module):
    """h + W2 silu(FiLM(W1 silu(LayerNorm(h)))), with scale and shift from the conditioning vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.film = nn.Linear(width, 2 * width)
        self.second = zeroed(nn.Linear(width, width))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition).chunk(2, dim=1)
        inner = self.first(nn.functional.silu(self.norm(hidden)))
        update: Tensor = self.second(nn.functional.silu(inner * (1 + scale) + shift))
        return hidden + update


def zeroed(layer: Layer) -> Layer:
    """The layer with weight and bias zero: a residual branch or an output that starts silent."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
