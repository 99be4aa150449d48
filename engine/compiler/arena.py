"""The arena: one block of memory for all of a plan's buffers, shared by those that never live at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from engine.graph import Array, Shape
from engine.kernels.step import ALIGNMENT, aligned_bytes


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
    return aligned_bytes(place(buffers))


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
