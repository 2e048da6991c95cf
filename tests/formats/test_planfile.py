"""The binary plan file: what it holds comes back bit for bit, and nothing but a plan is read."""

import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from mutations import mutate
from ncdeploy import FileError, InputError, Plan, make_plan
from ncdeploy.formats.planfile import decode, encode
from oracle import error_curve
from plan_files import RULES, plan_bytes

PLANS = [make_plan("ddpm", 100), make_plan("ddim", 20, eta=0.5), make_plan("heun", 18), make_plan("unipc", 25, order=3)]


def jacobian(plan: Plan) -> np.ndarray:
    return np.where(plan.evaluated, error_curve().jacobian(plan.sigmas), 0.0)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
@pytest.mark.parametrize("with_jacobian", [False, True])
def test_a_plan_comes_back_bit_for_bit(plan, with_jacobian):
    g = jacobian(plan) if with_jacobian else None
    stored = decode(encode(plan, g), "p.ncplan")
    assert stored.plan.name == plan.name
    for field in ("sigmas", "state", "denoised", "noise", "evaluated"):
        assert getattr(stored.plan, field).tobytes() == getattr(plan, field).tobytes()
    assert (stored.jacobian is None) == (g is None)
    assert g is None or stored.jacobian.tobytes() == g.tobytes()


def test_the_layout_is_the_one_that_is_written_down():
    """Read by hand, as the top of planfile.py says it to another language."""
    plan = make_plan("unipc", 6)
    data, g = encode(plan, jacobian(plan)), jacobian(plan)
    magic, version, n, reach, m, flags = struct.unpack("<6sHIIII", data[:24])
    assert (magic, version, n, reach, flags) == (b"NCPLAN", 1, len(plan), plan.reach, 1)
    assert data[24 : 24 + m] == plan.name.encode()
    at = 24 + -(-m // 8) * 8
    for column in (plan.sigmas, plan.state, plan.denoised, plan.noise, g):
        assert struct.unpack_from(f"<{column.size}d", data, at) == tuple(column.ravel())
        at += 8 * column.size
    assert tuple(data[at : at + n]) == tuple(plan.evaluated)
    assert len(data) == at + -(-n // 8) * 8


def patch(offset: int, kind: str, value: object) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into(kind, changed, offset, value)
        return bytes(changed)

    return change


FIRST = 24 + 8  # sigmas of a plan with a name of 1 to 8 characters
HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: b"", "is not a plan"),
        (lambda d: b"NCPLAN", "cut short"),
        (lambda d: d[:20], "cut short"),
        (lambda d: d[:-1], "bytes, expected"),
        (lambda d: d[: len(d) // 2], "bytes, expected"),
        (lambda d: d + b"\0", "bytes, expected"),
        (patch(0, "<6s", b"NCPLAM"), "is not a plan"),
        (patch(6, "<H", 3), "version 3"),
        (patch(6, "<H", 2), "unknown flags 0x1 in version 2"),
        (patch(8, "<I", 1), "nodes: got 1"),
        (patch(8, "<I", HUGE), "nodes: got 4294967295"),
        (patch(8, "<I", 65536), "bytes, expected"),
        (patch(12, "<I", 0), "reach: got 0"),
        (patch(12, "<I", HUGE), "reach: got 4294967295"),
        (patch(12, "<I", 64), "bytes, expected"),
        (patch(16, "<I", 0), "name: got 0"),
        (patch(16, "<I", HUGE), "name: got 4294967295"),
        (patch(20, "<I", 2), "unknown flags"),
        (patch(20, "<I", 0), "bytes, expected"),
        (patch(24, "<B", 0xC3), "ascii"),
        (patch(24, "<B", 0x1B), "printable"),
        (patch(31, "<B", 1), "padding"),
        (patch(FIRST, "<d", float("nan")), "NaN"),
        (patch(FIRST + 8, "<d", float("inf")), "infinity"),
        (patch(FIRST, "<d", -1.0), "sigma > 0"),
        (lambda d: d[:-1] + b"\1", "padding"),
        (lambda d: d[:-8] + b"\2" + d[-7:], "not 0 or 1"),
        (lambda d: d[:-8] + b"\0" + d[-7:], "first node"),
        (lambda d: d[:-16] + struct.pack("<d", 0.5) + d[-8:], "jacobian"),
    ],
)
def test_what_is_not_a_plan_is_refused_before_memory_is_taken(change, said):
    plan = make_plan("ddim", 7)  # 8 nodes, so that the last 8 bytes are evaluated without padding
    data = encode(plan, jacobian(plan))
    if said == "padding":
        plan = make_plan("ddim", 6)
        data = encode(plan, jacobian(plan))
    tracemalloc.start()
    with pytest.raises(FileError, match=said) as e:
        decode(change(data), "p.ncplan")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert str(e.value).startswith("p.ncplan: ")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_a_plan_is_kept(rule):
    assert len(decode(plan_bytes(), "p.ncplan").plan) == 8
    with pytest.raises(FileError, match="is a damaged plan"):
        decode(plan_bytes(RULES[rule]), "p.ncplan")


def test_a_jacobian_must_be_one():
    plan = make_plan("heun", 6)
    g = jacobian(plan)
    for wrong in (g[:-1], g + 2, g - 1, np.full_like(g, np.nan), np.where(plan.evaluated, g, 0.1)):
        with pytest.raises(InputError, match="jacobian"):
            encode(plan, wrong)


def test_a_plan_beyond_the_format_is_not_written():
    plan = make_plan("ddim", 3)
    for name in ("", "x" * 256, "η", "a\x1b[2J"):
        with pytest.raises(InputError, match="name"):
            encode(
                Plan(
                    name=name, sigmas=plan.sigmas, state=plan.state, denoised=plan.denoised, noise=plan.noise,
                    evaluated=plan.evaluated,
                )
            )  # fmt: skip


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutations_are_refused_or_are_another_plan_exactly(count):
    """Whatever is read can be written again, and is the same file: no bit of a file goes unread."""
    rng = np.random.default_rng(count)
    originals = [encode(plan, jacobian(plan)) for plan in (make_plan("heun", 4), make_plan("unipc", 5))]
    read = 0
    for i in range(count):
        data = mutate(originals[i % 2], rng)
        try:
            stored = decode(data, "p.ncplan")
        except FileError:
            continue
        assert encode(stored.plan, stored.jacobian) == data
        read += 1
    assert 0 < read < count
