"""A plan as a binary file, *.ncplan: what a host in any language needs to sample, without solver mathematics.

All numbers are little-endian; pad8(k) is k rounded up to a multiple of 8. Every column starts at a multiple of 8.

    offset             type              field
    0                  6 bytes           "NCPLAN"
    6                  u16               version, 1; 2 if bit 1 of flags is set
    8                  u32               n, nodes: 2 to 65536
    12                 u32               reach, earlier nodes that a row may use: 1 to 64
    16                 u32               m, bytes of the name: 1 to 255
    20                 u32               flags: bit 0 says that there is a column jacobian, bit 1 that there are
                                         clip and a column cut; all others are 0
    24                 m bytes           name, ASCII 0x20 to 0x7e, then zeros up to pad8(m)
    24 + pad8(m)       f64 [n]           sigmas, noise level of each node
                       f64 [n * reach]   state, row by row: state[k, h] at k * reach + h
                       f64 [n * reach]   denoised, row by row
                       f64 [n]           noise
                       f64 [n]           jacobian, if bit 0 of flags is set
                       f64               clip, if bit 1 of flags is set
                       f64 [n]           cut, if bit 1 of flags is set
                       u8 [n]            evaluated, 0 or 1, then zeros up to pad8(n)

The file ends there: its size is 24 + pad8(m) + 8 n (2 + 2 reach + bit 0 + bit 1) + 8 bit 1 + pad8(n) bytes, less than
67 MiB. Node k is

    x_k = sum_h state[k, h] x_{k-1-h} + sum_h denoised[k, h] D_{k-1-h} + noise[k] xi_k,   D_j = D(x_j, sigmas[j])

where D_j exists if evaluated[j], and xi_k is standard normal: the draw of the sample's seed at node k, as specified at
the top of sampling/noise.py. With a clip, D_j + cut[k] (min(max(D_j, -clip), clip) - D_j) stands in row k, value by
value, for D_j. The last node is the sample. A reader refuses a file in which a size, a zero, a flag or a bound above
does not hold, any f64 is not finite, or a rule of a plan is broken:

    evaluated[0] = 1, evaluated[n-1] = 0, noise[0] > 0, sigmas[k] > 0 where evaluated[k] = 1
    state[k, h] = denoised[k, h] = 0 where k - 1 - h < 0, and denoised[k, h] = 0 where evaluated[k-1-h] = 0
    0 <= jacobian[k] <= 1, and jacobian[k] = 0 where evaluated[k] = 0
    clip > 0

jacobian[k] is g(sigmas[k]) = mse / sigma^2 of the model that the plan was made for, the mean diagonal of dD/dx
(`ErrorCurve.jacobian`), which makes the parallel iteration converge faster. Sequential sampling does not use it.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import FileError, InputError
from ncdeploy.sampling.plan import Plan

MAGIC, VERSION, CUTTING = b"NCPLAN", 1, 2
MAX_NODES, MAX_REACH, MAX_NAME = 1 << 16, 64, 255
HAS_JACOBIAN, HAS_CLIP = 1, 2
MAX_SIZE = 67 << 20
_HEADER = struct.Struct("<6sHIIII")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPlan:
    """What a plan file holds: the plan, and float64 [n] jacobian of the model it was made for, or None."""

    plan: Plan
    jacobian: NDArray[np.float64] | None = None


def encode(plan: Plan, jacobian: NDArray[np.float64] | None = None) -> bytes:
    """The bytes of a plan file. jacobian: float64 [n], in [0, 1], 0 at nodes that are not evaluated.

    Raises InputError for a plan beyond the limits of the format and for a jacobian that is not one.
    """
    _check_name(plan.name)
    name = plan.name.encode("ascii")
    n, reach, flags = len(plan), plan.reach, 0 if jacobian is None else HAS_JACOBIAN
    for what, value, most in (
        ("nodes", n, MAX_NODES),
        ("reach", reach, MAX_REACH),
        ("bytes of name", len(name), MAX_NAME),
    ):
        if not 1 <= value <= most:
            raise InputError(f"plan {plan.name}: {value} {what}; a plan file holds 1 to {most}")
    columns = [plan.sigmas, plan.state, plan.denoised, plan.noise]
    if jacobian is not None:
        columns.append(_checked_jacobian(jacobian, plan))
    if plan.cut is not None:
        flags |= HAS_CLIP
        columns += [np.array(plan.clip), plan.cut]
    version = CUTTING if flags & HAS_CLIP else VERSION
    parts = [_HEADER.pack(MAGIC, version, n, reach, len(name), flags), _padded(name)]
    parts += [column.astype("<f8").tobytes() for column in columns]
    parts.append(_padded(plan.evaluated.astype(np.uint8).tobytes()))
    return b"".join(parts)


def decode(data: bytes, path: str) -> StoredPlan:
    """The plan in the bytes of a file, whose name errors carry. Raises FileError if they break a rule above."""
    if not data.startswith(MAGIC):
        raise FileError(f"{path}: is not a plan; expected a file of ncdeploy bundle, *.ncplan")
    if len(data) < _HEADER.size:
        raise FileError(f"{path}: is cut short; copy or make it again")
    _, version, n, reach, m, flags = _HEADER.unpack_from(data)
    if version not in (VERSION, CUTTING):
        raise FileError(
            f"{path}: is a plan of version {version}, this one reads {VERSION} and {CUTTING}; update ncdeploy"
        )
    try:
        if flags & ~(HAS_JACOBIAN | HAS_CLIP) or bool(flags & HAS_CLIP) != (version == CUTTING):
            raise InputError(f"unknown flags {flags:#x} in version {version}")
        return _decode(data, n, reach, m, flags)
    except (InputError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: is a damaged plan ({e}); copy or make it again") from e


def _decode(data: bytes, n: int, reach: int, m: int, flags: int) -> StoredPlan:
    for what, value, least, most in (
        ("nodes", n, 2, MAX_NODES),
        ("reach", reach, 1, MAX_REACH),
        ("name", m, 1, MAX_NAME),
    ):
        if not least <= value <= most:
            raise InputError(f"{what}: got {value}, expected {least} to {most}")
    size = _size(n, reach, m, flags)
    if len(data) != size:
        raise InputError(f"it has {len(data)} bytes, expected {size}")
    start = _HEADER.size
    name = _unpadded(data[start : start + _pad8(m)], m).decode("ascii")
    _check_name(name)
    has_jacobian, cuts = bool(flags & HAS_JACOBIAN), bool(flags & HAS_CLIP)
    counts = [n, n * reach, n * reach, n, n * has_jacobian, *[1, n] * cuts]
    numbers = np.frombuffer(data, "<f8", sum(counts), start + _pad8(m)).astype(np.float64)
    sigmas, state, denoised, noise, jacobian, *cut = np.split(numbers, np.cumsum(counts)[:-1])
    evaluated = np.frombuffer(_unpadded(data[size - _pad8(n) :], n), np.uint8)
    if evaluated.max() > 1:
        raise InputError("evaluated holds a value that is not 0 or 1")
    plan = Plan(
        name=name,
        sigmas=sigmas,
        state=state.reshape(n, reach),
        denoised=denoised.reshape(n, reach),
        noise=noise,
        evaluated=evaluated != 0,
        clip=float(cut[0][0]) if cuts else None,
        cut=cut[1] if cuts else None,
    )
    return StoredPlan(plan=plan, jacobian=_checked_jacobian(jacobian, plan) if has_jacobian else None)


def _checked_jacobian(values: Any, plan: Plan) -> NDArray[np.float64]:
    g: NDArray[np.float64] = np.array(values, np.float64)
    if g.shape != plan.sigmas.shape:
        raise InputError(f"plan {plan.name}: jacobian has shape {g.shape}, expected {plan.sigmas.shape}")
    if not np.all((g >= 0) & (g <= 1)) or np.any(g[~plan.evaluated]):  # the first also catches NaN
        raise InputError(f"plan {plan.name}: jacobian must lie in 0 .. 1, and be 0 at nodes that are not evaluated")
    g.setflags(write=False)
    return g


def _check_name(name: str) -> None:
    if not (name.isascii() and name.isprintable()):
        raise InputError(f"plan {name!a}: a name in a plan file is printable ASCII")


def _size(n: int, reach: int, m: int, flags: int) -> int:
    columns, clip = 2 + 2 * reach + flags.bit_count(), bool(flags & HAS_CLIP)
    return _HEADER.size + _pad8(m) + 8 * (n * columns + clip) + _pad8(n)


def _pad8(size: int) -> int:
    return size + -size % 8


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _unpadded(data: bytes, size: int) -> bytes:
    if any(data[size:]):
        raise InputError("its padding is not zero")
    return data[:size]
