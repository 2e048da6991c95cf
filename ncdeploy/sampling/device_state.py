"""What the driver for devices keeps there: of each lane, and of each sample of a run."""

import sys
from dataclasses import dataclass
from typing import Any

from ncdeploy.sampling.arrays import namespace
from ncdeploy.sampling.noise import normal_at, round_keys
from ncdeploy.sampling.plan import Plan

NOISE_BYTES = 256 << 20  # of a run whose noise is drawn before it; else it is drawn in every sweep
_BLOCK = 32  # nodes whose noise is drawn at once


@dataclass(kw_only=True, eq=False)
class State:
    """Of the lanes: x, D [lanes, slots, d]; base, stop, owner int64 [lanes], the sample, or n where the lane is idle.

    next:   int64 [], the first sample that waits
    noise:  [lanes, span, d], scaled, of the windows; of plans that draw none, zero once
    online: x, D, g, seen of an `OnlineJacobian`, or none
    """

    x: Any
    D: Any
    base: Any
    stop: Any
    owner: Any
    next: Any
    noise: Any
    online: tuple[Any, ...]

    def cloned(self) -> "State":
        x, D, base, stop, owner, following, noise, *online = (each.clone() for each in self.tensors())
        return State(
            x=x, D=D, base=base, stop=stop, owner=owner, next=following, noise=noise, online=tuple(online)
        )  # fmt: skip

    def tensors(self) -> tuple[Any, ...]:
        return (self.x, self.D, self.base, self.stop, self.owner, self.next, self.noise, *self.online)


class Samples:
    """What a run has for each of its n samples, in places that stay from one run to the next. The last place of each
    is where idle lanes write.

    first:    [n + 1, d], states at node 0; guess: [n + 1, 1 or nodes, d], first guesses of D
    noise:    [n + 1, nodes, d], scaled, or None where it is drawn on the way
    finished: [n + 1, d]; outputs: [n * nodes + 1, d], or None
    """

    def __init__(self, plan: Plan, n: int, dim: int, like: Any, *, guessed: int, keep: bool) -> None:
        self.torch = torch = sys.modules["torch"]
        self.n, self.dim, self.like, self.nodes, self._xp = n, dim, like, len(plan), namespace(like)
        self._stochastic, self._begin = plan.stochastic, float(plan.noise[0])
        drawn = plan.stochastic and (n + 1) * len(plan) * dim * like.element_size() <= NOISE_BYTES
        self.keys = torch.zeros((10, 2, n + 1), dtype=torch.int64, device=like.device)
        self.first, self.finished, self.guess = self.zeros(n + 1), self.zeros(n + 1), self.zeros(n + 1, guessed)
        self.outputs = self.zeros(n * len(plan) + 1) if keep else None
        self.noise = self.zeros(n + 1, len(plan)) if drawn else None
        self.labels: Any = None
        self.conditions: dict[str, Any] = {}
        self._scale = torch.asarray(plan.noise.copy(), dtype=like.dtype, device=like.device)

    def begin(self, seeds: list[int], guess: Any, labels: Any, conditions: dict[str, Any]) -> None:
        """Take in the seeds of a run, its first guesses of D [n or 1, 1 or nodes, d], labels [n] or None, and
        conditions [n, *shape] by name."""
        if labels is not None:
            self.labels = labels.clone() if self.labels is None else self.labels.copy_(labels)
        for name, values in conditions.items():
            mine = self.conditions.setdefault(name, self.torch.empty_like(values))
            mine.copy_(values)
        torch, device = self.torch, self.like.device
        self.keys[:, :, : self.n] = torch.as_tensor(round_keys(seeds), device=device)
        self.guess[: self.n] = guess
        self.finished.zero_()
        if self.outputs is not None:
            self.outputs.zero_()
        every = torch.arange(self.n + 1, device=device)
        self.first[:] = normal_at(self._xp, self.keys, every[:, None] * 0, self.dim)[:, 0] * self._begin
        if self.noise is None:
            return
        for k in range(0, self.nodes, _BLOCK):
            node = torch.arange(k, min(k + _BLOCK, self.nodes), device=device)
            self.noise[:, k : k + _BLOCK] = self._draw(every, node.expand(self.n + 1, -1))

    def noise_of(self, owner: Any, node: Any) -> Any:
        """Scaled noise of nodes [m, k] of samples [m], zero behind the plan's end: [m, k, d]."""
        inside = node.clamp(max=self.nodes - 1)
        noise = self._draw(owner, inside) if self.noise is None else self.noise[owner[:, None], inside]
        return noise * (node < self.nodes)[..., None]

    def zeros(self, *shape: int) -> Any:
        return self.torch.zeros((*shape, self.dim), dtype=self.like.dtype, device=self.like.device)

    def _draw(self, owner: Any, node: Any) -> Any:
        draws = normal_at(self._xp, self.keys[:, :, owner], node, self.dim)
        return self._scale[node][..., None] * draws.to(self.like.dtype)
