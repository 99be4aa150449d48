"""Shares memory between the pool and its workers: numbered slots in one memfd, each with one owner at a time.

A memfd has no name in /dev/shm, so no file can be left behind: the kernel frees it with the last process that holds it.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from camapp.core.arrays import Floats
from camapp.system.process import shared_memory

_ALIGN = 64


@dataclass(frozen=True)
class SlotLayout:
    """Holds the sizes of the slots, from which both sides compute the same offsets.

    Attributes:
        slots: their number.
        input_shape: (items, C, H, W) float32.
        output_shapes: (items, ...) float32, one for each output of the net.
    """

    slots: int
    input_shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SlotLayout:
        """Return the layout from a decoded JSON object (see `asdict`)."""
        outputs = tuple(tuple(shape) for shape in values["output_shapes"])
        return cls(values["slots"], tuple(values["input_shape"]), outputs)

    @property
    def stride(self) -> int:
        """Return the bytes from one slot to the next."""
        return sum(_bytes(shape) for shape in (self.input_shape, *self.output_shapes))


@dataclass(frozen=True)
class Slot:
    """Memory of one batch and its results."""

    index: int
    input: Floats
    outputs: tuple[Floats, ...]

    def first(self, items: int) -> tuple[Floats, tuple[Floats, ...]]:
        """Return the input and the outputs of the first items; a full batch's outputs may lack a batch axis."""
        if items == len(self.input):
            return self.input, self.outputs
        return self.input[:items], tuple(output[:items] for output in self.outputs)


class Slots:
    """Maps all slots of a pool into this process."""

    def __init__(self, fd: int, layout: SlotLayout) -> None:
        self.fd = fd
        self.layout = layout
        self._map = mmap.mmap(fd, layout.stride * layout.slots)
        self._slots = [self._view(index) for index in range(layout.slots)]

    @classmethod
    def create(cls, layout: SlotLayout) -> Slots:
        """Allocate the memory. Raises OSError if there is not enough."""
        return cls(shared_memory("camapp-slots", layout.stride * layout.slots), layout)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    def __len__(self) -> int:
        return len(self._slots)

    def close(self) -> None:
        """Close this process's descriptor; the mapping is released with the last view."""
        self._slots = []
        del self._map
        os.close(self.fd)

    def _view(self, index: int) -> Slot:
        offset = index * self.layout.stride
        views: list[Floats] = []
        for shape in (self.layout.input_shape, *self.layout.output_shapes):
            count = int(np.prod(shape))
            views.append(np.frombuffer(self._map, np.float32, count, offset).reshape(shape))
            offset += _bytes(shape)
        return Slot(index, views[0], tuple(views[1:]))


def _bytes(shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) * 4 // _ALIGN) * _ALIGN
