"""Parallel sampling that is exact in law: a sweep as the verification of drafts.

Where every row adds noise, x_k = m_k + c_k xi_k, the states of a window are drafts, x'_k = m'_k + c_k xi_k, whose means
m'_k know nothing of xi_k. One network call gives D at all drafts, and with it from the front the true means m_k. With
v = (m'_k - m_k) / c_k a draft, whose D is known then, is accepted with probability min(1, N(xi_k + v) / N(xi_k)), else
the noise is reflected, x_k = m_k + c_k (xi_k - 2 e e'xi_k), e = v / |v|, and the sweep ends there: the maximal coupling
of two Gaussians (Bou-Rabee et al. 2020; for diffusion De Bortoli et al. 2025, arXiv 2501.05370). Where a rejection is
likelier than `theta` the node takes its noise as it is, x_k = m_k + c_k xi_k, which ends the sweep too.

What is decided at a node depends on the noise before it and, for the acceptance, on its own as the coupling says. So
the samples have the law of sequential sampling exactly, whatever theta, window and drafts; theta sets the speed alone.
They are not the samples that sequential sampling draws from the same seeds.

A draft that jumps when it is made anew, which shows before its own noise is looked at, ends its window, as in
`parallel`. (Blocks verified as one, as in Soen et al. 2026, arXiv 2606.13426, accept more drafts of a sweep, but how
many depends on noise further on, which then has to be drawn anew: here the next drafts are good because it is kept.)
"""

from math import erf, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.parallel import JUMP, KEEP, Ints, ParallelRun
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.result import Sweep

THETA = 1.0  # most probable rejection of a draft that is still put to the test: to test all was as fast as any


class LawRun(ParallelRun):
    """As ParallelRun, with acceptance in law; on NumPy arrays.

    rejected: int64 [n], drafts of each sample that were rejected; attempted: int64 [n], those put to the test
    odds:     float64 [n], the summed probabilities of rejection of the latter
    """

    def __init__(self, evaluator: Evaluator, plan: Plan, *, theta: float = THETA, **settings: Any) -> None:
        super().__init__(evaluator, plan, **settings)
        self.online = None  # without an error curve drafts do not follow the states
        n = len(self.seeds)
        self.rejected, self.attempted, self.odds = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
        self._ahead = self._zeros(n)  # what the output at a base that was not evaluated is off from the one before it
        self._farthest = np.inf if theta == 1 else 2 * NormalDist().inv_cdf((1 + theta) / 2)

    def _sweep(self) -> Sweep:
        t, reach, span = self.tables, self.tables.reach, self.tables.span
        lanes, base, stop = self.lanes, self.base, self.stop
        x, noise = self.x[:, reach:], self.noise.now
        mean = self._means()
        c = t.consecutive(t.noise, base + 1, span)
        v = self._off(x - noise, mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            norm = np.sqrt(np.vecdot(v, v)) / c
            log_ratio = -norm * norm / 2 - np.vecdot(v, noise) / c**2
        tested = (self.node < stop[:, None]) & (norm <= self._farthest)
        accept = tested & (self._log_uniform() <= log_ratio)
        first = accept.argmin(axis=1)  # the last of a window lies behind it, or is the plan's, and is never accepted
        accepted, lane = base + 1 + first, np.arange(len(lanes))

        before = np.arange(span) <= first[:, None]
        self.attempted[lanes] += (tested & before).sum(axis=1)
        at = (tested & before).nonzero()
        self.odds += np.bincount(lanes[at[0]], [*map(_rejection, norm[at].tolist())], len(self.seeds))
        fails = tested[lane, first]
        self.rejected[lanes] += fails
        e, xi = v[lane, first], noise[lane, first]
        with np.errstate(divide="ignore", invalid="ignore"):
            along = np.where(fails, np.vecdot(e, xi) / np.vecdot(e, e), 0.0)
        exact = mean[lane, first] + xi - 2 * along[:, None].astype(x.dtype) * e
        slot = first + reach
        known = accepted < stop
        self.D[lane, slot] += np.where(known[:, None], self.g[lane, first] * (exact - self.x[lane, slot]), 0.0)
        self.x[lane, slot] = exact
        self._ahead[lanes] = np.where(known[:, None], 0.0, self.g[lane, first] * (exact - mean[lane, first]))
        return self._move(accepted, None, np.where(tested & before, norm, 0.0))

    def _off(self, drafted: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
        """What the means of drafts are off."""
        off: NDArray[Any] = drafted - mean
        return off

    def _means(self) -> NDArray[Any]:
        """m of the nodes after the base, [n, span, d]: exact where all nodes before are what they were evaluated at."""
        t, last = self.tables, self.tables.reach - 1
        total: NDArray[Any] = self.tables.from_outputs(self.b, self.D)
        for h in range(t.state_reach):
            total += self.a[:, :, h, None] * self.x[:, last - h : last - h + t.span]
        return total

    def _log_uniform(self) -> NDArray[np.float64]:
        """Of the nodes after the base, [n, span]."""
        return log_uniform([self.seeds[i] for i in self.lanes], self.plan, self.node)

    def _follow(self, known: Ints) -> Ints:
        """Outputs that are known follow the states from the new base on, until one of these jumps too far to keep; the
        others repeat the last of them."""
        t, reach, lane = self.tables, self.tables.reach, np.arange(len(known))
        D, g = self.D[:, reach:], self.g
        self.D[:, reach - 1] += self._ahead[self.lanes]
        old = self.x[:, reach:]
        follows = g * old
        still = D - follows
        self.D[:, reach:] = still
        x = self._solve(t.inverse_jacobian, follows)
        change = x - old
        jumps = np.sqrt(np.vecdot(change, change)) * t.consecutive(t.residual_scale, self.base + 1, t.span) > JUMP
        jumps &= (self.node > (self.base + KEEP)[:, None]) & (self.node <= known[:, None])
        first = jumps.argmax(axis=1)
        steady = np.where(jumps[lane, first], self.base + 1 + first, t.final)
        self.stop, known = np.minimum(self.stop, steady), np.minimum(known, steady - 1)
        self.x[:, reach:] = x
        followed = (self.node <= known[:, None])[..., None]
        self.D[:, reach:] = np.where(followed, still + g * x, 0.0)
        last = self.D[lane, np.maximum(known - self.base, 0) + reach - 1]
        self.D[:, reach:] += np.where(followed, 0.0, last[:, None])
        return known


def check_law(plan: Plan) -> None:
    """Raise InputError for a plan that cannot be sampled in law: all of its rows but the last must add noise."""
    if not (np.all(plan.noise[:-1] > 0) and np.all(plan.evaluated[:-1])):
        raise InputError(
            f"acceptance: {plan.name} has rows without noise, so that there is no law to be exact in; take pathwise "
            "acceptance, or ddpm, ddim with eta > 0, or dpmpp_2m_sde"
        )


def check_theta(theta: float) -> None:
    """Raise InputError for what is not such a probability."""
    if not 0 < theta <= 1:
        raise InputError(f"theta: got {theta}; expected a probability, above 0 and at most 1")


def log_uniform(seeds: list[int], plan: Plan, nodes: Ints) -> NDArray[np.float64]:
    """ln u, u uniform on 0 .. 1, that decides at nodes [n, m] of n seeds: what the first two values of a draw of the
    node as many places behind the plan are made from (see `noise`)."""
    z = normal(np, seeds, len(plan) + nodes, 2)
    return np.asarray(-np.vecdot(z, z) / 2)


def _rejection(norm: float) -> float:
    """The probability 2 Phi(|v| / 2) - 1 that a draft is rejected."""
    return erf(norm / (2 * sqrt(2)))
