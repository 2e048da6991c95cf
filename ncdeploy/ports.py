"""What goes into a model: its ports, and among them the conditions, given once a sample and not once a row."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.records import Kind, about, check
from ncdeploy.records.kinds import is_number, is_numbers, is_shape, matching, nullable, one_of

RESERVED = ("x", "sigma", "labels", "guidance", "sample", "denoised", "noise")
MAX_CONDITIONS = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")

SIZES = Kind(words="a list of positive integers, empty for a single value", fits=is_shape, read=tuple)
NULL = Kind(
    words="a number, or a list of numbers",
    fits=lambda v: is_number(v) or is_numbers(v),
    read=lambda v: tuple(v) if isinstance(v, list) else v,
)


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of a graph: a size for a fixed axis, a name (possibly empty) for a dynamic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def sizes(ports: Iterable[Port], **axes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of ports by name, with sizes for axes that have none: sizes(info.inputs, batch=8, samples=1)."""
    return {port.name: tuple(n if isinstance(n, int) else axes[n] for n in port.shape) for port in ports}


@dataclass(frozen=True, kw_only=True)
class Value:
    """What an encoder or a decoder takes or gives for a sample: an observation, a picture, an action."""

    name: str = field(metadata=about(matching(_DOTTED, "a name of letters, digits, _ and ."), "of the graph's port"))
    dtype: str = field(metadata=about(one_of("float32", "int64"), "of its values"))
    shape: tuple[int, ...] = field(metadata=about(SIZES, "of one sample"))

    def __post_init__(self) -> None:
        check(self)

    def describe(self) -> str:
        """For people: "obs float32 (2, 5)"."""
        return f"{self.name} {self.dtype} {self.shape}"

    def take(self, given: Any, n: int) -> NDArray[Any]:
        """Values of n samples as an array of the right dtype [n, *shape].

        Raises:
            InputError: naming the value, for another shape or type and for NaN and infinity
        """
        try:
            values = np.asarray(given)
        except (TypeError, ValueError) as e:
            raise InputError(f"{self.name}: is no array: {str(e).splitlines()[0]}") from e
        wanted = (n, *self.shape)
        if values.dtype.kind not in ("iu" if self.dtype == "int64" else "iuf"):
            raise InputError(f"{self.name}: got {values.dtype}; this model takes {self.dtype} {wanted}")
        if values.shape != wanted:
            raise InputError(f"{self.name}: got {values.shape}; expected {wanted}, one value for each of {n} samples")
        with np.errstate(over="ignore"):
            values = values.astype(self.dtype)
        if not np.all(np.isfinite(values)):
            raise InputError(f"{self.name}: holds NaN or infinity, or values too large for float32")
        return values


@dataclass(frozen=True, kw_only=True)
class Condition(Value):
    """An input that all rows of a sample share: an observation, the tokens of a prompt, a picture.

    Raises:
        InputError: for a name that a model's other inputs have, and for a null value of another size
    """

    name: str = field(metadata=about(matching(_NAME, "a name of letters, digits and _"), "of the graph's input"))
    null: float | tuple[float, ...] | None = field(
        default=None,
        metadata=about(nullable(NULL), 'what means "none" for guidance: one number, or all values in a row'),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in RESERVED:
            raise InputError(f"condition {self.name}: the name is taken, choose another than {', '.join(RESERVED)}")
        if isinstance(self.null, tuple) and len(self.null) != math.prod(self.shape):
            raise InputError(f"condition {self.name}: its null has {len(self.null)} values, expected {self.shape}")
        if self.dtype == "int64" and self.null is not None and np.any(np.mod(self.null, 1)):
            raise InputError(f"condition {self.name}: its null is no integer, expected int64")

    def none(self) -> NDArray[Any]:
        """The null value [*shape], zeros for a condition that has none."""
        null = 0 if self.null is None else self.null
        sizes = self.shape if isinstance(null, tuple) else ()
        return np.broadcast_to(np.asarray(null, self.dtype).reshape(sizes), self.shape)


def described(given: Mapping[str, Any]) -> tuple[Condition, ...]:
    """What values of some samples, [n, *shape] by name, are conditions of: float32 for real numbers, else int64.

    Raises InputError for names that no condition may have.
    """
    return tuple(
        Condition(name=name, dtype="float32" if value.dtype.kind == "f" else "int64", shape=value.shape[1:])
        for name, value in ((name, np.asarray(value)) for name, value in given.items())
    )


def take_all(conditions: Sequence[Value], given: Mapping[str, Any], n: int) -> dict[str, NDArray[Any]]:
    """Every condition of a model for n samples, in the model's order.

    Raises InputError for one that is missing or unknown, and as `Value.take` does.
    """
    takes = ", ".join(condition.describe() for condition in conditions)
    for name in given:
        if name not in [condition.name for condition in conditions]:
            raise InputError(f"conditions: got {name!a}; this model takes {takes or 'none'}")
    for condition in conditions:
        if condition.name not in given:
            raise InputError(f"conditions: {condition.name} is missing; this model takes {takes}, for every sample")
    return {condition.name: condition.take(given[condition.name], n) for condition in conditions}
