"""Runs Conv, ConvTranspose, MaxPool and AveragePool by plain loops over windows, after ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil, floor, prod
from typing import Any

import numpy as np

from engine.graph import Array, Node, Shape

Slide = tuple[list[int], list[int]]  # along one axis: where windows start (below 0 in the padding), and their taps


def slides_of(node: Node, size: Shape, kernel: Shape) -> list[Slide]:
    """Return where the windows along each axis start, and their taps."""
    strides, dilations = per_axis(node, "strides", size), per_axis(node, "dilations", size)
    rounding = ceil if node.attributes.get("ceil_mode") else floor
    slides = []
    for axis, (begin, end) in enumerate(zip(*padding_of(node, size, kernel), strict=True)):
        taps = [tap * dilations[axis] for tap in range(kernel[axis])]
        last = rounding((size[axis] + begin + end - taps[-1] - 1) / strides[axis]) * strides[axis] - begin
        starts = list(range(-begin, last + 1, strides[axis]))
        # A window that ceil_mode adds may not start in the padding after the input.
        slides.append(([s for s in starts if s < size[axis]] if rounding is ceil else starts, taps))
    return slides


def padding_of(node: Node, size: Shape, kernel: Shape) -> tuple[Shape, Shape]:
    """Return the padding before and after each axis."""
    mode, rank = node.attributes.get("auto_pad", "NOTSET"), len(size)
    if mode == "NOTSET":
        pads = tuple(node.attributes.get("pads") or (0,) * 2 * rank)
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    strides, dilations = per_axis(node, "strides", size), per_axis(node, "dilations", size)
    begin, end = [], []
    for axis in range(rank):
        windows = ceil(size[axis] / strides[axis])
        reach = (windows - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(reach - size[axis], 0)
        before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begin.append(before)
        end.append(total - before)
    return tuple(begin), tuple(end)


def taps_of(
    slides: list[Slide], place: list[int], size: Shape, begin: Shape | None = None, end: Shape | None = None
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (tap, position) for each tap of a window in the input, or in its padding if that is given."""
    begin, end = begin or (0,) * len(size), end or (0,) * len(size)
    for tap in np.ndindex(*(len(taps) for _, taps in slides)):
        at = tuple(slides[axis][0][place[axis]] + slides[axis][1][tap[axis]] for axis in range(len(size)))
        if all(-begin[axis] <= at[axis] < size[axis] + end[axis] for axis in range(len(size))):
            yield tap, at


def per_axis(node: Node, name: str, size: Shape) -> Any:
    """Return an attribute with one number for each axis, 1 if the node lacks it."""
    return node.attributes.get(name) or (1,) * len(size)


def nan_first(number: float) -> tuple[bool, float]:
    """Return a sort key with NaN as the largest number, as in np.maximum."""
    return number != number, number


def conv(node: Node, x: Array, weight: Array, *more: Array) -> Array:
    """Sum over the channels of the group and the taps in the input for every place of the output.

    A residual (`compiler.fusion.fuse_residuals`) may follow the bias and is added to the output. The padding is 0, or a
    number for each channel (`compiler.bias_deferral.defer_biases`).
    """
    if node.attributes.get("padding"):
        begin, end = padding_of(node, x.shape[2:], weight.shape[2:])
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
    slides = slides_of(node, x.shape[2:], weight.shape[2:])
    inputs, outputs = weight.shape[1], weight.shape[0] // group
    values = x.astype(np.float64).reshape(x.shape[0], group, 1, inputs, *x.shape[2:])
    factors = weight.astype(np.float64).reshape(group, outputs, inputs, *weight.shape[2:])
    out = np.zeros((x.shape[0], weight.shape[0], *(len(starts) for starts, _ in slides)))
    channels = (slice(None),) * 3
    for n, *place in np.ndindex(out.shape[0], *out.shape[2:]):
        total = np.zeros((group, outputs)) if bias is None else bias.astype(np.float64).reshape(group, outputs)
        for tap, at in taps_of(slides, place, x.shape[2:]):
            # Multiplied and added one by one: a BLAS may skip zeros, and with them the NaN of 0 * infinity.
            total = total + (factors[channels + tap] * values[n][channels + at]).sum(axis=-1)
        out[(n, slice(None), *place)] = total.ravel()
    return out if residual is None else out + residual


def conv_transpose(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Add every input element to the outputs around it, tap by tap; skip places beyond the output."""
    size, group, kernel = x.shape[2:], node.attributes.get("group", 1), weight.shape[2:]
    strides, dilations = per_axis(node, "strides", size), per_axis(node, "dilations", size)
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
    """Return the number of elements dropped before the output, and its size."""
    strides, dilations = per_axis(node, "strides", size), per_axis(node, "dilations", size)
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


def max_pool(node: Node, x: Array, *bias: Array) -> Array | tuple[Array, Array]:
    """Return the largest element of each window in the input, plus a bias (`compiler.fusion.delay_epilogues`).

    A second output holds its index among all elements of x, in row-major or (`storage_order` 1) column-major order.
    """
    size = x.shape[2:]
    slides = slides_of(node, size, node.attributes["kernel_shape"])
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    indices = np.zeros(out.shape, np.int64)
    order = "F" if node.attributes.get("storage_order") else "C"
    for n, c, *place in np.ndindex(out.shape):
        where = max((at for _, at in taps_of(slides, place, size)), key=lambda at: nan_first(x[(n, c, *at)]))
        out[(n, c, *place)] = x[(n, c, *where)] + sum(float(added[c]) for added in bias)
        within = np.ravel_multi_index(where, size, order=order)  # type: ignore[call-overload]
        indices[(n, c, *place)] = (n * x.shape[1] + c) * prod(size) + within
    if x.dtype.kind != "f":
        out = out.astype(x.dtype)
    return (out, indices) if len(node.outputs) > 1 else out


def average_pool(node: Node, x: Array) -> Array:
    """Return the mean of each window; with `count_include_pad` zeros in the padding count, but none beyond it."""
    size, kernel = x.shape[2:], node.attributes["kernel_shape"]
    slides = slides_of(node, size, kernel)
    begin, end = padding_of(node, size, kernel)
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    for n, c, *place in np.ndindex(out.shape):
        numbers = [float(x[(n, c, *at)]) for _, at in taps_of(slides, place, size)]
        count = len(numbers)
        if node.attributes.get("count_include_pad"):
            count = sum(1 for _ in taps_of(slides, place, size, begin, end))
        out[(n, c, *place)] = sum(numbers) / count
    return out
