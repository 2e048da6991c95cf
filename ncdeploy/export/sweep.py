"""The sweep graph: some sweeps of a batch of windows in one call, without control flow.

A host loop (`ncdeploy.backends.graphs.sweeps`) feeds states and outputs back as they came out, reads the residuals and
says where the windows go next; it needs no arithmetic on states of its own.

    inputs   x, D        float32 [batch, slots, *shape]   as the last call returned them
             before, base, known, stop   int64 [batch]    base of the windows as given, base to move to, last node whose
                                                          output is kept, first node that is not evaluated
             noise       float32 [batch, span, *shape]    draws of the nodes after the base, unless the plan has none
             labels int64, guidance float32 [batch], and conditions [batch, *shape]   where the model takes them
             log_uniform float32 [batch, span], theta float32 []   of a graph that accepts in law: see `sampling.law`
             plan_*                                       where the plan is an input: `ncdeploy.backends.graphs.tables`
    outputs  x_new, D_new  float32 [batch, slots, *shape]
             residual      float32 [batch, sweeps, span]  of node base + 1 + i; 0 where there is none
             or, in law: accepted, kept, rejected int64 [batch], rejection_odds float32 [batch]
                                                          the next base, the node up to which outputs are kept then,
                                                          whether a test failed, and the summed probabilities of that
"""

from typing import Any

import numpy as np
from onnx import GraphProto, ValueInfoProto

from ncdeploy.export.builder import Builder, Embedded, port
from ncdeploy.export.law_step import LawStep
from ncdeploy.export.window_step import Layout, Step, per_sample
from ncdeploy.formats.graphrecord import GraphRecord
from ncdeploy.modelinfo import ModelInfo


def sweep_graph(denoiser: GraphProto, info: ModelInfo, record: GraphRecord, tables: dict[str, Any]) -> GraphProto:
    """The graph around a denoiser's graph. tables: the plan as `plan_tables` lays it out."""
    g, t = Builder(OUTER), Layout.of(record, info, tables)
    network = Embedded(denoiser)
    network.ahead(g, [condition.name for condition in info.conditions])
    windows = {name: port(name, "float32", "batch", t.slots, *info.shape) for name in ("x", "D", "x_new", "D_new")}
    inputs = [windows["x"], windows["D"]]
    inputs += [port(name, "int64", "batch") for name in ("before", "base", "known", "stop")]
    noise = None
    if t.stochastic:
        inputs.append(port("noise", "float32", "batch", t.span, *info.shape))
        noise = g.shape("noise", -1, t.span, t.info.dim)
    inputs += condition_ports(info)
    inputs += put_plan(g, record, t, {k: v for k, v in tables.items() if k in SWEEP_TABLES})

    if record.in_law:
        inputs += [port("log_uniform", "float32", "batch", t.span), port("theta", "float32")]
    step = LawStep(g, t) if record.in_law else Step(g, t)
    x, D = (g.shape(name, -1, t.slots, info.dim) for name in ("x", "D"))
    step.move(x, D, "before", "base", "known", first_slots(g, "base", t))
    step.place("stop", "known", noise)
    if isinstance(step, LawStep):
        step.evaluate_all(network)
        step.verify("log_uniform", "theta")
        told = [("accepted", step.accepted), ("kept", step.known), ("rejected", step.rejected)]
        for name, value in (*told, ("rejection_odds", step.odds)):
            g("Identity", value, out=name)
        found = [port(name, "int64", "batch") for name, _ in told] + [port("rejection_odds", "float32", "batch")]
    else:
        residuals = []
        for sweep in range(record.sweeps):
            step.evaluate_all(network, skip=sweep)
            residuals.append(g("Unsqueeze", step.solve(), np.array([1])))
        g("Concat", *residuals, axis=1, out="residual")
        found = [port("residual", "float32", "batch", record.sweeps, t.span)]
    shape = np.array([-1, t.slots, *info.shape])
    g("Reshape", step.x, shape, out="x_new")
    g("Reshape", step.D, shape, out="D_new")
    return g.graph("sweep", inputs, [windows["x_new"], windows["D_new"], *found])


OUTER = "window/"  # before the names of what the outer graph computes: no input can bear one of them
SWEEP_TABLES = ("plan_nodes", "plan_rows", "plan_inverses")


def condition_ports(info: ModelInfo) -> list[ValueInfoProto]:
    """The inputs that a denoiser takes beside x and sigma, one value per sample."""
    return [port(each.name, each.dtype, "batch", *each.shape[1:]) for each in per_sample(info).values()]


def put_plan(g: Builder, record: GraphRecord, layout: Layout, tables: dict[str, Any]) -> list[ValueInfoProto]:
    """The plan as constants of the graph, or as the inputs that are returned."""
    if not record.plan_input:
        for name, array in tables.items():
            g.constant(name, array)
        return []
    return [
        port(name, str(array.dtype), "padded" if array.ndim > 1 else "padded_and_one", *array.shape[1:])
        for name, array in tables.items()
    ]


def first_slots(g: Builder, per_sample: str, layout: Layout) -> str:
    """int64 [batch, 1]: the first slot of every sample among all slots of the batch."""
    batch = g("Squeeze", g("Shape", per_sample, start=0, end=1))
    samples = g("Range", np.int64(0), batch, np.int64(1))
    return g.shape(g("Mul", samples, np.int64(layout.slots)), -1, 1)
