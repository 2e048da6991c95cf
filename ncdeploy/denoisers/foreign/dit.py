"""The transformer of DiT (Peebles & Xie 2023, arXiv 2212.09748), which SiT (Ma et al. 2024, arXiv 2401.08740) shares.

A picture or latent is cut into patches, one token each, with a fixed table of places. The noise level and the class
shift, scale and gate every block (adaLN-Zero). Modules are named as in the files of both projects.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from ncdeploy.errors import InputError

WAVES = 256  # sines and cosines of the noise level
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The architecture.

    width, heads: of the tokens; patch: side of what becomes one token; inner: width inside a block's perceptron
    outputs:      channels that it returns, as many as it takes or twice, the second half of which is left out
    """

    width: int
    depth: int
    heads: int
    patch: int
    inner: int
    outputs: int

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.patch, self.inner, self.outputs) < 1:
            raise InputError("width, depth, heads, patch, inner, outputs: expected positive numbers")
        if self.width % self.heads:
            raise InputError(f"heads: got {self.heads}, expected a divisor of the width {self.width}")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError unless the network can take x of this shape."""
        if len(shape) != 3 or shape[1] % self.patch or shape[2] % self.patch:
            raise InputError(f"shape: got {shape}, expected (channels, height, width) of patches of {self.patch}")
        if self.outputs not in (shape[0], 2 * shape[0]):
            raise InputError(f"outputs: got {self.outputs} for samples of shape {shape}, expected as many or twice")


class DiT(nn.Module):
    """x [B, C, H, W], noise [B], labels int64 [B] or None -> [B, C, H, W].

    num_classes: with one more, "no class", as the last row of its table
    """

    pos_embed: Tensor
    frequencies: Tensor

    def __init__(self, shape: tuple[int, ...], config: DiTConfig, num_classes: int = 0) -> None:
        super().__init__()
        config.check(shape)
        if num_classes < 1:
            raise InputError("num_classes: got 0, this network is told a class")
        self.config: dict[str, Any] = {"kind": "dit", **asdict(config)}
        width, patch = config.width, config.patch
        self.patch, self.channels = patch, shape[0]
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(shape[0], width, patch, stride=patch)})
        self.register_buffer("pos_embed", torch.zeros(1, shape[1] // patch * (shape[2] // patch), width))
        steps = torch.arange(WAVES // 2, dtype=torch.float32) / (WAVES // 2)
        self.register_buffer("frequencies", (-math.log(10000) * steps).exp(), persistent=False)
        told = nn.Sequential(nn.Linear(WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.t_embedder = nn.ModuleDict({"mlp": told})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(num_classes + 1, width)})
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = nn.ModuleDict(
            {
                "linear": nn.Linear(width, patch * patch * config.outputs),
                "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)),
            }
        )

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        phase = noise[:, None] * self.frequencies
        told = self.t_embedder["mlp"](torch.cat([phase.cos(), phase.sin()], 1))
        told = told + self.y_embedder["embedding_table"](labels)
        tokens = self.x_embedder["proj"](x)  # (B, width, H / p, W / p)
        rows = tokens.shape[2:]
        hidden = tokens.flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            hidden = block(hidden, told)
        shift, scale = self.final_layer["adaLN_modulation"](told)[:, None].chunk(2, 2)
        hidden = self.final_layer["linear"](_norm(hidden) * (1 + scale) + shift)
        patches = hidden.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, rows)  # (B, h, w, p, p, C)
        picture: Tensor = patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        return picture[:, : self.channels]


class Block(nn.Module):
    """hidden [B, tokens, width], told [B, width] -> [B, tokens, width]: attention, then a perceptron."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, config.inner), "fc2": nn.Linear(config.inner, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(told)[:, None].chunk(6, 2)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](_norm(hidden) * (1 + scale) + shift).chunk(3, 2)
        )
        seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + gate * self.attn["proj"](seen)
        inner = gelu(self.mlp["fc1"](_norm(hidden) * (1 + scale2) + shift2), approximate="tanh")
        result: Tensor = hidden + gate2 * self.mlp["fc2"](inner)
        return result


def _norm(hidden: Tensor) -> Tensor:
    return layer_norm(hidden, hidden.shape[-1:], eps=EPS)
