"""Reads a pickle as data: interprets only the opcodes of plain records, and calls only functions of a closed table.

The caller gives the table, from exact names to safe functions; any other name is refused. The opcodes are those of
protocols 2 to 5 in `pickletools`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.graph import ModelError

MAX_BYTES = 16 << 20  # text with four bytes for each character would take 64 MB
MAX_OPCODES = 1_000_000

Call = Callable[..., Any]


def shown(item: Any) -> str:
    """Return the start of an object's repr for a message; of a container only its type: it may contain itself."""
    return f"{item!r:.60}" if isinstance(item, str | int | float | None) else f"a {type(item).__name__}"


def read_pickle(data: bytes, known: Mapping[str, Call], find: Callable[[Any], Any]) -> Any:
    """Return the object that one pickle describes.

    `known` maps the allowed names ('collections.OrderedDict') to the function to call for each, and starts of names,
    with a dot at their end ('pathlib.'), likewise; `find` returns the object for a persistent id.

    Raises:
        ModelError: damaged, too big, or with a name or an opcode that is not allowed.
    """
    if len(data) > MAX_BYTES:
        raise ModelError(f"a pickle of {len(data)} bytes; allowed are {MAX_BYTES}")
    return read_first_pickle(data, known, find)[0]


def read_first_pickle(data: bytes, known: Mapping[str, Call], find: Callable[[Any], Any]) -> tuple[Any, int]:
    """Return the object that the data begin with, and its length in bytes; arguments and errors as `read_pickle`."""
    machine = _Machine(data[:MAX_BYTES], known, find)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error, OverflowError) as error:
        raise ModelError(f"damaged pickle: {type(error).__name__}: {error!s:.80}") from error


class UnknownName(ModelError):
    """The pickle names a class or function that the table does not have."""


class Named:
    """Represents a name of the table on the stack."""

    def __init__(self, name: str, call: Call) -> None:
        self.name = name
        self.call = call


class Ignored:
    """Replaces an object that is allowed but not needed; it ignores all its arguments."""

    def __init__(self, *_: Any) -> None:
        pass


class _Machine:
    """Holds the stack, the memo and the position in the data."""

    def __init__(self, data: bytes, known: Mapping[str, Call], find: Callable[[Any], Any]) -> None:
        self.data = data
        self.at = 0
        self.known = known
        self.find = find
        self.stack: list[Any] = []
        self.marks: list[int] = []  # where groups of objects on the stack begin
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = self.take(1)
            if code == b".":
                return self.stack.pop()
            if code not in _OPCODES:
                raise ModelError(f"pickle opcode {code!r} is not allowed in a model file")
            _OPCODES[code](self)
        raise ModelError(f"a pickle of more than {MAX_OPCODES} opcodes")

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise ModelError("damaged pickle: it ends too early")
        self.at += count
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode()

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def push(self, item: Any) -> None:
        self.stack.append(item)

    def name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        call = self.known.get(full) or next(
            (call for key, call in self.known.items() if key.endswith(".") and full.startswith(key)), None
        )
        if call is None:
            raise UnknownName(f"its pickle names '{full:.80}', which is not allowed in a file of weights; refused")
        self.push(Named(full, call))

    def reduce(self) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        if not isinstance(named, Named) or not isinstance(arguments, tuple):
            raise ModelError("its pickle calls an object that is no name; refused")
        self.push(named.call(*arguments))

    def build(self) -> None:
        # The state of an OrderedDict is PyTorch's '_metadata', which is not needed.
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Ignored):
            return
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise ModelError("its pickle sets the state of an object; refused")

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Ignored):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise ModelError("damaged pickle: items for an object that is no dict")
        # Only plain keys: hashing tuples of tuples of the same tuple would take exponential time.
        if not all(isinstance(key, str | int | float | None) for key in items[::2]):
            raise ModelError("its pickle has a dict whose keys are neither text nor numbers; refused")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Ignored):
            return
        if not isinstance(target, list):
            raise ModelError("damaged pickle: items for an object that is no list")
        target.extend(items)

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ModelError("damaged pickle: too few objects for a tuple")
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(found)


def _pop_two(machine: _Machine) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


def _stack_global(machine: _Machine) -> None:
    module, name = _pop_two(machine)
    machine.name(module, name)


_OPCODES: Mapping[bytes, Callable[[_Machine], object]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),  # LONG1
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.push(m.take(m.number("<I")).decode()),
    b"\x8c": lambda m: m.push(m.take(m.number("<B")).decode()),
    b"\x8d": lambda m: m.push(m.take(m.number("<Q")).decode()),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    b"C": lambda m: m.push(m.take(m.number("<B"))),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.push([]),  # EMPTY_SET: a list does for all allowed content
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"l": lambda m: m.push(m.since_mark()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"s": lambda m: m.set_items(_pop_two(m)),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"\x90": lambda m: m.append(m.since_mark()),  # ADDITEMS
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": lambda m: m.name(m.line(), m.line()),  # GLOBAL
    b"\x93": _stack_global,
    b"R": lambda m: m.reduce(),
    b"\x81": lambda m: m.reduce(),  # NEWOBJ: equivalent for the names of the table
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.push(m.find(m.stack.pop())),  # BINPERSID
}
