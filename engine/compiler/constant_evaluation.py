"""Evaluates operators on constant arrays of any data type, as exporters use them to compute shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node, Shape, UnsupportedOperator
from engine.shapes import positive, reshaped, slices

# onnx.TensorProto.DataType -> the dtype in the engine
DTYPES = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float32,
    11: np.float64,
    16: np.float32,
}
MAX_NUMBERS = 1 << 28  # of one value, 1 GiB of float32: the limit of what a small file can request

Function = Callable[..., Array]


def evaluate(node: Node, *inputs: Array) -> Array:
    """Return the only output of the node.

    Raises:
        ModelError: inputs or attributes that do not fit together, or an output of more than MAX_NUMBERS.
        UnsupportedOperator: a data type that the engine lacks.
    """
    try:
        return FUNCTIONS[node.op_type](node, *inputs)
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, MemoryError) as error:
        raise ModelError(f"{node.op_type} '{node.name}' cannot be computed: {error}") from error


def dtype_of(node: Node) -> type[np.generic]:
    """Return the target data type of a Cast; raises UnsupportedOperator for one that the engine lacks."""
    code = node.attributes.get("to", 0)
    if code not in DTYPES:
        raise UnsupportedOperator(
            f"{node.op_type} '{node.name}': to={code}; supported are {', '.join(map(str, DTYPES))}"
        )
    return DTYPES[code]


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


FUNCTIONS: Mapping[str, Function] = {
    "Add": _binary(np.add),
    "Cast": lambda node, x: x.astype(dtype_of(node)),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Flatten": _view,
    "Gather": _gather,
    "Identity": lambda node, x: x,
    "Mul": _binary(np.multiply),
    "Reshape": _view,
    "Slice": lambda node, x: x[slices(node, x.shape)],
    "Squeeze": _view,
    "Sub": _binary(np.subtract),
    "Transpose": lambda node, x: np.transpose(x, node.attributes.get("perm")),
    "Unsqueeze": _view,
}
