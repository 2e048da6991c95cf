"""A stack machine for pickle programs without callables: it makes numbers, text, lists, dicts, tensors and Records.

A pickle is a program, and Python's own machine calls whatever the program names. This one walks the opcodes that
`pickletools` decodes. A global is a name, looked up in the closed tables it was given; one that is not there is refused
by name. Only what stands in the tables is called, BUILD fills a Record and nothing else, and opcodes that no model
needs are refused. Nothing recurses, and opcodes and bytes are counted.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MAX_OPCODES = 1_000_000
MAX_KEY = 1000  # characters
MAX_ARGUMENTS = 8
ARRAY = "numpy.ndarray"  # a Record of one keeps what would fill it, unread


class RefusedError(Exception):
    """The file asks for something that is not allowed, or makes no sense. Its text is shown to people."""


@dataclass(frozen=True)
class Name:
    """A global that the file mentions: text, nothing more."""

    text: str


@dataclass(eq=False)
class Record:
    """What is left of an object: the name of its class and its attributes."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Record({self.kind!r})"  # not the state, which may refer to itself


@dataclass(frozen=True, eq=False)
class Storage:
    """The flat values [n] that tensors are views of; only their kind until the bytes have been read."""

    dtype: torch.dtype
    count: int
    values: Tensor | None = None


@dataclass(frozen=True)
class Number:
    """A NumPy dtype, of one number."""

    code: str


@dataclass
class Budget:
    """What may still be spent; shared with the storages inside."""

    opcodes: int
    bytes: int

    def opcode(self) -> None:
        self.opcodes -= 1
        if self.opcodes < 0:
            raise RefusedError(f"has more than {MAX_OPCODES} pickle opcodes, far more than a model needs")

    def take(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise RefusedError("its tensors are together larger than the file")


class Machine:
    """One run over one pickle. Any exception means a damaged file; `RefusedError` says why in words.

    calls:    global -> what REDUCE does in its place, called with the budget and the arguments
    classes:  global -> what NEWOBJ makes in its place
    storages: global -> dtype, for persistent identifiers; empty where there must be none
    read:     (key, dtype, count) -> the values of a storage that stands elsewhere in the file; None = it has them later
    """

    def __init__(
        self, budget: Budget, *, calls: Mapping[str, Callable[..., Any]] | None = None,
        classes: Mapping[str, Callable[[], Any]] | None = None, storages: Mapping[str, torch.dtype] | None = None,
        read: Callable[[Any, torch.dtype, int], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.budget, self.calls, self.classes, self.storages = budget, calls or {}, classes or {}, storages or {}
        self.read = read
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under the open marks
        self.memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            self.budget.opcode()
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise RefusedError(f"uses the pickle opcode {name}, which no model needs")
        raise EOFError

    def to_mark(self) -> list[Any]:
        """The items above the last mark, which goes away."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.to_mark()

    def get(self, index: Any) -> None:
        self.stack.append(self.memo[int(index)])

    def put(self, index: Any) -> None:
        self.memo[int(index)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def gather(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def gather_tuple(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(tuple(items))

    def gather_list(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(items)

    def gather_dict(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append({})
        self.fill(items)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedError(f"appends to {kind_of(self.stack[-1])}")
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise RefusedError(f"sets items of {kind_of(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (type(key) is str and len(key) <= MAX_KEY) and not (type(key) is int and key.bit_length() <= 64):
                raise RefusedError(f"has {kind_of(key)} as a key; expected short text or whole numbers")
            target[key] = value

    def append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        items = self.to_mark()
        self.extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.fill([key, value])

    def set_items(self, _: Any) -> None:
        items = self.to_mark()
        self.fill(items)

    def name(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        self.look_up(module, attribute)

    def stack_name(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(attribute) is not str:
            raise RefusedError(f"names {kind_of(module)} and {kind_of(attribute)} as a global")
        self.look_up(module, attribute)

    def look_up(self, module: str, attribute: str) -> None:
        text = f"{module}.{attribute}"
        if text not in self.calls and text not in self.classes and text not in self.storages:
            raise RefusedError(f"asks for {_printable(text)}, which is not on the list of what a model may hold")
        self.stack.append(Name(text))

    def call(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not Name or called.text not in self.calls or type(arguments) is not tuple:
            raise RefusedError(f"calls {called.text if type(called) is Name else kind_of(called)}")
        if len(arguments) > MAX_ARGUMENTS:
            raise RefusedError(f"calls {called.text} with {len(arguments)} arguments")
        self.stack.append(self.calls[called.text](self.budget, *arguments))

    def make(self, _: Any) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if type(made) is not Name or made.text not in self.classes or arguments != ():
            raise RefusedError(f"makes {made.text if type(made) is Name else kind_of(made)} in an unusual way")
        self.stack.append(self.classes[made.text]())

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Number and type(state) is tuple and state[1] in ("<", "|"):
            return
        if type(target) is type(state) is dict and list(state) == ["_metadata"]:  # of a state dict; it says nothing
            return
        if type(target) is Record and target.kind == ARRAY and type(state) is tuple and not target.state:
            target.state = {"state": state}
            return
        if type(target) is not Record or type(state) is not dict or target.state:
            raise RefusedError(f"sets the state of {kind_of(target)}")
        target.state = state

    def storage(self, _: Any) -> None:
        """A persistent identifier, which stands for the storage that this pickle is about."""
        identifier = self.stack.pop()
        if not self.storages:
            raise RefusedError("refers to something outside by a persistent identifier")
        if type(identifier) is not tuple or len(identifier) not in (5, 6) or identifier[5:] not in ((), (None,)):
            raise RefusedError("holds a storage of unknown layout")
        kind, name, key, _, count = identifier[:5]
        if kind != "storage" or type(name) is not Name or type(count) is not int:
            raise RefusedError("holds a storage of unknown layout")
        dtype = self.storages[name.text]
        values = None if self.read is None else self.read(key, dtype, count)
        self.stack.append(Storage(dtype=dtype, count=count, values=values))


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, size: None,
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
    "GET": Machine.get,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "PUT": Machine.put,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.memoize,
    "TUPLE": Machine.gather_tuple,
    "TUPLE1": lambda machine, _: machine.gather(1),
    "TUPLE2": lambda machine, _: machine.gather(2),
    "TUPLE3": lambda machine, _: machine.gather(3),
    "LIST": Machine.gather_list,
    "DICT": Machine.gather_dict,
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "ADDITEMS": Machine.appends,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": Machine.stack_name,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.make,
    "BUILD": Machine.build,
    "BINPERSID": Machine.storage,
}


def kind_of(value: Any) -> str:
    return value.text if type(value) is Name else f"a value of type {type(value).__name__}"


def _printable(text: str) -> str:
    """Text from the file, fit for one line of a terminal."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:100])
