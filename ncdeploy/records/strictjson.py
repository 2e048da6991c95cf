"""JSON that means one thing: no key twice, no NaN or infinity, no number that another reader would round."""

import json
import math
from typing import Any

from ncdeploy.errors import FileError

LARGEST_INTEGER = 2**53  # beyond it, readers that keep numbers as doubles round


def parse(data: bytes | str, path: str) -> dict[str, Any]:
    """The object in a text, or in the bytes of a file, whose name errors carry. Raises FileError if it is not strict
    JSON."""
    try:
        text = data if isinstance(data, str) else data.decode()
        record = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
        json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is a string that cannot be printed
    except RecursionError as e:
        raise FileError(f"{path}: is nested too deeply; copy or make it again") from e
    except ValueError as e:
        raise FileError(f"{path}: is not valid JSON ({e}); copy or make it again") from e
    if not isinstance(record, dict):
        raise FileError(f"{path}: holds a JSON {type(record).__name__}, expected an object; copy or make it again")
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!a} is there twice")
    return record


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > LARGEST_INTEGER:
        raise ValueError(f"{text[:20]} is too large")
    return int(text)
