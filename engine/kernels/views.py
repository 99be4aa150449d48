"""Flatten, Identity and Dropout: the same numbers, perhaps in another shape; a plan runs nothing for them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from engine.graph import Node
from engine.kernels.linear import resolve_axis
from engine.kernels.step import Kernel, Operand, Step, attributes, unsupported


def flatten(node: Node, inputs: Sequence[Operand]) -> Step:
    """Two axes: the product of those before `axis`, and of the rest."""
    shape = inputs[0].shape
    axis = resolve_axis(node, attributes(node, axis=1)["axis"], len(shape), end=True)
    return Step((prod(shape[:axis]), prod(shape[axis:])), None)


def identity(node: Node, inputs: Sequence[Operand]) -> Step:
    """The input itself."""
    attributes(node)
    return Step(inputs[0].shape, None)


def dropout(node: Node, inputs: Sequence[Operand]) -> Step:
    """The input itself: only training drops anything."""
    attributes(node, ratio=0.5, seed=0)
    if len(inputs) > 2 or len(node.outputs) > 1:
        raise unsupported(node, "training_mode", "input 2 or a mask", "inference, one output")
    return Step(inputs[0].shape, None)


FLATTEN: tuple[Kernel, ...] = (flatten,)
IDENTITY: tuple[Kernel, ...] = (identity,)
DROPOUT: tuple[Kernel, ...] = (dropout,)
