"""Runs ReduceMean, GlobalMaxPool, LogSoftmax and LRN."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import Call, Operand, Scratch, Step, attributes, scalar
from engine.shapes import positive


def reduce_mean(node: Node, inputs: Sequence[Operand]) -> Step:
    """Return the mean along some axes, or all."""
    found = attributes(node, axes=(), keepdims=1, noop_with_empty_axes=0)
    shape = inputs[0].shape
    axes = tuple(sorted({positive(node, axis, len(shape)) for axis in found["axes"]}))
    if not axes:
        if found["noop_with_empty_axes"]:
            return Step(shape, None)
        axes = tuple(range(len(shape)))
    count = prod(shape[axis] for axis in axes)
    if not count:
        raise ModelError(f"ReduceMean '{node.name}': the mean of no numbers in {shape}")
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    out_shape = kept if found["keepdims"] else tuple(size for axis, size in enumerate(shape) if axis not in axes)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        means = out.reshape(kept)
        total = partial(np.add.reduce, arrays[0], axes, None, means, True)
        return [total, partial(np.multiply, means, scalar(1 / count), out=means)]

    return Step(out_shape, bind)


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
