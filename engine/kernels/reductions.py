"""Runs the reductions (ReduceSum, ...), GlobalMaxPool, LogSoftmax and LRN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import Call, Kernel, Operand, Scratch, Step, attributes, scalar
from engine.shapes import positive


@dataclass(frozen=True)
class Reduction:
    """Describes a reduction along axes.

    Attributes:
        ufunc: that combines two numbers.
        before: element-wise ufunc of the input.
        after: element-wise ufunc of the result.
        empty: the result of no numbers; None: that of the ufunc.
        mean: the result is divided by their count.
    """

    ufunc: np.ufunc
    before: np.ufunc | None = None
    after: np.ufunc | None = None
    empty: float | None = None
    mean: bool = False


def _reduction(name: str, how: Reduction) -> Kernel:
    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        shape, dtype = inputs[0].shape, inputs[0].dtype
        axes, kept, out_shape = _reduced(node, shape)
        count = prod(shape[axis] for axis in axes)
        if how.mean and (not count or dtype.kind != "f"):
            raise ModelError(f"ReduceMean '{node.name}': the mean of {count} numbers ({dtype}) in {shape}")

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            result, x = out.reshape(kept), arrays[0]
            calls: list[Call] = []
            if how.before is not None:
                calls.append(partial(how.before, x, out=scratch[0]))
                x = scratch[0]
            more = {} if how.empty is None else {"initial": _limit(how.empty, dtype)}
            calls.append(partial(how.ufunc.reduce, x, axes, dtype, result, keepdims=True, **more))
            if how.mean:
                calls.append(partial(np.multiply, result, scalar(1 / count, dtype), out=result))
            return [*calls, partial(how.after, result, out=result)] if how.after is not None else calls

        rooms = () if how.before is None else (Scratch(shape, dtype=dtype),)
        return Step(out_shape, bind if axes or how.before or how.after else None, rooms)

    kernel.__name__ = name
    return kernel


def _limit(value: float, dtype: np.dtype[Any]) -> Any:
    """Return an infinite number, or the end of the range of whole numbers."""
    if dtype.kind == "f":
        return dtype.type(value)
    if dtype.kind == "b":
        return value > 0
    return np.iinfo(dtype).max if value > 0 else np.iinfo(dtype).min


def _reduced(node: Node, shape: Shape) -> tuple[Shape, Shape, Shape]:
    """Return the axes of a reduction, and the shape of its result with all axes and without them."""
    found = attributes(node, axes=(), keepdims=1, noop_with_empty_axes=0)
    axes = tuple(sorted({positive(node, axis, len(shape)) for axis in found["axes"]}))
    if not axes and not found["noop_with_empty_axes"]:
        axes = tuple(range(len(shape)))
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return axes, kept, kept if found["keepdims"] else tuple(s for axis, s in enumerate(shape) if axis not in axes)


def reduce_log_sum_exp(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute log(sum(exp(x))) along axes, the largest x subtracted first if it is finite."""
    shape, dtype = inputs[0].shape, inputs[0].dtype
    axes, kept, out_shape = _reduced(node, shape)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        (powers, largest, strange), result = scratch, out.reshape(kept)
        return [
            partial(np.maximum.reduce, arrays[0], axes, dtype, largest, True, dtype.type(-np.inf)),
            partial(np.isfinite, largest, out=strange),
            partial(np.logical_not, strange, out=strange),
            partial(np.copyto, largest, 0, where=strange),
            partial(np.subtract, arrays[0], largest, out=powers),
            partial(np.exp, powers, out=powers),
            partial(np.add.reduce, powers, axes, dtype, result, True),
            partial(np.log, result, out=result),
            partial(np.add, result, largest, out=result),
        ]

    rooms = (Scratch(shape, dtype=dtype), Scratch(kept, dtype=dtype), Scratch(kept, dtype=np.dtype(np.bool_)))
    return Step(out_shape, bind, rooms)


def global_max_pool(node: Node, inputs: Sequence[Operand]) -> Step:
    """Return the largest number of each channel; all spatial axes stay with length 1."""
    attributes(node)
    shape = inputs[0].shape
    if len(shape) < 3 or not prod(shape[2:]):
        raise ModelError(f"GlobalMaxPool '{node.name}': expected an input (N, C, ...), found {shape}")

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        pixels = arrays[0].reshape(*shape[:2], -1)
        return [partial(np.maximum.reduce, pixels, -1, None, out.reshape(shape[:2]))]

    return Step((*shape[:2], *(1,) * (len(shape) - 2)), bind)


def log_softmax(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute x - log(sum(exp(x))) along an axis, the largest x subtracted first."""
    shape = inputs[0].shape
    axis = positive(node, attributes(node, axis=-1)["axis"], len(shape))
    reduced = (*shape[:axis], 1, *shape[axis + 1 :])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        one, powers = scratch
        return [
            partial(np.maximum.reduce, arrays[0], axis, None, one, True),
            partial(np.subtract, arrays[0], one, out=out),
            partial(np.exp, out, out=powers),
            partial(np.add.reduce, powers, axis, None, one, True),
            partial(np.log, one, out=one),
            partial(np.subtract, out, one, out=out),
        ]

    return Step(shape, bind, (Scratch(reduced), Scratch(shape)))


def lrn(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute x / (bias + alpha / size * the sum of squares of `size` channels around it) ** beta."""
    found = attributes(node, alpha=1e-4, beta=0.75, bias=1.0, size=None)
    shape, size = inputs[0].shape, found["size"]
    if not isinstance(size, int) or size < 1 or len(shape) < 2:
        raise ModelError(f"LRN '{node.name}': size={size!r:.20} channels of an input {shape}")
    limit = shape[1] - 1  # neighbours that a channel can have on a side
    before, after = min((size - 1) // 2, limit), min(size // 2, limit)
    squares = (shape[0], shape[1] + before + after, *shape[2:])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        padded, channels = scratch[0], shape[1]
        windows = [padded[:, start : start + channels] for start in range(before + after + 1)]
        return [
            partial(padded.fill, 0),
            partial(np.square, arrays[0], out=windows[before]),
            partial(np.copyto, out, windows[0]),
            *(partial(np.add, out, window, out=out) for window in windows[1:]),
            partial(np.multiply, out, scalar(found["alpha"] / size), out=out),
            partial(np.add, out, scalar(found["bias"]), out=out),
            partial(np.power, out, scalar(-found["beta"]), out=out),
            partial(np.multiply, out, arrays[0], out=out),
        ]

    return Step(shape, bind, (Scratch(squares),))


_REDUCTIONS: Mapping[str, Reduction] = {
    "ReduceL1": Reduction(np.add, before=np.absolute),
    "ReduceL2": Reduction(np.add, before=np.square, after=np.sqrt),
    "ReduceLogSum": Reduction(np.add, after=np.log),
    "ReduceMax": Reduction(np.maximum, empty=-np.inf),
    "ReduceMean": Reduction(np.add, mean=True),
    "ReduceMin": Reduction(np.minimum, empty=np.inf),
    "ReduceProd": Reduction(np.multiply),
    "ReduceSum": Reduction(np.add),
    "ReduceSumSquare": Reduction(np.add, before=np.square),
}
KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    **{name: (_reduction(name, how),) for name, how in _REDUCTIONS.items()},
    "ReduceLogSumExp": (reduce_log_sum_exp,),
}
