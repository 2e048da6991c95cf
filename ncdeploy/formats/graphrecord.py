"""What a graph with a sampler in it says of itself, beside the record of its model.

The record is JSON under `GRAPH_KEY` in the ONNX metadata; a graph without one is a plain denoiser.
"""

import json
import os
from dataclasses import dataclass, field
from typing import Any

from ncdeploy.errors import FileError, InputError
from ncdeploy.records import REQUIRES, Kind, about, check, parse, read, read_format, required
from ncdeploy.records.kinds import FLAG, FLAGS, NUMBERS, POSITIVE, ROWS, TEXT, integer, nullable, one_of
from ncdeploy.sampling.law import check_law
from ncdeploy.sampling.plan import Plan

GRAPH_KEY = "ncdeploy.graph"
FORMAT_VERSION = 1
MORE = 64  # reach of a graph beyond what its own plan could use
KINDS = ("denoiser", "sweep", "sampler")
ACCEPTANCES = ("pathwise", "law")
NO_CLIP = "clip: a graph that takes its plan as input has no place for that of {}; carry the plan inside the graph"


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """A plan as JSON; `Plan` says what its arrays are."""

    name: str = field(metadata=about(TEXT, "for people"))
    sigmas: tuple[float, ...] = field(metadata=about(NUMBERS, "[n], noise level of each node"))
    state: list[list[float]] = field(metadata=about(ROWS, "[n, reach], coefficients of earlier states"))
    denoised: list[list[float]] = field(metadata=about(ROWS, "[n, reach], coefficients of earlier outputs"))
    noise: tuple[float, ...] = field(metadata=about(NUMBERS, "[n], coefficients of fresh noise"))
    evaluated: list[bool] = field(metadata=about(FLAGS, "[n], whether the denoiser is called there"))
    clip: float | None = field(
        default=None,
        metadata=about(nullable(POSITIVE), "outputs are cut to -clip .. clip, by the shares in cut", vital=True),
    )
    cut: tuple[float, ...] | None = field(
        default=None,
        metadata=about(nullable(NUMBERS), "[n], in row k D + cut[k] (clip(D) - D) stands for D; null without a clip"),
    )


def _plan(record: dict[str, Any]) -> Plan:
    arrays: dict[str, Any] = vars(read(PlanRecord, record))
    if len({len(row) for name in ("state", "denoised") for row in arrays[name]}) != 1:
        raise InputError("state and denoised: expected rows of one length")
    return Plan(**arrays)


PLAN = Kind(words="a plan", fits=lambda v: isinstance(v, dict | Plan), read=_plan)


@dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """A graph that runs a plan."""

    kind: str = field(
        metadata=about(one_of(*KINDS[1:]), '"sampler", the whole loop, or "sweep", some sweeps of one window')
    )
    plan: Plan = field(metadata=about(PLAN, "the plan inside, or, where plan_input, the one it was verified with"))
    # How it is then given: `ncdeploy.backends.graphs.tables`
    plan_input: bool = field(metadata=about(FLAG, "whether the plan is an input instead"))
    window: int = field(metadata=about(integer(1), "evaluated nodes of the plan in a window"))
    span: int = field(metadata=about(integer(1), "nodes of a window after its base"))
    reach: int = field(metadata=about(integer(1), "accepted nodes that it keeps, the base the last of them"))
    sweeps: int = field(default=0, metadata=about(integer(0), 'of one call, for "sweep"; 0 for "sampler"'))
    fixed_rows: bool = field(
        default=False,
        metadata=about(
            FLAG,
            "of a sampler of earlier versions: whether a sweep evaluates whole windows, also where nothing needs it",
        ),
    )
    error_floor: float = field(
        default=0.1,
        metadata=about(POSITIVE, "noise level below which the tolerance is absolute, in model units"),
    )

    acceptance: str = field(
        default="pathwise",
        metadata=about(one_of(*ACCEPTANCES), "how it accepts nodes", vital=True),
    )

    def __post_init__(self) -> None:
        check(self)
        if self.kind == "sweep" and self.sweeps < 1:
            raise InputError(f"sweeps: got {self.sweeps}, expected at least 1 in a sweep graph")
        if self.plan_input and self.plan.clip is not None:
            raise InputError(NO_CLIP.format(self.plan.name))
        if self.in_law:
            check_law(self.plan)
            if self.sweeps > 1:
                raise InputError(
                    f"sweeps: got {self.sweeps}; a call of a sweep graph in law makes 1, whose end it decides"
                )
        n = len(self.plan)
        if not (self.window <= self.plan.evaluations and self.span < n and self.plan.reach <= self.reach <= n + MORE):
            sizes = f"window {self.window}, span {self.span} and reach {self.reach}"
            raise InputError(f"graph: {sizes} do not fit plan {self.plan.name} of {n} nodes")

    @property
    def in_law(self) -> bool:
        """Whether it accepts in law."""
        return self.acceptance == "law"

    @property
    def slots(self) -> int:
        """Nodes that a window holds."""
        return self.reach + self.span

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        plan = {name: getattr(self.plan, name).tolist() for name in _ARRAYS}
        if self.plan.cut is not None:
            plan |= {"clip": self.plan.clip, "cut": self.plan.cut.tolist(), REQUIRES: ["clip"]}
        record = {**{name: getattr(self, name) for name in _SETTINGS}, "plan": {"name": self.plan.name, **plan}}
        return json.dumps({"format": FORMAT_VERSION, **record, **required(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "GraphRecord":
        """Read what `to_json` wrote. Raises FileError naming what is missing or wrong."""
        record = parse(text, "graph metadata")
        read_format("graph metadata", "format", FORMAT_VERSION, record)
        try:
            return read(cls, record)
        except InputError as e:
            raise FileError(f"graph metadata is damaged: {e}") from e

    def describe(self) -> str:
        """One line for people."""
        plan = f"{self.plan.name}, {len(self.plan)} nodes, {self.plan.evaluations} evaluations"
        where = f"takes its plan as input, verified with {plan}" if self.plan_input else f"carries its plan: {plan}"
        count = f"{self.sweeps} sweeps a call, " if self.kind == "sweep" else ""
        rows = ", whole windows in every call" if self.fixed_rows else ""
        how = ", in law" if self.in_law else ""
        return f"{self.kind}: {count}window {self.window}{rows}{how}; {where}"


_ARRAYS = ("sigmas", "state", "denoised", "noise", "evaluated")
_SETTINGS = ("kind", "plan_input", "window", "span", "reach", "sweeps", "fixed_rows", "error_floor", "acceptance")


def record_of(path: str | os.PathLike[str], metadata: dict[str, str]) -> GraphRecord | None:
    """The record in the metadata of the ONNX file at `path`, None for a plain denoiser. Raises FileError if damaged."""
    if GRAPH_KEY not in metadata:
        return None
    try:
        return GraphRecord.from_json(metadata[GRAPH_KEY])
    except FileError as e:
        raise FileError(f"{path}: {e}") from e
