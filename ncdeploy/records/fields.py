"""The fields of a record, declared once: what each may hold, since which version, and what it means.

A record is a frozen dataclass, and each of its fields carries `about(kind, meaning)` as metadata. From that come the
checks of its constructor (`check`), its reader (`read`) and the tables of docs/stability.md (`table`).

A reader leaves out fields it does not know, so that it reads the files of later versions, unless the record lists one
in `requires`: then the file would be misunderstood without it, and is refused. Objects inside a record follow the
same rules.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ncdeploy.errors import FileError, InputError

REQUIRES = "requires"
MAX_REQUIRES = 100
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field may hold. words: for messages; fits: of a value in JSON or in Python; read: JSON to Python."""

    words: str
    fits: Callable[[Any], object]
    read: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, kw_only=True)
class Field:
    """One line of a table. vital: a record with a value other than the default lists the field in `requires`."""

    name: str
    kind: Kind
    meaning: str
    since: str
    vital: bool
    optional: bool
    default: Any


def about(kind: Kind, meaning: str, *, since: str = "0.1.0", vital: bool = False) -> dict[str, Any]:
    """Metadata for `dataclasses.field`."""
    return {"kind": kind, "meaning": meaning, "since": since, "vital": vital}


def table(cls: Any) -> tuple[Field, ...]:
    """The fields of a record, in order. Optional ones have a default, which is what their absence means."""
    return tuple(
        Field(
            name=f.name,
            optional=f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING,
            default=f.default if f.default_factory is dataclasses.MISSING else f.default_factory(),
            **f.metadata,
        )
        for f in dataclasses.fields(cls)
    )


def check(record: Any) -> None:
    """Raise InputError unless every field of a dataclass holds what its table says."""
    for field in table(record):
        _check(field, getattr(record, field.name))


def read(cls: type[T], record: Any) -> T:
    """The dataclass that a JSON object describes; fields that the class does not have are left out.

    Raises InputError, naming the field, for one that is missing or wrong, and for one that the record requires and
    this version does not know.
    """
    if not isinstance(record, dict):
        raise InputError(f"got {_shown(record)}, expected an object")
    known = table(cls)
    names = {field.name for field in known}
    needed = record.get(REQUIRES, [])
    if not is_texts(needed) or len(needed) > MAX_REQUIRES:
        raise InputError(f"{REQUIRES}: got {_shown(needed)}, expected a list of names")
    for name in needed:
        if name not in names:
            raise InputError(f"needs the field {name[:60]!a}, which this version does not know; update ncdeploy")
    values = {}
    for field in known:
        if field.name not in record:
            if not field.optional:
                raise InputError(f"{field.name} is missing, expected {field.kind.words}")
            continue
        _check(field, record[field.name])
        try:
            values[field.name] = field.kind.read(record[field.name])
        except (FileError, InputError) as e:
            raise InputError(f"{field.name}: {e}") from e
    return cls(**values)


def read_format(what: str, key: str, version: int, record: Mapping[str, Any]) -> None:
    """Raise FileError, beginning with `what`, unless the record is of the format version that this one reads."""
    found = record.get(key)
    if found != version or not is_integer(found):
        shown = "no format" if found is None else f"{key} {_shown(found)}"
        raise FileError(f"{what} has {shown}, this version reads {version}; update ncdeploy")


def required(record: Any) -> dict[str, list[str]]:
    """The entry `requires` of a dataclass that is about to be written: nothing, or its vital fields in use."""
    names = [f.name for f in table(record) if f.vital and getattr(record, f.name) != f.default]
    return {REQUIRES: names} if names else {}


def is_integer(v: Any) -> bool:
    """Whether it is an integer, which True is not."""
    return isinstance(v, int) and not isinstance(v, bool)


def is_texts(v: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(v, list | tuple) and all(isinstance(text, str) for text in v)


def _check(field: Field, value: Any) -> None:
    if not field.kind.fits(value):
        raise InputError(f"{field.name}: got {_shown(value)}, expected {field.kind.words}")


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:60]
    except (TypeError, ValueError, RecursionError):
        return ascii(value)[:60]
