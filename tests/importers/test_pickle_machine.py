"""Pickle programs written by hand: to reach what they must not, and to cost more than their bytes."""

import gc
import io
import pickle
from typing import Any

import pytest
import torch

from hostile import Call, refuse
from ncdeploy.importers.safe_pickle import parse_pickle

ALLOWED = b"ctorch._utils\n_rebuild_parameter\n"
RECORD = b"ctorch.nn.modules.container\nModuleDict\n)\x81"
BY_OPCODES = {
    "state of a function": (ALLOWED + b"N}U\x0c__defaults__K\x01s\x86b.", "opcode SHORT_BINSTRING"),
    "defaults of a function": (ALLOWED + b"N}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.", "sets the state of torch"),
    "state of a list": (b"]}X\x01\x00\x00\x00aK\x01sb.", "sets the state of a value of type list"),
    "state as a tuple": (RECORD + b"N}\x86b.", "sets the state of"),
    "state twice": (RECORD + b"}X\x01\x00\x00\x00aK\x01sb}b.", "sets the state of"),
    "setstate": (RECORD + b"}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb.", r"os\.system"),
    "make a function": (ALLOWED + b")\x81.", "makes torch"),
    "call a class": (b"ctorch.nn.modules.container\nModuleDict\n)R.", "calls torch.nn"),
    "call text": (b"X\x01\x00\x00\x00a)R.", "calls a value of type str"),
    "call a list of arguments": (ALLOWED + b"]R.", "calls torch"),
    "many arguments": (ALLOWED + b"(" + 20 * b"N" + b"tR.", "20 arguments"),
    "persistent id": (b"X\x0d\x00\x00\x00touch witnessQ.", "persistent identifier"),
    "persistent id, old": (b"Ptouch witness\n.", "opcode PERSID"),
    "inst": (b"(S'touch witness'\nios\nsystem\n.", "opcode STRING"),
    "inst alone": (b"(ios\nsystem\n.", "opcode INST"),
    "obj": (b"(cos\nsystem\nX\x0d\x00\x00\x00touch witnesso.", r"os\.system"),
    "obj of an allowed name": (b"(" + ALLOWED + b"No.", "opcode OBJ"),
    "extension": (b"\x82\x01.", "opcode EXT1"),
    "new with keywords": (ALLOWED + b")}\x92.", "opcode NEWOBJ_EX"),
    "dotted name": (b"\x8c\x0ctorch._utils\x8c\x12_rebuild_parameter\x8c\x00\x8c\x01a\x93.", "asks for"),
    "attribute of an allowed name": (
        b"\x8c\x0ctorch._utils\x8c\x1e_rebuild_parameter.__globals__\x93.",
        r"_rebuild_parameter\.__globals__",
    ),
    "name that is no text": (b"K\x01K\x02\x93.", "as a global"),
    "escape codes": (b"c\x1b[31mos\nsystem\n.", r"\?\[31mos\.system"),
    "key": (b"})Ns.", "as a key"),
    "unhashable key": (b"}]Ns.", "as a key"),
    "append to a dict": (b"}Na.", "appends to"),
    "append to a tuple": (b")Na.", "appends to"),
    "items of a list": (b"]NNs.", "sets items of"),
    "odd items": (b"}(Nu.", "damaged"),
    "no mark": (b"t.", "damaged"),
    "empty stack": (b".", "damaged"),
    "unknown memo": (b"h\x07.", "damaged"),
    "unknown opcode": (b"\xff.", "damaged"),
    "nothing": (b"", "damaged"),
    "more after the end": (b"N.cos\nsystem\n", "goes on after its end"),
}


@pytest.mark.parametrize("name", BY_OPCODES)
def test_opcodes_by_hand(name: str) -> None:
    code, message = BY_OPCODES[name]
    refuse(code, message)


def storage(count: int = 4, claimed: int | None = None) -> bytes:
    """What torch.storage._load_from_bytes is given for a storage of float32, perhaps with another count in it."""
    values = torch.zeros(count).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=values, dtype=torch.float32, _internal=True)
    buffer = io.BytesIO()
    torch.save(typed, buffer, _use_new_zipfile_serialization=False)
    blob = buffer.getvalue()
    size = 4 * count + 8
    return blob if claimed is None else blob[:-size] + claimed.to_bytes(8, "little") + blob[-4 * count :]


def tensor(blob: bytes, offset: Any, shape: Any, strides: Any) -> bytes:
    load = Call(torch.storage._load_from_bytes, blob)
    return pickle.dumps(Call(torch._utils._rebuild_tensor_v2, load, offset, shape, strides, False, {}))


def test_the_helpers_make_a_sound_tensor() -> None:
    assert torch.equal(parse_pickle(tensor(storage(), 1, (3,), (1,)), "x"), torch.zeros(3))


# Each level refers to the one below twice: to walk, hash or print the last would take 2^60 steps.
DOUBLING = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
OVERSIZED = {
    "expanded": (lambda: tensor(storage(), 0, (1 << 40,), (0,)), "larger than its storage"),
    "beyond the end": (lambda: tensor(storage(), 2, (3,), (1,)), "larger than its storage"),
    "before the start": (lambda: tensor(storage(), -1, (1,), (1,)), "larger than its storage"),
    "backwards": (lambda: tensor(storage(), 3, (4,), (-1,)), "backwards"),
    "far strides": (lambda: tensor(storage(), 0, (2, 2), (1 << 62, 1 << 62)), "larger than its storage"),
    "many dimensions": (lambda: tensor(storage(), 0, (1,) * 200, (1,) * 200), "unknown layout"),
    "shape of text": (lambda: tensor(storage(), 0, ("a",), (1,)), "unknown layout"),
    "claims more": (lambda: tensor(storage(claimed=1 << 60), 0, (4,), (1,)), "size is not"),
    "claims less": (lambda: tensor(storage(claimed=3), 0, (3,), (1,)), "size is not"),
    "half a storage": (lambda: tensor(storage()[:-4], 0, (3,), (1,)), "size is not"),
    "long bytes": (lambda: b"\x8e" + (1 << 60).to_bytes(8, "little") + b"x.", "damaged"),
    "long text": (lambda: b"\x8d" + (1 << 60).to_bytes(8, "little") + b"x.", "damaged"),
    "long frame": (lambda: b"\x80\x04\x95" + (1 << 63).to_bytes(8, "little") + b"h\x01.", "damaged"),
    "long number": (lambda: b"\x8b" + (1 << 30).to_bytes(4, "little") + b"x.", "damaged"),
    "long decimal": (lambda: b"L" + b"9" * 1_000_000 + b"L\n.", "damaged"),
    "large memo index": (lambda: b"Nr\xff\xff\xff\xff0.", "damaged"),
    "opcodes without end": (lambda: b"N0" * 1_500_000 + b"N.", "opcodes"),
    "doubling": (lambda: b")" + DOUBLING + b"cos\nx\n", r"os\.x"),
    "doubling as a key": (lambda: b"})" + DOUBLING + b"Ns.", "as a key"),
    "doubling as a name": (lambda: b")" + DOUBLING + b"h\x00\x93.", "as a global"),
    "doubling as a state": (lambda: RECORD + b")" + DOUBLING + b"b.", "sets the state"),
    "the same storage again and again": (
        lambda: b"B" + len(b := storage(250_000)).to_bytes(4, "little") + b + b"q\x000"
        + b"ctorch.storage\n_load_from_bytes\nq\x010" + b"h\x01h\x00\x85R0" * 100_000 + b"N.",
        "together larger than the file",
    ),
    "a long list of arguments again and again": (
        lambda: ALLOWED + b"q\x010(" + b"N" * 500_000 + b"tq\x000" + b"h\x01h\x00R0" * 300_000 + b"N.", "arguments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERSIZED)
def test_oversized(name: str) -> None:
    make, message = OVERSIZED[name]
    refuse(make(), message)


@pytest.mark.parametrize("nest", [b"\x85", b"]q\x00h\x00a", b"]a"])
def test_a_hundred_thousand_levels_deep(nest: bytes) -> None:
    levels = 100_000
    code = b"]" * levels + b"a" * (levels - 1) if nest == b"]a" else b")" + nest * levels
    parse_pickle(code + b".", "x")  # sound, and taken apart again without recursion
    gc.collect()
    refuse(b"})" + b"\x85" * levels + b"Ns.", "as a key")
