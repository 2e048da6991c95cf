"""A plan as the arrays that a graph reads, be it as constants or as inputs.

With n nodes, windows of `span` nodes after their base and rows that reach back over `reach` nodes:

    plan_nodes    float32 [n + span, 4]          sigma (positive everywhere), noise, what makes the norm of a change a
                                                 residual, 1 where D is evaluated; zeros behind the last node
    plan_rows     float32 [n + span, 2 reach + 1]  state, denoised, g; of a plan that cuts, cut before g
    plan_inverses float32 [n + span, 4 span]     the inverse of the linear part by falling lag, from span - 1 to -span,
                                                 and the same with the scalar Jacobian (see `sampling.window`)
    plan_stop, plan_next, plan_previous int64 [n + span + 1]   node numbers, see `sampling.window.WindowTables`
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.formats.graphrecord import GraphRecord
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.window import WindowTables

NODE_COLUMNS = 4


def plan_tables(
    plan: Plan, info: ModelInfo, *, window: int, error_floor: float, span: int | None = None, reach: int | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays by name. Without an error curve g is 0: outputs are taken to stay where they are.

    span, reach: at least the plan's own, to fit a graph that was made for more; None = the plan's own

    Raises InputError for a plan that needs more, or a window that the plan does not have.
    """
    if not 1 <= window <= plan.evaluations:
        raise InputError(f"window: got {window}; plan {plan.name} has {plan.evaluations} evaluations, so 1 to that")
    reach = plan.reach if reach is None else reach
    if plan.reach > reach:
        raise InputError(f"plan {plan.name} reaches back over {plan.reach} nodes; this graph takes plans up to {reach}")
    wide = [np.pad(rows, ((0, 0), (0, reach - plan.reach))) for rows in (plan.state, plan.denoised)]
    plan = replace(plan, state=wide[0], denoised=wide[1])
    curve = info.error_curve
    t = WindowTables(plan, window, curve, info.dim, error_floor, np, np.float32, None)
    span = t.span if span is None else span
    if t.span > span:
        raise InputError(f"plan {plan.name}: a window of {window} spans {t.span} nodes; this graph has {span}")
    n, more = len(plan), span - t.span
    known = np.maximum.accumulate(np.where(plan.evaluated, np.arange(n), 0))
    nodes = np.zeros((n + span, NODE_COLUMNS), np.float32)
    nodes[:, 0] = plan.sigmas[known[-1]]
    columns = (plan.sigmas[known], plan.noise, t.residual_scale[:n], plan.evaluated)
    nodes[:n] = np.stack(columns, axis=1)
    width = 2 * t.span
    both = (t.inverse, t.inverse_jacobian)
    inverses = [np.pad(by_lag.reshape(-1, width), ((0, more), (more, more))) for by_lag in both]
    final = np.full(span + 1, t.final)
    return {
        "plan_nodes": nodes,
        "plan_rows": np.pad(t.rows, ((0, more), (0, 0))),
        "plan_inverses": np.concatenate(inverses, axis=1),
        "plan_stop": np.append(t.stop, final),
        "plan_next": np.append(t.next, final),
        "plan_previous": np.append(t.previous, final),
    }


def widest_window(plan: Plan, span: int) -> int:
    """Most evaluated nodes that a window of at most `span` nodes after any base can hold."""
    evaluated = np.append(np.flatnonzero(plan.evaluated), len(plan) - 1)
    for window in range(min(span, plan.evaluations), 0, -1):
        if np.all(evaluated[window:] - evaluated[: evaluated.size - window] <= span):
            return window
    raise InputError(f"plan {plan.name}: evaluations lie more than {span} nodes apart; this graph has no room for that")


def draws_of(plan: Plan) -> int:
    """Draws that a sample of the plan needs: one for every node up to the last that adds noise."""
    return int(np.flatnonzero(plan.noise)[-1]) + 1


def draw(seeds: Sequence[int], nodes: NDArray[np.int64], info: ModelInfo) -> NDArray[np.float32]:
    """Standard normal draws of the nodes [n, m] of n seeds, float32 [n, m, *shape]."""
    drawn = normal(np, seeds, nodes, info.dim).astype(np.float32)
    return np.asarray(drawn.reshape(*nodes.shape, *info.shape))


def places(record: GraphRecord, stop: NDArray[np.int64]) -> int:
    """Nodes of a window, its base the first, at which D may have to be evaluated. stop: `plan_stop`"""
    if record.plan_input:
        return record.span + 1
    n = len(record.plan)
    return min(int(np.max(stop[:n] - np.arange(n))), record.span + 1)
