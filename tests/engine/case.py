"""Case: an operator with shapes of its inputs and its attributes, and seeded numbers to run it on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.graph import Array, Node, Shape


@dataclass(frozen=True)
class Case:
    name: str
    op_type: str
    shapes: tuple[Shape, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    in_torch: bool = True  # False: PyTorch has no such thing to compare with

    def inputs(self) -> list[Array]:
        # RandomState's stream is frozen for good (NEP 19), so the golden file needs to hold no inputs.
        state = np.random.RandomState(zlib.crc32(self.name.encode()))
        arrays = [state.uniform(-2, 2, shape).astype(np.float32) for shape in self.shapes]
        if self.op_type == "BatchNormalization":
            arrays[4] = np.abs(arrays[4]) + np.float32(0.1)
        if self.op_type == "Gather":
            arrays[1] = np.floor(arrays[1]).astype(np.int64)  # -2, -1, 0 or 1
        return arrays

    def node(self) -> Node:
        names = tuple(f"in{index}" for index in range(len(self.shapes)))
        return Node(self.op_type, names, ("out",), self.attributes, self.name)
