"""The sampler graph: noise in, samples out, the parallel driver as an ONNX Loop that stops when all samples are done.

    inputs   noise       float32 [batch, draws, *shape]  standard normal; row j is the draw of node j. A sample needs as
                                                         many as the plan has nodes up to the last that adds noise:
                                                         1 for an ODE plan; for ddpm-1000 4 kB a sample and value
             labels int64, guidance float32 [batch], and conditions [batch, *shape]   where the model takes them
             tolerance   float32 [], max_sweeps int64 []
             or, of a graph that accepts in law, log_uniform float32 [batch, draws], of every node, and theta float32 []
                                                         in place of the tolerance: see `sampling.law`
             plan_*                                      where the plan is an input: `ncdeploy.backends.graphs.tables`
    outputs  samples     float32 [batch, *shape]         model units
             sweeps      int64 [batch]
             residual    float32 [batch]                 largest accepted; infinity where max_sweeps came first, and
                                                         the sample is the last output of its window
             evaluations int64 [batch]                   rows that D was evaluated at
             rejections int64, rejection_odds float32 [batch]   in law; the residual is 0 then

It is `sampling.parallel` with every sample in a lane of its own. Samples that are done stay in the batch, but only
rows that need it go through the network.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import GraphProto, helper

from ncdeploy.backends.graphs.tables import draws_of
from ncdeploy.export.builder import Builder, Embedded, port
from ncdeploy.export.law_step import LawStep
from ncdeploy.export.sweep import OUTER, condition_ports, first_slots, put_plan
from ncdeploy.export.window_step import Layout, Step
from ncdeploy.formats.graphrecord import GraphRecord
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.parallel import JUMP, KEEP

INT64 = 7


@dataclass(frozen=True)
class _State:
    """What the loop carries, in this order: names of values. Shapes as in `export.sweep`, all else [batch].

    residual: in law the summed probabilities of a rejection; rejections: in law, else ""
    """

    x: str
    D: str
    before: str
    base: str
    known: str
    stop: str
    residual: str
    sweeps: str
    evaluations: str
    rejections: str = ""

    @classmethod
    def named(cls, form: str, in_law: bool) -> "_State":
        """Values named after the fields, form: "body/{}"."""
        fields = list(cls.__dataclass_fields__)
        return cls(*(form.format(name) for name in (fields if in_law else fields[:-1])))

    def values(self) -> dict[str, str]:
        """Those there are, by field."""
        return {name: value for name, value in vars(self).items() if value}


def sampler_graph(denoiser: GraphProto, info: ModelInfo, record: GraphRecord, tables: dict[str, Any]) -> GraphProto:
    """The graph around a denoiser's graph. tables: the plan as `plan_tables` lays it out."""
    g, t = Builder(OUTER), Layout.of(record, info, tables)
    network = Embedded(denoiser)
    network.ahead(g, [condition.name for condition in info.conditions])
    draws = "draws" if record.plan_input else draws_of(record.plan)
    inputs = [port("noise", "float32", "batch", draws, *info.shape), *condition_ports(info)]
    if record.in_law:
        inputs += [port("log_uniform", "float32", "batch", draws), port("theta", "float32")]
    else:
        inputs.append(port("tolerance", "float32"))
    inputs += [port("max_sweeps", "int64"), *put_plan(g, record, t, tables)]

    final = g("ReduceMax", "plan_stop", keepdims=0) if record.plan_input else g.name(np.int64(len(record.plan) - 1))
    batch = g("Shape", "noise", start=0, end=1)
    noise = g("Reshape", "noise", np.array([0, 0, info.dim]))
    lane = first_slots(g, "noise", t)
    start = _start(g, t, noise, batch, record.in_law)
    body = _body(t, network, noise, lane, final, record.in_law)
    end = _State.named(f"{OUTER}{{}}_end", record.in_law)
    inside = ["max_sweeps", g.name(np.array(True)), *start.values().values()]
    g.nodes.append(helper.make_node("Loop", inside, [*end.values().values()], name=f"{OUTER}Loop", body=body))

    ended = g("Equal", end.base, final)
    slot = g("Sub", g("Where", ended, end.base, end.known), end.before)
    slot = g("Max", g("Add", slot, np.int64(t.reach - 1)), np.int64(0))
    at = g("Add", g.shape(lane, -1), slot)
    state, output = (g("Gather", g.shape(part, -1, info.dim), at) for part in (end.x, end.D))
    chosen = g("Where", g.shape(ended, -1, 1), state, output)
    g("Reshape", chosen, np.array([-1, *info.shape]), out="samples")
    g("Identity", end.sweeps, out="sweeps")
    residual = g("Mul", end.residual, np.float32(0)) if record.in_law else end.residual
    g("Where", ended, residual, np.float32(np.inf), out="residual")
    g("Identity", end.evaluations, out="evaluations")
    results = [port("samples", "float32", "batch", *info.shape), port("sweeps", "int64", "batch")]
    results += [port("residual", "float32", "batch"), port("evaluations", "int64", "batch")]
    if record.in_law:
        g("Identity", end.rejections, out="rejections")
        g("Identity", end.residual, out="rejection_odds")
        results += [port("rejections", "int64", "batch"), port("rejection_odds", "float32", "batch")]
    return g.graph("sampler", inputs, results)


def _start(g: Builder, t: Layout, noise: str, batch: str, in_law: bool) -> _State:
    """Every window at node 0, whose state is pure noise; all outputs are the data mean."""
    dim = t.info.dim
    coefficient = g.cut(g.cut("plan_nodes", 0, 1, 0), 1, 2, 1)
    x = g("Mul", g.cut(noise, 0, 1, 1), coefficient)
    x = g("Pad", x, np.array([0, t.reach - 1, 0, 0, t.span, 0]))
    mean = np.zeros(dim) if t.info.mean is None else np.array(t.info.mean)
    D = g("Expand", mean.astype(np.float32).reshape(1, 1, dim), g("Concat", batch, np.array([t.slots, dim]), axis=0))
    zero = g("Expand", np.int64(0), batch)
    nothing = g("Expand", np.int64(-1), batch)
    stop = g("Gather", "plan_stop", zero)
    none = g("Expand", np.float32(0), batch)
    return _State(x, D, zero, zero, nothing, stop, none, zero, zero, zero if in_law else "")


def _body(t: Layout, network: Embedded, noise: str, lane: str, final: str, in_law: bool) -> GraphProto:
    """One sweep of every sample, and where its window goes."""
    g, now = Builder("body/"), _State.named("body/{}_now", in_law)
    step = LawStep(g, t) if in_law else Step(g, t)
    working = g("Cast", g("Less", now.base, final), to=INT64)
    step.move(now.x, now.D, now.before, now.base, now.known, lane)
    step.place(now.stop, now.known, _of_window(g, t, noise, now.base, t.info.dim) if t.stochastic else None)
    rows = step.evaluate_due(network, lane)
    after = _verified(g, t, step, now) if isinstance(step, LawStep) else _accepted(g, t, step, now, final)
    after = replace(
        after, base=g("Min", after.base, final), sweeps=g("Add", now.sweeps, working),
        evaluations=g("Add", now.evaluations, rows),
    )  # fmt: skip
    more = g("Less", g("ReduceMin", after.base, keepdims=0), final, out="body/more")
    window: tuple[Any, ...] = ("float32", "batch", t.slots, t.info.dim)
    types = {"x": window, "D": window, "residual": ("float32", "batch")}
    carried = [types.get(name, ("int64", "batch")) for name in now.values()]
    inputs = [port("body/sweep", "int64"), port("body/on", "bool")]
    inputs += [port(name, *kind) for name, kind in zip(now.values().values(), carried, strict=True)]
    outputs = [port(more, "bool")]
    outputs += [port(name, *kind) for name, kind in zip(after.values().values(), carried, strict=True)]
    return g.graph("body", inputs, outputs)


def _verified(g: Builder, t: Layout, step: LawStep, now: _State) -> _State:
    """After a sweep in law; a sample that is done stays as it is."""
    log_uniform = _of_window(g, t, "log_uniform", now.base, 1)
    step.verify(g.shape(log_uniform, -1, t.span), "theta")
    return replace(
        now, x=step.x, D=step.D, before=g("Identity", now.base), base=step.accepted, known=step.known,
        stop=g("Gather", "plan_stop", step.accepted), residual=g("Add", now.residual, step.odds),
        rejections=g("Add", now.rejections, step.rejected),
    )  # fmt: skip


def _accepted(g: Builder, t: Layout, step: Step, now: _State, final: str) -> _State:
    """After a pathwise one."""
    residual = step.solve()
    holds = g("And", g("LessOrEqual", residual, "tolerance"), g("Less", step.node, step.stop))
    first = g("ArgMin", g("Cast", holds, to=INT64), axis=1, keepdims=0)
    accepted = g("Add", g("Add", now.base, first), np.int64(1))
    far = g("Greater", step.node, g.shape(g("Add", accepted, np.int64(KEEP)), -1, 1))
    jumping = g("And", g.cut(step.due, 1, t.span + 1, 1), g("Greater", residual, np.float32(JUMP)))
    calm = g("Not", g("And", jumping, far))
    # Behind the window stands a jump that all windows have: who finds only that one keeps everything.
    calm = g("Pad", g("Cast", calm, to=INT64), np.array([0, 0, 0, 1]))
    jump = g("ArgMin", calm, axis=1, keepdims=0)
    steady = g("Where", g("Less", jump, np.int64(t.span)), g("Add", g("Add", now.base, jump), np.int64(1)), final)
    within = g("Less", step.node, g.shape(accepted, -1, 1))
    worst = g("ReduceMax", g("Where", within, residual, np.float32(0)), np.array([1]), keepdims=0)

    base = g("Min", accepted, final)
    return replace(
        now, x=step.x, D=step.D, before=g("Identity", now.base), base=base,
        known=g("Gather", "plan_previous", g("Min", steady, now.stop)),
        stop=g("Min", g("Gather", "plan_stop", base), g("Gather", "plan_next", steady)),
        residual=g("Max", now.residual, worst),
    )  # fmt: skip


def _of_window(g: Builder, t: Layout, noise: str, base: str, dim: int) -> str:
    """The draws of the nodes behind the base, [B, S, dim]; nodes beyond the last draw repeat it, times 0."""
    draws = g("Shape", noise, start=1, end=2)
    count = g("Shape", base)
    samples = g("Range", np.int64(0), g("Squeeze", count), np.int64(1))
    node = g("Add", g.shape(base, -1, 1), np.arange(1, t.span + 1))
    row = g("Add", g("Min", node, g("Sub", draws, np.int64(1))), g.shape(g("Mul", samples, draws), -1, 1))
    return g("Gather", g.shape(noise, -1, dim), row)
