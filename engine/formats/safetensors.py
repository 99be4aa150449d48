"""Reads and writes safetensors: a JSON header of names, dtypes, shapes and offsets, then the numbers.

It follows the README of that project. The card, if there is one, is the entry `card` of the header's `__metadata__`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.formats.content import MAX_ARRAYS, MAX_BYTES, Content, array_of, reading, write_whole
from engine.graph import Array, ModelError
from engine.model_card import ModelCard

METADATA = "__metadata__"
MAX_HEADER = 10_000_000  # bytes: a tenth of the format's limit, ten times the size of MAX_ARRAYS entries
KINDS = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "u2",
    "I16": "i2",
    "F16": "f2",
    "BF16": "bf16",
    "U32": "u4",
    "I32": "i4",
    "F32": "f4",
    "U64": "u8",
    "I64": "i8",
    "F64": "f8",
}


def read_safetensors(path: Path) -> Content:
    """Return the arrays, and the card if there is one; raises ModelError if the file breaks a rule of the format."""
    with reading(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ModelError(f"a file of {size} bytes; allowed are {MAX_BYTES}")
        return parse_safetensors(file, size)


def write_safetensors(path: Path, arrays: Mapping[str, Array], card: ModelCard) -> None:
    """Write arrays and card: whole or not at all; raises OSError if the folder cannot be written."""
    names = {np.dtype(kind): name for name, kind in KINDS.items() if kind != "bf16"}
    # Each array starts at a multiple of its items' size: the wider types go first.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, object] = {METADATA: {"format": "np", "card": card.to_json()}}
    end = 0
    for name in order:
        start, end = end, end + arrays[name].nbytes
        dtype = names[arrays[name].dtype.newbyteorder("=")]
        header[name] = {"dtype": dtype, "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.ascontiguousarray(arrays[name])
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)

    write_whole(path, write)


def parse_safetensors(file: BinaryIO, size: int) -> Content:
    """Read arrays and card from a file of `size` bytes."""
    start = file.read(8)
    if len(start) < 8:
        raise ModelError(f"not a .safetensors file: only {len(start)} bytes")
    length = int.from_bytes(start, "little")
    if length > min(MAX_HEADER, size - 8):
        raise ModelError(f"not a .safetensors file, or cut off: a header of {length} bytes in {size} bytes")
    header = _header(file.read(length))
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"'{METADATA}' should hold strings by name")
    if len(header) > MAX_ARRAYS:
        raise ModelError(f"{len(header)} arrays; allowed are {MAX_ARRAYS}")
    places = {name: _place(name, entry) for name, entry in header.items()}
    order = sorted(places, key=lambda name: places[name][2:])
    reached, body = 0, size - 8 - length
    for name in order:
        _, _, begin, end = places[name]
        if begin != reached or end < begin:
            raise ModelError(f"array '{name}' lies at {begin}..{end}, expected it to start at {reached}")
        reached = end
    if reached != body:
        raise ModelError(f"the arrays take {reached} bytes, the file has {body} for them")
    # Each array has separate bytes: a view of the whole file would keep all others in memory.
    arrays = {}
    for name in order:
        kind, shape, begin, end = places[name]
        arrays[name] = array_of(name, file.read(end - begin), kind, shape)
    card = ModelCard.from_json(metadata["card"]) if "card" in metadata else None
    return Content({name: arrays[name] for name in places}, card)


def _header(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"not a .safetensors file: its header is not JSON: {error}") from error
    if not isinstance(found, dict) or not text.startswith(b"{"):
        raise ModelError("not a .safetensors file: its header is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ModelError("a name appears twice in the header")
    return found


def _place(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"array '{name}': expected dtype, shape and data_offsets, found {entry!r:.80}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelError(f"array '{name}': dtype {kind!r:.20}; allowed are {', '.join(KINDS)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ModelError(f"array '{name}': shape {shape!r:.60} at {offsets!r:.60} is invalid")
    return KINDS[kind], tuple(shape), offsets[0], offsets[1]


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in found)
