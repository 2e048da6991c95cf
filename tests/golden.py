"""Numbers that other projects' code gave for weights that anybody can make again."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Golden:
    """A file of them. For every kind of network it has the names and shapes of its weights, as `KIND_names`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, name: str) -> Any:
        with np.load(self._path) as file:
            return file[name]

    def shapes(self, kind: str) -> Iterator[tuple[str, list[int]]]:
        for line in self(f"{kind}_names"):
            name, _, sizes = str(line).partition(" ")
            yield name, [int(n) for n in sizes.split(",") if n]

    def weights(self, kind: str, scale: float, phase: Callable[[str], int]) -> dict[str, Tensor]:
        """scale * sin(0.37 i^1.1 + phase(name)) at value i of each."""
        made = {}
        for name, shape in self.shapes(kind):
            steps = torch.arange(math.prod(shape), dtype=torch.float64)
            made[name] = (scale * (0.37 * steps**1.1 + phase(name)).sin()).float().reshape(shape)
        return made
