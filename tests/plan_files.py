"""Plan files that break one rule each of those at the top of ncdeploy/formats/planfile.py."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from ncdeploy import solvers
from oracle import error_curve

Columns = dict[str, Any]


def put(column: str, at: Any, value: float) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column][at] = value

    return change


RULES = {
    "the first node is evaluated": put("evaluated", 0, 0),
    "the last node is not evaluated": put("evaluated", -1, 1),
    "the first node is noise": put("noise", 0, 0.0),
    "and of positive size": put("noise", 0, -1.0),
    "evaluated nodes have noise": put("sigmas", 2, 0.0),
    "no state before the first": put("state", (0, 0), 0.5),
    "no output before the first": put("denoised", (1, 1), 0.5),
    "no output where there is none": put("evaluated", 2, 0),
    "numbers are finite": put("state", (3, 0), np.inf),
    "a jacobian is not below 0": put("jacobian", 1, -0.1),
    "nor above 1": put("jacobian", 1, 1.1),
    "and 0 where nothing is evaluated": put("jacobian", -1, 0.1),
}


def plan_bytes(change: Callable[[Columns], None] = lambda columns: None) -> bytes:
    """A plan of two outputs a row that ends above 0, written by hand with one change."""
    plan = solvers.dpmpp_2m(np.geomspace(80, 0.5, 8))
    columns: Columns = {name: np.array(getattr(plan, name)) for name in ("sigmas", "state", "denoised", "noise")}
    columns["jacobian"] = np.where(plan.evaluated, error_curve().jacobian(plan.sigmas), 0.0)
    columns["evaluated"] = plan.evaluated.astype(np.uint8)
    change(columns)
    head = struct.pack("<6sHIIII8s", b"NCPLAN", 1, len(plan), plan.reach, 8, 1, b"by-hand ")
    return head + b"".join(column.tobytes() for column in columns.values())
