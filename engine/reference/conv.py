"""Runs Conv and ConvTranspose by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from engine.graph import Array, Node, Shape
from engine.reference.windows import padding_of, per_axis, slides_of, taps_of


def conv(node: Node, x: Array, weight: Array, *more: Array) -> Array:
    """Sum over the channels of the group and the taps in the input for every output element.

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
    out = np.zeros((x.shape[0], weight.shape[0], *(len(starts) for starts, _ in slides)))
    for n, o, *place in np.ndindex(out.shape):
        total = 0.0 if bias is None else float(bias[o])
        for tap, at in taps_of(slides, place, x.shape[2:]):
            for c in range(inputs):
                total += float(x[(n, o // outputs * inputs + c, *at)]) * float(weight[(o, c, *tap)])
        out[(n, o, *place)] = total
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


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
}
