"""The kinds of values that fields of records hold, with their bounds."""

import math
import re
from typing import Any

from ncdeploy.records.fields import Kind, is_integer, read

MAX_VALUES, MAX_AXES = 1 << 28, 8  # of one sample
MAX_BYTES = 1 << 40
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_number(v: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < math.inf


def is_numbers(v: Any) -> bool:
    """Whether it is a list of finite numbers."""
    return isinstance(v, list | tuple) and all(map(is_number, v))


def is_shape(v: Any) -> bool:
    """Whether it is a list of sizes of one sample, which a single number does not need: []."""
    sizes = isinstance(v, list | tuple) and len(v) <= MAX_AXES
    return sizes and all(is_integer(n) and 1 <= n <= MAX_VALUES for n in v) and math.prod(v) <= MAX_VALUES


def _is_plan(v: Any) -> bool:
    fits = (str, int, float)
    return isinstance(v, dict) and all(isinstance(x, fits) or x is None or is_numbers(x) for x in v.values())


def integer(least: int, most: int | None = None) -> Kind:
    """An integer within bounds; `most` None for none."""
    words = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
    return Kind(words=words, fits=lambda v: is_integer(v) and v >= least and (most is None or v <= most))


def one_of(*choices: str) -> Kind:
    """One of some texts."""
    return Kind(words=f"one of {', '.join(choices)}", fits=lambda v: isinstance(v, str) and v in choices)


def matching(pattern: re.Pattern[str], words: str) -> Kind:
    """A text that a pattern matches as a whole."""
    return Kind(words=words, fits=lambda v: isinstance(v, str) and pattern.fullmatch(v) is not None)


def nullable(kind: Kind) -> Kind:
    """The same, or null."""
    return Kind(
        words=f"{kind.words}, or null",
        fits=lambda v: v is None or kind.fits(v),
        read=lambda v: None if v is None else kind.read(v),
    )


def list_of(kind: Kind, words: str, least: int = 0, most: int = 1000) -> Kind:
    """A list of so many of a kind; a tuple in Python."""
    return Kind(
        words=words,
        fits=lambda v: isinstance(v, list | tuple) and least <= len(v) <= most and all(map(kind.fits, v)),
        read=lambda v: tuple(map(kind.read, v)),
    )


def object_of(cls: type[Any], words: str) -> Kind:
    """An object that is a record itself."""
    return Kind(words=words, fits=lambda v: isinstance(v, dict | cls), read=lambda v: read(cls, v))


TEXT = Kind(words="a text", fits=lambda v: isinstance(v, str))
NAME = Kind(words="a text that is not empty", fits=lambda v: isinstance(v, str) and v != "")
FLAG = Kind(words="true or false", fits=lambda v: isinstance(v, bool))
NUMBER = Kind(words="a finite number", fits=is_number)
POSITIVE = Kind(words="a positive finite number", fits=lambda v: is_number(v) and v > 0)
NOT_NEGATIVE = Kind(words="a finite number, 0 or more", fits=lambda v: is_number(v) and v >= 0)
NOT_ZERO = Kind(words="a finite number other than 0", fits=lambda v: is_number(v) and v != 0)
NUMBERS = Kind(words="a list of finite numbers", fits=is_numbers, read=tuple)
ROWS = Kind(words="lists of finite numbers", fits=lambda v: isinstance(v, list | tuple) and all(map(is_numbers, v)))
FLAGS = Kind(
    words="a list of true or false",
    fits=lambda v: isinstance(v, list | tuple) and all(isinstance(x, bool) for x in v),
)
SHAPE = Kind(
    words=f"1 to {MAX_AXES} positive integers without the batch axis, with at most {MAX_VALUES} values in all",
    fits=lambda v: is_shape(v) and len(v) > 0,
    read=tuple,
)
SHA256 = matching(_SHA256, "64 hex digits")
BYTES = integer(0, MAX_BYTES)
OBJECT = Kind(words="an object", fits=lambda v: isinstance(v, dict))
TEXTS = Kind(
    words="an object of texts", fits=lambda v: isinstance(v, dict) and all(isinstance(x, str) for x in v.values())
)
COUNTS = Kind(
    words="an object of integers, 0 or more",
    fits=lambda v: isinstance(v, dict) and all(is_integer(n) and n >= 0 for n in v.values()),
)
PLAN_OPTIONS = Kind(words="an object of texts, numbers, lists of numbers and null", fits=_is_plan)
