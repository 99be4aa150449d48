"""Step: what a kernel answers for one node before any memory exists, and the small tools that kernels share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.graph import Array, Node, Shape, UnsupportedOperator

Call = Callable[[], object]


@dataclass(frozen=True)
class Operand:
    """An input of a node: its shape, and its array where that is known when planning (a parameter)."""

    shape: Shape
    constant: Array | None = None


@dataclass(frozen=True)
class Scratch:
    """A float32 buffer that a step wants for itself.

    With `fill` None it holds anything and shares memory with other steps; with a number it is filled once, when the
    plan is made, and belongs to the step alone (the border of padded inputs).
    """

    shape: Shape
    fill: float | None = None


Bind = Callable[[Sequence[Array], Array, Sequence[Array]], list[Call]]


@dataclass(frozen=True)
class Step:
    """A kernel's offer for a node.

    Attributes:
        shape: of the node's output.
        bind: (inputs, output, scratch) -> prepared calls; None: the output is the first input in another shape.
        scratch: buffers that `bind` gets, in this order.
        macs: multiply-adds.
    """

    shape: Shape
    bind: Bind | None
    scratch: tuple[Scratch, ...] = ()
    macs: int = 0


Kernel = Callable[[Node, Sequence[Operand]], Step | None]
"""Offers a step, or None where another kernel of the same operator suits the node better."""


def attributes(node: Node, **defaults: Any) -> dict[str, Any]:
    """The node's attributes over their defaults.

    Raises:
        UnsupportedOperator: the node has an attribute that is not among `defaults`, or an unknown activation.
    """
    for name, value in node.attributes.items():
        if name not in defaults:
            raise UnsupportedOperator(f"{node.op_type} '{node.name}': attribute {name}={value!r:.60} is not supported")
    if node.attributes.get("activation", "") not in ("", *ACTIVATIONS):
        raise unsupported(node, "activation", node.attributes["activation"], ", ".join(ACTIVATIONS))
    return {**defaults, **node.attributes}


def unsupported(node: Node, attribute: str, value: object, allowed: str) -> UnsupportedOperator:
    """The error for a value of an attribute that kernels do not run."""
    return UnsupportedOperator(f"{node.op_type} '{node.name}': {attribute}={value!r:.60}; supported is {allowed}")


def scalar(value: float) -> Array:
    """A 0-d float32: ufuncs take it twice as fast as a Python number."""
    return np.array(value, np.float32)


def gemm(a: Array, b: Array, out: Array) -> Call:
    """out = a @ b, prepared; 2-D operands, or stacks of them that broadcast.

    Raises:
        ValueError: an operand that NumPy would not hand to BLAS (it would run plain loops instead, far slower).
    """
    for name, operand in (("a", a), ("b", b), ("out", out)):
        if not blasable(operand):
            raise ValueError(f"gemm: {name} of shape {operand.shape}, strides {operand.strides} does not fit BLAS")
    # np.dot costs a third of np.matmul's call, but its stacks mean something else and its `out` must be contiguous.
    if a.ndim == b.ndim == 2 and out.flags.c_contiguous:
        return partial(np.dot, a, b, out)
    return partial(np.matmul, a, b, out)


def blasable(array: Array) -> bool:
    """Whether matmul passes the last two axes to BLAS as they lie (NumPy's own `is_blasable2d`, either order)."""
    (rows, columns), (row, column) = array.shape[-2:], array.strides[-2:]
    item = array.itemsize

    def fits(slow: int, fast: int, length: int) -> bool:
        return fast == item and slow % item == 0 and slow // item >= length

    return array.dtype == np.float32 and (fits(row, column, columns) or fits(column, row, rows))


def finish(out: Array, bias: Array | None, activation: str) -> list[Call]:
    """Bias (broadcast against `out`) and activation, in place."""
    calls: list[Call] = []
    if bias is not None:
        calls.append(partial(np.add, out, bias, out=out))
    return calls + activate(out, activation)


def activate(out: Array, activation: str) -> list[Call]:
    """The activation that `engine.passes` fused into a node, in place."""
    return [ACTIVATIONS[activation](out)] if activation else []


ACTIVATIONS: Mapping[str, Callable[[Array], Call]] = {"Relu": lambda out: partial(np.maximum, out, scalar(0), out=out)}
