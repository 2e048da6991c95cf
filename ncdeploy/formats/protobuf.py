"""Reading protobuf with the standard library alone.

A message is a list of (field number, wire type, value), and a message inside a message is a value with a length, so
that fields can be read without a parser for every type, and what is not asked for is not loaded.
"""

from collections.abc import Iterator

Buffer = memoryview
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class DamagedError(ValueError):
    """A protobuf message ends inside a field, or says what no model can."""


def fields(data: Buffer) -> Iterator[tuple[int, int, int | Buffer]]:
    """(field number, wire type, value) of a protobuf message; nested messages and bytes are views of the file."""
    at, end = 0, len(data)
    while at < end:
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = varint(data, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise DamagedError(f"wire type {wire}")
        if number == 0 or at + size > end:
            raise DamagedError(f"field {number} needs {size} bytes")
        yield number, wire, data[at : at + size]
        at += size


def varint(data: Buffer, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DamagedError("number")


def only(value: int | bytes | Buffer) -> dict[int, int | Buffer]:
    """The fields of a small message, the last of each number."""
    return {number: inner for number, _, inner in fields(message(value))}


def message(value: int | bytes | Buffer) -> Buffer:
    """A value with a length."""
    if isinstance(value, int):
        raise DamagedError("expected a message")
    return memoryview(value)


def whole(value: int | bytes | Buffer) -> int:
    """A number."""
    if not isinstance(value, int):
        raise DamagedError("expected a number")
    return value


def text(value: int | bytes | Buffer) -> str:
    """A string."""
    return bytes(message(value)).decode()
