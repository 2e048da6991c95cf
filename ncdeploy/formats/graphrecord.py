"""What a graph with a sampler in it says of itself, beside the record of its model.

The record is JSON under `GRAPH_KEY` in the ONNX metadata; a graph without one is a plain denoiser.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncdeploy.errors import FileError, InputError
from ncdeploy.sampling.plan import Plan

GRAPH_KEY = "ncdeploy.graph"
FORMAT_VERSION = 1
MORE = 64  # reach of a graph beyond what its own plan could use
KINDS = ("denoiser", "sweep", "sampler")


@dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """A graph that runs a plan.

    kind:       "sampler", the whole loop, or "sweep", some sweeps of one window
    plan:       the plan inside, or, where plan_input, the one it was verified with
    plan_input: whether the plan is an input instead (`ncdeploy.backends.graphs.tables`)
    window:     evaluated nodes of the plan in a window
    span:       nodes of a window after its base; reach: accepted nodes it keeps, the base the last of them
    sweeps:     of one call, for "sweep"; 0 for "sampler"
    fixed_rows: of a sampler: whether a sweep evaluates whole windows, also where nothing needs it, so that all shapes
                in the loop are known before it runs, as TensorRT's loops ask for; a sweep graph always does
    error_floor: noise level below which the tolerance is absolute, in model units
    """

    kind: str
    plan: Plan
    plan_input: bool
    window: int
    span: int
    reach: int
    sweeps: int = 0
    fixed_rows: bool = False
    error_floor: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS[1:]:
            raise InputError(f"graph: got kind {self.kind!r}, expected sweep or sampler")
        for name in ("plan_input", "fixed_rows"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"graph: got {name} {getattr(self, name)!r}, expected true or false")
        for name, low in (("window", 1), ("span", 1), ("reach", 1), ("sweeps", int(self.kind == "sweep"))):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise InputError(f"graph: got {name} {value!r}, expected a number of at least {low}")
        n = len(self.plan)
        if not (self.window <= self.plan.evaluations and self.span < n and self.plan.reach <= self.reach <= n + MORE):
            sizes = f"window {self.window}, span {self.span} and reach {self.reach}"
            raise InputError(f"graph: {sizes} do not fit plan {self.plan.name} of {n} nodes")
        if not 0 < self.error_floor < float("inf"):
            raise InputError(f"graph: got error_floor {self.error_floor!r}, expected a positive number")

    @property
    def slots(self) -> int:
        """Nodes that a window holds."""
        return self.reach + self.span

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        plan = {name: getattr(self.plan, name).tolist() for name in _ARRAYS}
        record = {**{name: getattr(self, name) for name in _SETTINGS}, "plan": {"name": self.plan.name, **plan}}
        return json.dumps({"format": FORMAT_VERSION, **record}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "GraphRecord":
        """Read what `to_json` wrote. Raises FileError naming what is missing or wrong."""
        try:
            record = json.loads(text)
        except ValueError as e:
            raise FileError(f"graph metadata is not JSON: {e}") from e
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT_VERSION:
            raise FileError(f"graph metadata is not of format {FORMAT_VERSION}, as this version reads; update ncdeploy")
        try:
            plan = record.pop("plan")
            arrays: dict[str, Any] = {name: np.array(plan[name]) for name in _ARRAYS}
            return cls(plan=Plan(name=str(plan["name"]), **arrays), **record)
        except (KeyError, TypeError, ValueError, IndexError) as e:
            raise FileError(f"graph metadata is damaged: {e}") from e

    def describe(self) -> str:
        """One line for people."""
        plan = f"{self.plan.name}, {len(self.plan)} nodes, {self.plan.evaluations} evaluations"
        where = f"takes its plan as input, verified with {plan}" if self.plan_input else f"carries its plan: {plan}"
        count = f"{self.sweeps} sweeps a call, " if self.kind == "sweep" else ""
        rows = ", whole windows in every call" if self.fixed_rows else ""
        return f"{self.kind}: {count}window {self.window}{rows}; {where}"


_ARRAYS = ("sigmas", "state", "denoised", "noise", "evaluated")
_SETTINGS = ("kind", "plan_input", "window", "span", "reach", "sweeps", "fixed_rows", "error_floor")


def record_of(path: str | os.PathLike[str], metadata: dict[str, str]) -> GraphRecord | None:
    """The record in the metadata of the ONNX file at `path`, None for a plain denoiser. Raises FileError if damaged."""
    if GRAPH_KEY not in metadata:
        return None
    try:
        return GraphRecord.from_json(metadata[GRAPH_KEY])
    except FileError as e:
        raise FileError(f"{path}: {e}") from e
