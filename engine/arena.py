"""The arena: one block of memory for all of a plan's buffers, shared by those that never live at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from engine.graph import Array, Shape

ALIGNMENT = 64  # bytes: a cache line, and more than any vector register


@dataclass(eq=False)
class Buffer:
    """float32 numbers that live from moment `first` to moment `last`, both included."""

    shape: Shape
    first: int
    last: int
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Room that it takes in the arena."""
        return -(-4 * prod(self.shape) // ALIGNMENT) * ALIGNMENT

    def view(self, arena: Array) -> Array:
        """The buffer's own part of the arena."""
        return arena[self.offset : self.offset + 4 * prod(self.shape)].view(np.float32).reshape(self.shape)


def allocate(buffers: Sequence[Buffer]) -> Array:
    """Place the buffers and give the bytes that hold them all."""
    return _aligned_bytes(place(buffers))


def place(buffers: Sequence[Buffer]) -> int:
    """Give each buffer the lowest offset free for its whole life, the largest first; returns the arena's size."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda item: -item.nbytes):
        rivals = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
        buffer.offset = 0
        for other in sorted(rivals, key=lambda item: item.offset):
            if buffer.offset + buffer.nbytes <= other.offset:
                break
            buffer.offset = max(buffer.offset, other.offset + other.nbytes)
        placed.append(buffer)
    return max((buffer.offset + buffer.nbytes for buffer in placed), default=0)


def aligned(array: Array) -> Array:
    """The array, or a copy if it begins within a cache line: then vectors read from it would each take two lines."""
    if not array.ctypes.data % ALIGNMENT:
        return array
    copy = _aligned_bytes(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _aligned_bytes(size: int) -> Array:
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
