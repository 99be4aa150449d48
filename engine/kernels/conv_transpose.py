"""Runs ConvTranspose: one matrix product computes what each input pixel adds around it, summed tap by tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import MAX_TAPS, Call, Operand, Scratch, Step, attributes, gemm, unsupported


@dataclass(frozen=True)
class Spread:
    """Holds the geometry along the spatial axes, with one number for each axis.

    Attributes:
        kernel: taps.
        strides: between the outputs of neighbouring input pixels.
        dilations: between taps.
        begin: number of elements cut off before the output.
        out: size of the output.
    """

    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape
    out: Shape

    def full(self, size: Shape) -> Shape:
        """Return the size of a buffer for all that an input of this size adds, and for the output."""
        axes = zip(size, self.strides, self.kernel, self.dilations, self.begin, self.out, strict=True)
        return tuple(max((s - 1) * step + (k - 1) * d + 1, b + o) for s, step, k, d, b, o in axes)


def conv_transpose(node: Node, inputs: Sequence[Operand]) -> Step:
    """Run any kernel, stride, dilation, padding and group."""
    found = attributes(node, **_ATTRIBUTES)
    data, weight, group = inputs[0].shape, inputs[1].shape, found["group"]
    if len(data) < 3 or len(weight) != len(data) or weight[0] != data[1] or group < 1 or data[1] % group:
        raise ModelError(f"ConvTranspose '{node.name}': weight {weight} in {group} groups does not fit input {data}")
    if len(inputs) > 2 and inputs[2].shape != (weight[1] * group,):
        raise ModelError(f"ConvTranspose '{node.name}': bias {inputs[2].shape}; expected ({weight[1] * group},)")
    if found["kernel_shape"] not in (None, weight[2:]):
        raise ModelError(f"ConvTranspose '{node.name}': kernel_shape={found['kernel_shape']}, its weight is {weight}")
    if prod(weight[2:]) > MAX_TAPS:
        raise ModelError(f"ConvTranspose '{node.name}': weight {weight}; allowed are {MAX_TAPS} taps")
    spread = spread_of(node, data[2:], weight[2:])
    batch, size, taps, pixels = data[0], data[2:], prod(weight[2:]), prod(data[2:])
    channels = weight[1] * group
    full = spread.full(size)
    scratch = (Scratch((batch, group, weight[1] * taps, pixels)), Scratch((batch, channels, *full)))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        added, buffer = scratch
        columns = arrays[0].reshape(batch, group, data[1] // group, pixels)
        matrix = arrays[1].reshape(group, data[1] // group, weight[1] * taps).transpose(0, 2, 1)
        by_tap = added.reshape(batch, channels, *weight[2:], *size)
        calls: list[Call] = [gemm(matrix, columns, added), partial(buffer.fill, 0)]
        for tap in np.ndindex(*weight[2:]):
            starts = [place * dilation for place, dilation in zip(tap, spread.dilations, strict=True)]
            window = tuple(
                slice(start, start + (length - 1) * stride + 1, stride)
                for start, length, stride in zip(starts, size, spread.strides, strict=True)
            )
            target = buffer[(slice(None), slice(None), *window)]
            calls.append(partial(np.add, target, by_tap[(slice(None), slice(None), *tap)], out=target))
        inside = tuple(slice(b, b + o) for b, o in zip(spread.begin, spread.out, strict=True))
        result = buffer[(slice(None), slice(None), *inside)]
        if len(arrays) > 2:
            return [*calls, partial(np.add, result, arrays[2].reshape(-1, *(1,) * len(size)), out=out)]
        return [*calls, partial(np.copyto, out, result)]

    shape = (batch, channels, *spread.out)
    return Step(shape, bind, scratch, macs=batch * data[1] * pixels * weight[1] * taps)


_ATTRIBUTES = {
    "auto_pad": "NOTSET",
    "dilations": None,
    "group": 1,
    "kernel_shape": None,
    "output_padding": None,
    "output_shape": None,
    "pads": None,
    "strides": None,
}


def spread_of(node: Node, size: Shape, kernel: Shape) -> Spread:
    """Return the geometry of a node for an input of this spatial size.

    Raises:
        ModelError: attributes that do not fit the input.
        UnsupportedOperator: an `auto_pad` that ONNX does not define.
    """
    rank, has = len(size), node.attributes
    strides, dilations = has.get("strides") or (1,) * rank, has.get("dilations") or (1,) * rank
    extra, mode = has.get("output_padding") or (0,) * rank, has.get("auto_pad", "NOTSET")
    pads, wanted = has.get("pads") or (0,) * 2 * rank, has.get("output_shape")
    if mode not in ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise unsupported(node, "auto_pad", mode, "NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    for name, values, minimum in (("strides", strides, 1), ("dilations", dilations, 1), ("output_padding", extra, 0)):
        if len(values) != rank or min(values) < minimum:
            raise ModelError(f"ConvTranspose '{node.name}': {name}={values!r:.60} for {rank} axes")
    if len(pads) != 2 * rank or min(pads) < 0:
        raise ModelError(f"ConvTranspose '{node.name}': pads={pads!r:.60} for {rank} axes")
    reach = tuple(
        (s - 1) * step + (k - 1) * d + 1 + e
        for s, step, k, d, e in zip(size, strides, kernel, dilations, extra, strict=True)
    )
    if wanted is None and mode.startswith("SAME"):
        wanted = tuple(s * step for s, step in zip(size, strides, strict=True))
    if wanted is None:
        begin = pads[:rank] if mode != "VALID" else (0,) * rank
        end = pads[rank:] if mode != "VALID" else (0,) * rank
        wanted = tuple(r - b - e for r, b, e in zip(reach, begin, end, strict=True))
    else:
        wanted = tuple(wanted[-rank:])
        total = [r - w for r, w in zip(reach, wanted, strict=True)]
        begin = tuple(t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total)
    if min(wanted) < 1 or min(begin) < 0:
        raise ModelError(f"ConvTranspose '{node.name}': an input {size} with kernel {kernel} gives no output {wanted}")
    return Spread(kernel, strides, dilations, tuple(begin), wanted)
