"""Operators on arrays known beforehand, of any data type: what shapes are computed with, evaluated before planning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node, Shape, UnsupportedOperator

# onnx.TensorProto.DataType -> what the engine keeps it as
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
MAX_NUMBERS = 1 << 28  # of one value, 1 GiB of float32: a small file must not ask for more

Function = Callable[..., Array]


def evaluate(node: Node, *inputs: Array) -> Array:
    """The node's one output.

    Raises:
        ModelError: inputs or attributes that do not fit together, or an output of more than MAX_NUMBERS.
        UnsupportedOperator: a data type that the engine lacks.
    """
    try:
        return FUNCTIONS[node.op_type](node, *inputs)
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, MemoryError) as error:
        raise ModelError(f"{node.op_type} '{node.name}' cannot be computed: {error}") from error


def dtype_of(node: Node) -> type[np.generic]:
    """The data type that a Cast makes.

    Raises:
        UnsupportedOperator: one that the engine lacks.
    """
    code = node.attributes.get("to", 0)
    if code not in DTYPES:
        raise UnsupportedOperator(
            f"{node.op_type} '{node.name}': to={code}; supported are {', '.join(map(str, DTYPES))}"
        )
    return DTYPES[code]


def reshaped(node: Node, shape: Shape) -> Shape:
    """The shape that a Reshape, Squeeze, Unsqueeze or Flatten with its settings as attributes gives to an input's.

    Raises:
        ModelError: it has another number of numbers, or there are no such axes.
    """
    found = _RESHAPERS[node.op_type](node, shape)
    if prod(found) != prod(shape) or any(size < 0 for size in found):
        raise ModelError(f"{node.op_type} '{node.name}': an input of shape {shape} does not fit {found}")
    return found


def slices(node: Node, shape: Shape) -> tuple[slice, ...]:
    """What a Slice with its settings as attributes takes of each axis, in Python's terms.

    Raises:
        ModelError: settings that do not fit together or the input.
    """
    starts, ends = node.attributes.get("starts"), node.attributes.get("ends")
    if starts is None or ends is None or len(starts) != len(ends):
        raise ModelError(f"Slice '{node.name}': starts {starts!r:.60} and ends {ends!r:.60} do not fit")
    axes = node.attributes.get("axes", tuple(range(len(starts))))
    steps = node.attributes.get("steps", (1,) * len(starts))
    if len(axes) != len(starts) or len(steps) != len(starts) or 0 in steps:
        raise ModelError(f"Slice '{node.name}': axes {axes!r:.60} or steps {steps!r:.60} do not fit {starts!r:.60}")
    taken = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = positive(node, axis, len(shape))
        first, last, _ = slice(start, end, step).indices(shape[place])
        taken[place] = slice(first, None if last < 0 else last, step)
        if len(range(first, last, step)) == 0:
            taken[place] = slice(0, 0)
    return tuple(taken)


def positive(node: Node, axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        ModelError: there is no such axis.
    """
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise ModelError(f"{node.op_type} '{node.name}': axis {axis!r:.20}, but its input has {rank} axes")
    return axis % rank


def _reshape(node: Node, shape: Shape) -> Shape:
    wanted = list(node.attributes["shape"])
    for place, size in enumerate(wanted):
        if size == 0 and not node.attributes.get("allowzero"):
            if place >= len(shape):
                raise ModelError(f"Reshape '{node.name}': {tuple(wanted)} keeps an axis that {shape} lacks")
            wanted[place] = shape[place]
    if wanted.count(-1) == 1:
        known = -prod(wanted)
        wanted[wanted.index(-1)] = prod(shape) // known if known else 0
    return tuple(wanted)


def _squeeze(node: Node, shape: Shape) -> Shape:
    if "axes" not in node.attributes:
        return tuple(size for size in shape if size != 1)
    gone = {positive(node, axis, len(shape)) for axis in node.attributes["axes"]}
    if any(shape[axis] != 1 for axis in gone):
        raise ModelError(f"Squeeze '{node.name}': axes {sorted(gone)} of {shape} are not all of length 1")
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _unsqueeze(node: Node, shape: Shape) -> Shape:
    axes = node.attributes.get("axes", ())
    rank = len(shape) + len(axes)
    places = {positive(node, axis, rank) for axis in axes}
    if len(places) != len(axes):
        raise ModelError(f"Unsqueeze '{node.name}': axes {axes!r:.60} name one twice")
    rest = iter(shape)
    return tuple(1 if axis in places else next(rest) for axis in range(rank))


def _flatten(node: Node, shape: Shape) -> Shape:
    axis = node.attributes.get("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise ModelError(f"Flatten '{node.name}': axis {axis}, but its input has {len(shape)} axes")
    return prod(shape[:axis]), prod(shape[axis:])


_RESHAPERS: Mapping[str, Callable[[Node, Shape], Shape]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


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
