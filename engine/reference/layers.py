"""Plain loops of the layers: convolutions, pools, norms, matrix products, softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import ceil, exp, floor, log, prod, sqrt
from typing import Any

import numpy as np

from engine.graph import Array, Node, Shape

Function = Callable[..., Array | tuple[Array, ...]]


def conv(node: Node, x: Array, weight: Array, *more: Array) -> Array:
    """Every output number is the sum over channels of its group, and over taps that lie in the input.

    After the bias there may come a residual (`compiler.fusion.fuse_residuals`), added to the output. The padding is 0,
    or a number for each channel (`compiler.bias_deferral.defer_biases`).
    """
    if node.attributes.get("padding"):
        begin, end = _pads(node, x.shape[2:], weight.shape[2:])
        framed = [size + b + e for size, b, e in zip(x.shape[2:], begin, end, strict=True)]
        inside = tuple(slice(b, b + size) for b, size in zip(begin, x.shape[2:], strict=True))
        values = np.reshape(node.attributes["padding"], (-1, *(1,) * len(framed)))
        wide = np.broadcast_to(values, (*x.shape[:2], *framed)).astype(np.float32)
        wide[(slice(None), slice(None), *inside)] = x
        bare = {**node.attributes, "padding": 0.0, "auto_pad": "VALID"}
        return conv(replace(node, attributes=bare), wide, weight, *more)
    residual = more[-1] if node.attributes.get("residual") else None
    bias = more[0] if len(more) > (residual is not None) else None
    group = node.attributes.get("group", 1)
    slides = _slides(node, x.shape[2:], weight.shape[2:])
    inputs, outputs = weight.shape[1], weight.shape[0] // group
    out = np.zeros((x.shape[0], weight.shape[0], *(len(starts) for starts, _ in slides)))
    for n, o, *place in np.ndindex(out.shape):
        total = 0.0 if bias is None else float(bias[o])
        for tap, at in _taps(slides, place, x.shape[2:]):
            for c in range(inputs):
                total += float(x[(n, o // outputs * inputs + c, *at)]) * float(weight[(o, c, *tap)])
        out[(n, o, *place)] = total
    return out if residual is None else out + residual


def max_pool(node: Node, x: Array, *bias: Array) -> Array | tuple[Array, Array]:
    """The largest number of each window that lies in the input, and a bias (`compiler.fusion.delay_epilogues`).

    A second output says where it lies: its place among all numbers of x, row by row or (`storage_order` 1) column by
    column.
    """
    size = x.shape[2:]
    slides = _slides(node, size, node.attributes["kernel_shape"])
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    indices = np.zeros(out.shape, np.int64)
    order = "F" if node.attributes.get("storage_order") else "C"
    for n, c, *place in np.ndindex(out.shape):
        where = max((at for _, at in _taps(slides, place, size)), key=lambda at: _rank(x[(n, c, *at)]))
        out[(n, c, *place)] = x[(n, c, *where)] + sum(float(added[c]) for added in bias)
        within = np.ravel_multi_index(where, size, order=order)  # type: ignore[call-overload]
        indices[(n, c, *place)] = (n * x.shape[1] + c) * prod(size) + within
    return (out, indices) if len(node.outputs) > 1 else out


def average_pool(node: Node, x: Array) -> Array:
    """The mean of each window; with `count_include_pad` zeros in the padding count too, beyond it never."""
    size, kernel = x.shape[2:], node.attributes["kernel_shape"]
    slides = _slides(node, size, kernel)
    begin, end = _pads(node, size, kernel)
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    for n, c, *place in np.ndindex(out.shape):
        numbers = [float(x[(n, c, *at)]) for _, at in _taps(slides, place, size)]
        count = len(numbers)
        if node.attributes.get("count_include_pad"):
            count = sum(1 for _ in _taps(slides, place, size, begin, end))
        out[(n, c, *place)] = sum(numbers) / count
    return out


def global_average_pool(node: Node, x: Array) -> Array:
    """The mean of each channel."""
    out = np.zeros((*x.shape[:2], *(1,) * (x.ndim - 2)))
    for n, c in np.ndindex(*x.shape[:2]):
        out[n, c] = sum(float(number) for number in x[n, c].ravel()) / x[n, c].size
    return out


def batch_normalization(node: Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """Each channel less its mean, over its deviation, scaled and shifted."""
    out = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        deviation = sqrt(float(var[c]) + node.attributes.get("epsilon", 1e-5))
        out[n, c] = (x[n, c].astype(np.float64) - float(mean[c])) / deviation * float(scale[c]) + float(bias[c])
    return out


def conv_transpose(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Every input number adds to the outputs around it, tap by tap; what lies beyond the output is dropped."""
    size, group, kernel = x.shape[2:], node.attributes.get("group", 1), weight.shape[2:]
    strides, dilations = _per_axis(node, "strides", size), _per_axis(node, "dilations", size)
    begin, out_size = _transposed_pads(node, size, kernel)
    inputs, outputs = x.shape[1] // group, weight.shape[1]
    out = np.zeros((x.shape[0], outputs * group, *out_size))
    if bias is not None:
        out += bias.reshape(-1, *(1,) * len(size))
    for n, c, *place in np.ndindex(x.shape):
        for o in range(outputs):
            for tap in np.ndindex(*kernel):
                at = tuple(place[a] * strides[a] + tap[a] * dilations[a] - begin[a] for a in range(len(size)))
                if all(0 <= at[a] < out_size[a] for a in range(len(size))):
                    out[(n, c // inputs * outputs + o, *at)] += float(x[(n, c, *place)]) * float(weight[(c, o, *tap)])
    return out


def _transposed_pads(node: Node, size: Shape, kernel: Shape) -> tuple[Shape, Shape]:
    """What is dropped before the output, and its size."""
    strides, dilations = _per_axis(node, "strides", size), _per_axis(node, "dilations", size)
    extra = node.attributes.get("output_padding") or (0,) * len(size)
    mode, wanted = node.attributes.get("auto_pad", "NOTSET"), node.attributes.get("output_shape")
    pads = node.attributes.get("pads") or (0,) * 2 * len(size)
    begin, out = [], []
    for a in range(len(size)):
        reach = (size[a] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + extra[a]
        if wanted is None and mode in ("NOTSET", "VALID"):
            before, after = (pads[a], pads[a + len(size)]) if mode == "NOTSET" else (0, 0)
            begin.append(before)
            out.append(reach - before - after)
        else:
            out.append(wanted[a - len(size)] if wanted else size[a] * strides[a])
            total = reach - out[a]
            begin.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return tuple(begin), tuple(out)


def global_max_pool(node: Node, x: Array) -> Array:
    """The largest number of each channel."""
    out = np.zeros((*x.shape[:2], *(1,) * (x.ndim - 2)))
    for n, c in np.ndindex(*x.shape[:2]):
        out[n, c] = max(x[n, c].ravel(), key=_rank)
    return out


def _rank(number: float) -> tuple[bool, float]:
    """NaN is the largest of all, as in np.maximum."""
    return number != number, number


def lrn(node: Node, x: Array) -> Array:
    """x / (bias + alpha / size * the sum of squares of the channels around it) ** beta."""
    size = node.attributes["size"]
    alpha, beta = node.attributes.get("alpha", 1e-4), node.attributes.get("beta", 0.75)
    out = np.zeros(x.shape)
    for n, c, *place in np.ndindex(x.shape):
        around = range(max(0, c - (size - 1) // 2), min(x.shape[1], c + size // 2 + 1))
        total = sum(float(x[(n, other, *place)]) ** 2 for other in around)
        out[(n, c, *place)] = x[(n, c, *place)] / (node.attributes.get("bias", 1.0) + alpha / size * total) ** beta
    return out


def reduce_mean(node: Node, x: Array) -> Array:
    """The mean along some axes, or all."""
    axes = sorted(axis % x.ndim for axis in node.attributes.get("axes", ()))
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return x
    axes = axes or [*range(x.ndim)]
    out = np.zeros(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))
    for place in np.ndindex(x.shape):
        out[tuple(0 if axis in axes else at for axis, at in enumerate(place))] += float(x[place])
    out /= prod(x.shape[axis] for axis in axes)
    return out if node.attributes.get("keepdims", 1) else out.squeeze(tuple(axes))


def matmul(node: Node, a: Array, b: Array) -> Array:
    """Sums of products of a's last axis with b's last but one; a vector is a row, or a column."""
    rows, columns = a.reshape(1, -1) if a.ndim == 1 else a, b.reshape(-1, 1) if b.ndim == 1 else b
    outer = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows = np.broadcast_to(rows, (*outer, *rows.shape[-2:]))
    columns = np.broadcast_to(columns, (*outer, *columns.shape[-2:]))
    out = np.zeros((*outer, rows.shape[-2], columns.shape[-1]))
    for *at, i, j in np.ndindex(out.shape):
        out[(*at, i, j)] = sum(float(rows[(*at, i, k)]) * float(columns[(*at, k, j)]) for k in range(rows.shape[-1]))
    out = out[..., 0, :] if a.ndim == 1 else out
    return out[..., 0] if b.ndim == 1 else out


def gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    """alpha * A' @ B' + beta * C."""
    a = a.T if node.attributes.get("transA") else a
    b = b.T if node.attributes.get("transB") else b
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    out = np.zeros((a.shape[0], b.shape[1]))
    added = np.zeros(out.shape) if c is None else np.broadcast_to(c, out.shape)
    for i, j in np.ndindex(out.shape):
        total = sum(float(a[i, k]) * float(b[k, j]) for k in range(a.shape[1]))
        out[i, j] = alpha * total + beta * float(added[i, j])
    return out


def softmax(node: Node, x: Array) -> Array:
    """exp(x) over its sum along the axis; the largest is subtracted first, so that nothing overflows."""
    rows = np.moveaxis(x, node.attributes.get("axis", -1), -1)
    out = np.zeros(rows.shape)
    for place in np.ndindex(*rows.shape[:-1]):
        largest = float(max(rows[place]))
        powers = [exp(float(number) - largest) for number in rows[place]]
        out[place] = [power / sum(powers) for power in powers]
    return np.moveaxis(out, -1, node.attributes.get("axis", -1))


def log_softmax(node: Node, x: Array) -> Array:
    """x less the logarithm of the sum of exp(x) along the axis."""
    rows = np.moveaxis(x, node.attributes.get("axis", -1), -1)
    out = np.zeros(rows.shape)
    for place in np.ndindex(*rows.shape[:-1]):
        largest = float(max(rows[place]))
        total = log(sum(exp(float(number) - largest) for number in rows[place]))
        out[place] = [float(number) - largest - total for number in rows[place]]
    return np.moveaxis(out, -1, node.attributes.get("axis", -1))


FUNCTIONS: Mapping[str, Function] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "LRN": lrn,
    "LogSoftmax": log_softmax,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "ReduceMean": reduce_mean,
    "Softmax": softmax,
}

Slide = tuple[list[int], list[int]]  # along one axis: where windows start (below 0 in the padding), and their taps


def _slides(node: Node, size: Shape, kernel: Shape) -> list[Slide]:
    strides, dilations = _per_axis(node, "strides", size), _per_axis(node, "dilations", size)
    rounding = ceil if node.attributes.get("ceil_mode") else floor
    slides = []
    for axis, (begin, end) in enumerate(zip(*_pads(node, size, kernel), strict=True)):
        taps = [tap * dilations[axis] for tap in range(kernel[axis])]
        last = rounding((size[axis] + begin + end - taps[-1] - 1) / strides[axis]) * strides[axis] - begin
        starts = list(range(-begin, last + 1, strides[axis]))
        # A window that ceil_mode adds may not start in the padding after the input.
        slides.append(([s for s in starts if s < size[axis]] if rounding is ceil else starts, taps))
    return slides


def _pads(node: Node, size: Shape, kernel: Shape) -> tuple[Shape, Shape]:
    mode, rank = node.attributes.get("auto_pad", "NOTSET"), len(size)
    if mode == "NOTSET":
        pads = tuple(node.attributes.get("pads") or (0,) * 2 * rank)
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    strides, dilations = _per_axis(node, "strides", size), _per_axis(node, "dilations", size)
    begin, end = [], []
    for axis in range(rank):
        windows = ceil(size[axis] / strides[axis])
        reach = (windows - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(reach - size[axis], 0)
        before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begin.append(before)
        end.append(total - before)
    return tuple(begin), tuple(end)


def _taps(
    slides: list[Slide], place: list[int], size: Shape, begin: Shape | None = None, end: Shape | None = None
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(tap, position) of each tap of a window that lies in the input, or in its padding where that is given."""
    begin, end = begin or (0,) * len(size), end or (0,) * len(size)
    for tap in np.ndindex(*(len(taps) for _, taps in slides)):
        at = tuple(slides[axis][0][place[axis]] + slides[axis][1][tap[axis]] for axis in range(len(size)))
        if all(-begin[axis] <= at[axis] < size[axis] + end[axis] for axis in range(len(size))):
            yield tap, at


def _per_axis(node: Node, name: str, size: Shape) -> Any:
    return node.attributes.get(name) or (1,) * len(size)
