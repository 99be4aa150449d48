"""Places all buffers of a plan in one block of memory, the arena; buffers with disjoint lifetimes share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from engine.graph import FLOAT32, Array, Shape
from engine.kernels.step import ALIGNMENT, aligned_bytes


@dataclass(eq=False)
class Buffer:
    """Describes numbers that live from action `first` to action `last`, both included."""

    shape: Shape
    first: int
    last: int
    offset: int = 0
    dtype: np.dtype[Any] = FLOAT32

    @property
    def nbytes(self) -> int:
        """Bytes in the arena, whole cache lines."""
        return -(-self.dtype.itemsize * prod(self.shape) // ALIGNMENT) * ALIGNMENT

    def view(self, arena: Array) -> Array:
        """Return the buffer's part of the arena."""
        size = self.dtype.itemsize * prod(self.shape)
        return arena[self.offset : self.offset + size].view(self.dtype).reshape(self.shape)


def allocate(buffers: Sequence[Buffer]) -> Array:
    """Place the buffers and return the arena's bytes."""
    return aligned_bytes(place(buffers))


def place(buffers: Sequence[Buffer]) -> int:
    """Give each buffer the lowest offset free for its lifetime, the largest first; return the arena's size."""
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
