"""Settings out of a foreign file, each checked for its type before it is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ncdeploy.errors import FileError


@dataclass(frozen=True)
class Arguments:
    """Settings out of the file, each checked for its type; None of a default means that it must be there."""

    values: Mapping[str, Any]

    def inner(self, name: str) -> "Arguments":
        """Settings by name inside these."""
        value = self.values.get(name)
        if type(value) is not dict or any(type(key) is not str for key in value):
            raise FileError(f"{name}: is {_shown(value)}, expected settings by name")
        return Arguments(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        if type(value) is not bool:
            raise FileError(f"{name}: is {_shown(value)}, expected true or false")
        return value

    def whole(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number from `least` to a million."""
        value = self.values.get(name, default)
        if type(value) is not int or not least <= value <= 1_000_000:
            raise FileError(f"{name}: is {_shown(value)}, expected a whole number, {least} to 1000000")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or value != value:
            raise FileError(f"{name}: is {_shown(value)}, expected a number")
        return float(value)  # type: ignore[arg-type]

    def wholes(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A short list of whole numbers."""
        value = self.values.get(name, default)
        if not isinstance(value, list | tuple) or len(value) > 32 or any(type(n) is not int for n in value):
            raise FileError(f"{name}: is {_shown(value)}, expected a list of whole numbers")
        if any(not 0 < n <= 1_000_000 for n in value):
            raise FileError(f"{name}: expected whole numbers from 1 to 1000000")
        return tuple(value)

    def choice(self, name: str, default: str | None, known: tuple[str, ...]) -> str:
        """One of some words."""
        value = self.values.get(name, default)
        if type(value) is not str or value not in known:
            raise FileError(f"{name}: is {_shown(value)}, expected {' or '.join(known)}; others are not supported")
        return value


def _shown(value: Any) -> str:
    """A value from the file for a message: of a container only its type, because its content may be endless."""
    short = type(value) is int and value.bit_length() <= 64
    return repr(value)[:100] if short or type(value) in (str, float, bool, type(None)) else type(value).__name__
