"""The plan: a solver on a schedule, written as coefficients.

In variance-exploding coordinates (x = x0 + sigma * n) every explicit solver is linear in the
states and denoiser outputs of earlier nodes. Node k of a plan is

    x_k = sum_h state[k, h] x_{k-1-h}  +  sum_h denoised[k, h] D_{k-1-h}  +  noise[k] xi_k

with D_j = D(x_j, sigmas[j]) and xi_k standard normal. Node 0 has no predecessors, so
x_0 = noise[0] xi_0; the last node is the sample. Whoever runs a plan needs no solver mathematics.

A plan that cuts takes, in the place of D, D + cut[k] (clip(D) - D) in row k, with D clipped to -clip .. clip: for
cut[k] = 1 that is the clipped D, for 0 the whole one, and other shares tell the solver's terms in D apart, of which
some clip it and others do not. Where D lies inside the range the row is the same whatever cut[k] is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Coefficients of one sampling run; n nodes that reach back over `reach` earlier ones.

    Plans of the same name and coefficients are equal, so that what was worked out for one is found again for the other.

    Attributes:
        name: for people, for example "ddim-100"
        sigmas: float64 [n], noise standard deviation of each node, in units of the data
        state: float64 [n, reach], coefficient of x_{k-1-h}
        denoised: float64 [n, reach], coefficient of D_{k-1-h}
        noise: float64 [n], coefficient of a fresh standard normal draw
        evaluated: bool [n], whether the denoiser is called at the node
        clip: positive, in model units, or None for a plan that does not cut
        cut: float64 [n], see above; None = 1 everywhere, in a plan that does not cut it stays None

    Raises:
        InputError: when the arrays do not form a plan that can be run forward
    """

    name: str
    sigmas: Floats
    state: Floats
    denoised: Floats
    noise: Floats
    evaluated: NDArray[np.bool_]
    clip: float | None = None
    cut: Floats | None = None

    def __post_init__(self) -> None:
        if self.cut is None and self.clip is not None:
            object.__setattr__(self, "cut", np.ones(np.size(self.sigmas)))
        for field, dtype in self._dtypes.items():
            array: NDArray[Any] = np.array(getattr(self, field), dtype=dtype)
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        n = self.sigmas.size
        rows = (n, self.reach)
        wanted = {"sigmas": (n,), "state": rows, "denoised": rows, "noise": (n,), "evaluated": (n,), "cut": (n,)}
        for field in self._dtypes:
            array, shape = getattr(self, field), wanted[field]
            if array.shape != shape:
                raise InputError(f"plan {self.name}: {field} has shape {array.shape}, expected {shape}")
            if not np.all(np.isfinite(array)):
                raise InputError(f"plan {self.name}: {field} holds NaN or infinity")
        if self.clip is not None and not 0 < self.clip < np.inf:
            raise InputError(f"plan {self.name}: clip is {self.clip}, expected a positive number")
        if self.clip is None and self.cut is not None:
            raise InputError(f"plan {self.name}: cut needs clip, which says where")
        if n < 2:
            raise InputError(f"plan {self.name}: {n} nodes; a plan needs a start and a sample")
        if not self.evaluated[0] or self.evaluated[-1]:
            raise InputError(f"plan {self.name}: the first node must be evaluated and the last must not")
        if np.any(self.sigmas[self.evaluated] <= 0):
            raise InputError(f"plan {self.name}: every evaluated node needs sigma > 0")
        if self.noise[0] <= 0:
            raise InputError(f"plan {self.name}: the first node is pure noise, its coefficient must be > 0")
        back = np.arange(n)[:, None] - 1 - np.arange(self.reach)
        if np.any(self.state[back < 0]) or np.any(self.denoised[back < 0]):
            raise InputError(f"plan {self.name}: a row refers to a node before the first")
        unevaluated = (back >= 0) & ~self.evaluated[np.maximum(back, 0)]
        if np.any(self.denoised[unevaluated]):
            raise InputError(f"plan {self.name}: a row uses the denoiser at a node that is not evaluated")

    def __len__(self) -> int:
        return int(self.sigmas.size)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Plan) and self._content == other._content)

    def __hash__(self) -> int:
        return hash(self._content)

    @cached_property
    def _content(self) -> tuple[str, int, float | None, bytes]:
        return self.name, self.reach, self.clip, b"".join(getattr(self, field).tobytes() for field in self._dtypes)

    @property
    def _dtypes(self) -> dict[str, Any]:
        """Of the arrays that there are, by their names."""
        return _DTYPES if self.cut is None else {**_DTYPES, "cut": np.float64}

    def taken(self, k: int, D: Any, clip: Callable[..., Any]) -> Any:
        """What row k takes in the place of an output D. clip: that of the kind of arrays D is, clip(D, least, most)."""
        if self.clip is None or self.cut is None:
            return D
        return D + float(self.cut[k]) * (clip(D, -self.clip, self.clip) - D)

    @property
    def reach(self) -> int:
        """How many nodes a row reaches back."""
        return int(self.state.shape[-1])

    @property
    def evaluations(self) -> int:
        """Denoiser calls of one sequential run: its depth and its NFE."""
        return int(self.evaluated.sum())

    @cached_property
    def stochastic(self) -> bool:
        """Whether any node after the first draws noise."""
        return bool(np.any(self.noise[1:]))


_DTYPES = {
    "sigmas": np.float64,
    "state": np.float64,
    "denoised": np.float64,
    "noise": np.float64,
    "evaluated": np.bool_,
}


class PlanBuilder:
    """Collects rows by absolute node index, so that a solver reads like its paper."""

    def __init__(self, name: str, sigma: float, *, scale: float | None = None) -> None:
        """Start with node 0: x_0 = scale * xi_0 at noise level sigma (scale = sigma if None)."""
        self._name = name
        self._rows: list[tuple[float, dict[int, float], dict[int, float], float, bool]] = []
        self._rows.append((sigma, {}, {}, sigma if scale is None else scale, True))

    def node(
        self,
        sigma: float,
        *,
        state: dict[int, float],
        denoised: dict[int, float],
        noise: float = 0.0,
        evaluate: bool | None = None,
    ) -> int:
        """Append a node and return its index. It is evaluated unless sigma is 0 or `evaluate` is False."""
        self._rows.append((sigma, state, denoised, noise, sigma > 0 if evaluate is None else evaluate))
        return len(self._rows) - 1

    def build(self) -> Plan:
        """The finished plan; its last node becomes the sample and is not evaluated."""
        n = len(self._rows)
        used = [(k, j) for k, row in enumerate(self._rows) for part in row[1:3] for j, c in part.items() if c]
        if any(not 0 <= j < k for k, j in used):
            raise InputError(f"plan {self._name}: a row may only use earlier nodes")
        reach = max((k - j for k, j in used), default=1)
        state, denoised = np.zeros((n, reach)), np.zeros((n, reach))
        for k, (_, states, outputs, _, _) in enumerate(self._rows):
            for target, part in ((state, states), (denoised, outputs)):
                for j, coefficient in part.items():
                    if coefficient:
                        target[k, k - 1 - j] = coefficient
        evaluated = np.array([row[4] for row in self._rows])
        evaluated[-1] = False
        return Plan(
            name=self._name,
            sigmas=np.array([row[0] for row in self._rows]),
            state=state,
            denoised=denoised,
            noise=np.array([row[3] for row in self._rows]),
            evaluated=evaluated,
        )
