"""Evaluates operators on arrays of any data type: constants, from which exporters compute shapes, and late data.

Here are the operators that are often used so, and those whose output's shape depends on data; all others are evaluated
by their kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, isfinite, prod

import numpy as np

from engine.compiler.suppression import non_max_suppression
from engine.graph import Array, ModelError, Node, Shape
from engine.shapes import positive, reshaped, slices

MAX_NUMBERS = 1 << 28  # of one value, 1 GiB of float32: the limit of what a small file can request

Function = Callable[..., Array]


def evaluate(node: Node, *inputs: Array) -> Array:
    """Return the only output of the node.

    Raises:
        ModelError: inputs or attributes that do not fit together, or an output of more than MAX_NUMBERS.
    """
    try:
        return FUNCTIONS[node.op_type](node, *inputs)
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, MemoryError) as error:
        raise ModelError(f"{node.op_type} '{node.name}' cannot be computed: {error}") from error


def _view(node: Node, x: Array) -> Array:
    return x.reshape(reshaped(node, x.shape))


def _binary(ufunc: Callable[[Array, Array], Array]) -> Function:
    def compute(node: Node, a: Array, b: Array) -> Array:
        _bounded(np.broadcast_shapes(a.shape, b.shape))
        return np.asarray(ufunc(a, b)).astype(a.dtype, copy=False)

    return compute


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if (b == 0).any():
        raise ZeroDivisionError("division of whole numbers by 0")
    return np.trunc(np.divide(a, b)) if (np.abs(a) < 1 << 52).all() else a // b


def _gather(node: Node, x: Array, indices: Array) -> Array:
    axis = positive(node, node.attributes.get("axis", 0), x.ndim)
    _bounded((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return np.take(x, indices.astype(np.int64), axis=axis)


def _concat(node: Node, *parts: Array) -> Array:
    _bounded((sum(part.size for part in parts),))
    return np.concatenate(parts, axis=positive(node, node.attributes.get("axis"), parts[0].ndim))  # type: ignore[arg-type]


def _constant_of_shape(node: Node, *_: Array) -> Array:
    shape = tuple(int(size) for size in node.attributes["shape"])
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).ravel()
    _bounded(shape)
    return np.full(shape, value[0], value.dtype)


def _bounded(shape: Shape) -> None:
    if prod(shape) > MAX_NUMBERS:
        raise ModelError(f"a value of shape {shape!r:.60} is larger than the {MAX_NUMBERS} numbers allowed")


def _range(node: Node, start: Array, limit: Array, delta: Array) -> Array:
    if any(each.size != 1 or each.dtype != start.dtype for each in (start, limit, delta)):
        raise ValueError(f"{start.shape}, {limit.shape} and {delta.shape} should be single numbers of one type")
    first, last, step = start.item(), limit.item(), delta.item()
    if not all(map(isfinite, (first, last, step))) or not step:
        raise ValueError(f"from {first} to {last} in steps of {step}")
    count = max(0, ceil((last - first) / step))
    _bounded((count,))
    return np.asarray(first + np.arange(count) * step, start.dtype)


def _non_zero(node: Node, x: Array) -> Array:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


FUNCTIONS: Mapping[str, Function] = {
    "Add": _binary(np.add),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Flatten": _view,
    "Gather": _gather,
    "Identity": lambda node, x: x,
    "Mul": _binary(np.multiply),
    "NonMaxSuppression": non_max_suppression,
    "NonZero": _non_zero,
    "Range": _range,
    "Reshape": _view,
    "Slice": lambda node, x: x[slices(node, x.shape)],
    "Squeeze": _view,
    "Sub": _binary(np.subtract),
    "Transpose": lambda node, x: np.transpose(x, node.attributes.get("perm")),
    "Unsqueeze": _view,
}
