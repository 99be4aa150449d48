"""Choices: who picks among the kernels that offer to run a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.graph import Node
from engine.kernels.step import Operand, Step


class Choices:
    """The fixed rule: the first kernel that suits the node, in the registry's order. It never looks at a clock."""

    def pick(self, node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> str:
        """Name of the kernel to run the node with, one of `offers`."""
        return next(iter(offers))
