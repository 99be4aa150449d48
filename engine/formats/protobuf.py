"""Reads Protocol Buffers' wire format by a schema with bounds, and writes it field by field, without a library.

A message is a sequence of fields: a varint of `number << 3 | wire type`, then a varint (0), 8 bytes (1), a length and
that many bytes (2), or 4 bytes (5). See protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from engine.graph import Array, ModelError

MAX_FIELDS = 300_000  # ResNet-101 has 20,000; as many empty nodes take 100 MB and half a second
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Schema = Mapping[int, tuple[str, Any]]
"""Field number -> (name, kind). Kinds are 'int', 'float', 'double', 'bytes', 'text', another schema, or a list of one
of these if the field is repeated. Repeated floats and doubles are returned as their bytes, ['numbers'] (whole numbers,
perhaps millions) as an int64 array, all else as a list."""

CHUNK = 1 << 20  # bytes of packed numbers that are decoded at a time


def read_message(data: memoryview, schema: Schema) -> dict[str, Any]:
    """Return the fields of a message by name, without absent and unknown ones; repeated ones always have a value.

    Raises:
        ModelError: cut off, of another wire type than in the schema, or of more than MAX_FIELDS fields in all.
    """
    return MessageReader().message(data, schema)


class MessageReader:
    """Reads messages of one file and counts their fields, so that a small file cannot become millions of objects."""

    def __init__(self) -> None:
        self.left = MAX_FIELDS

    def message(self, data: memoryview, schema: Schema) -> dict[str, Any]:
        """Return the fields of a message as `read_message` does, with its errors."""
        found: dict[str, Any] = {name: [] for name, kind in schema.values() if isinstance(kind, list)}
        for number, wire, value in self._fields(data):
            if number not in schema:
                continue
            name, kind = schema[number]
            if isinstance(kind, list):
                found[name].extend(self._repeated(name, kind[0], wire, value))
            else:
                found[name] = self._value(name, kind, wire, value)
        for name, kind in schema.values():
            if kind in (["float"], ["double"]):
                found[name] = b"".join(found[name])
            elif kind == ["numbers"]:
                found[name] = np.concatenate([np.zeros(0, np.int64), *found[name]])
        return found

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int, Any]]:
        at = 0
        while at < len(data):
            key, at = self._varint(data, at)
            wire = key & 7
            if wire == VARINT:
                value, at = self._varint(data, at)
                yield key >> 3, wire, value
                continue
            if wire == BYTES:
                length, at = self._varint(data, at)
            elif wire in (FIXED64, FIXED32):
                length = 8 if wire == FIXED64 else 4
            else:
                raise ModelError(f"damaged: a field of wire type {wire}")
            if length > len(data) - at:
                raise ModelError(f"cut off or damaged: a field of {length} bytes where {len(data) - at} are left")
            yield key >> 3, wire, data[at : at + length]
            at += length

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        self.left -= 1
        if self.left < 0:
            raise ModelError(f"more than {MAX_FIELDS} fields and numbers; store weights as raw data")
        result = 0
        for index, byte in enumerate(data[at : at + 10]):
            result |= (byte & 127) << 7 * index
            if byte < 128:
                return result & (1 << 64) - 1, at + index + 1
        raise ModelError("cut off or damaged: a number that does not end")

    def _value(self, name: str, kind: Any, wire: int, value: Any) -> Any:
        expected = {"int": VARINT, "float": FIXED32, "double": FIXED64}.get(
            kind if isinstance(kind, str) else "", BYTES
        )
        if wire != expected:
            raise ModelError(f"damaged: field '{name}' has wire type {wire}, expected {expected}")
        if kind == "int":
            return value - (1 << 64) if value >= 1 << 63 else value
        if kind == "float":
            return struct.unpack("<f", value)[0]
        if kind == "text":
            try:
                return bytes(value).decode()
            except UnicodeDecodeError as error:
                raise ModelError(f"damaged: field '{name}' is not UTF-8 text: {error}") from error
        return value if kind == "bytes" else self.message(value, kind)

    def _repeated(self, name: str, kind: Any, wire: int, value: Any) -> Iterable[Any]:
        if kind in ("float", "double"):
            if wire not in (BYTES, FIXED32 if kind == "float" else FIXED64):
                raise ModelError(f"damaged: field '{name}' has wire type {wire}")
            return [value]
        if kind == "numbers":
            return _numbers(value) if wire == BYTES else [np.array([self._value(name, "int", wire, value)], np.int64)]
        if kind == "int" and wire == BYTES:  # packed
            return self._packed(value)
        return [self._value(name, kind, wire, value)]

    def _packed(self, data: memoryview) -> Iterator[int]:
        at = 0
        while at < len(data):
            value, at = self._varint(data, at)
            yield value - (1 << 64) if value >= 1 << 63 else value


def _numbers(data: memoryview) -> Iterator[Array]:
    """Yield packed varints in arrays: for each place within a number, all numbers at once."""
    at = 0
    while at < len(data):
        raw = np.frombuffer(data[at : at + CHUNK], np.uint8)
        ends = np.flatnonzero(raw < 128)
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        lengths = ends - starts + 1
        if not len(ends) or lengths.max() > 10:
            raise ModelError("cut off or damaged: a number that does not end")
        found = np.zeros(len(ends), np.uint64)
        for place in range(lengths.max()):
            long = np.flatnonzero(lengths > place)
            found[long] |= (raw[starts[long] + place] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * place)
        yield found.view(np.int64)
        at += int(ends[-1]) + 1


def int_field(number: int, value: int) -> bytes:
    """Return a field that holds a whole number."""
    return _varint(number << 3 | VARINT) + _varint(value & (1 << 64) - 1)


def float_field(number: int, value: float) -> bytes:
    """Return a field that holds a float32."""
    return _varint(number << 3 | FIXED32) + struct.pack("<f", value)


def bytes_field(number: int, *parts: bytes | str) -> bytes:
    """Return a field that holds text, bytes, or a message of these parts."""
    data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
