"""Runs QuantizeLinear and DequantizeLinear; others are made of them (`engine.formats.quantized`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from engine.graph import FLOAT32, Array, ModelError, Node
from engine.kernels.step import Call, Kernel, Layout, Operand, Scratch, Step, attributes, clip, scalar, unsupported
from engine.shapes import positive

WHOLE = ("uint8", "int8", "uint16", "int16")


def quantize(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute x / scale + zero point, rounded (halves to the even number), within the range of the output's type."""
    by = _by_axis(node, inputs)
    dtype = inputs[2].dtype if len(inputs) > 2 else np.dtype(np.uint8)
    if dtype.name not in WHOLE:
        raise unsupported(node, "data type", dtype.name, ", ".join(WHOLE))
    limits = np.iinfo(dtype)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        (room, *zero), scale = scratch, arrays[1].reshape(by)
        calls: list[Call] = [partial(np.divide, arrays[0], scale, out=room), partial(np.rint, room, out=room)]
        if zero:
            calls += [partial(np.copyto, zero[0], arrays[2].reshape(by)), partial(np.add, room, zero[0], out=room)]
        calls.append(partial(clip, room, scalar(limits.min), scalar(limits.max), room))
        return [*calls, partial(np.copyto, out, room, "unsafe")]

    rooms = (Scratch(inputs[0].shape, True), *([Scratch(by)] if len(inputs) > 2 else []))
    return Step(inputs[0].shape, bind, rooms, layout=Layout.ANY, strided=True, strided_out=True, dtype=dtype)


def dequantize(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute (x - zero point) * scale, exactly but for one rounding."""
    by = _by_axis(node, inputs)
    if len(inputs) > 2 and inputs[2].dtype != inputs[0].dtype:
        kinds = f"{inputs[0].dtype.name} and {inputs[2].dtype.name}"
        raise ModelError(f"{node.op_type} '{node.name}': data types {kinds} do not go together")

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = [partial(np.copyto, out, arrays[0], "unsafe")]
        if scratch:
            zero = scratch[0]
            calls += [
                partial(np.copyto, zero, arrays[2].reshape(by), "unsafe"),
                partial(np.subtract, out, zero, out=out),
            ]
        return [*calls, partial(np.multiply, out, arrays[1].reshape(by), out=out)]

    rooms = (Scratch(by),) if len(inputs) > 2 else ()
    return Step(inputs[0].shape, bind, rooms, layout=Layout.ANY, strided=True, strided_out=True, dtype=FLOAT32)


def _by_axis(node: Node, inputs: Sequence[Operand]) -> tuple[int, ...]:
    """Return the shape in which scale and zero point broadcast: one number, or one for each entry of an axis."""
    found = attributes(node, axis=1, block_size=0, output_dtype=0, saturate=1, precision=0)
    for name in ("block_size", "output_dtype", "precision"):
        if found[name]:
            raise unsupported(node, name, found[name], "0")
    shape, sizes = inputs[0].shape, {operand.shape for operand in inputs[1:]}
    one = all(size in ((), (1,)) for size in sizes)
    if len(inputs) not in (2, 3) or inputs[1].dtype != FLOAT32 or (len(sizes) > 1 and not one):
        listed = ", ".join(f"{operand.dtype.name} {operand.shape}" for operand in inputs)
        raise ModelError(f"{node.op_type} '{node.name}': {listed} do not fit one another")
    if one:
        return (1,) * len(shape)
    axis = positive(node, found["axis"], len(shape))
    if sizes != {(shape[axis],)}:
        raise ModelError(f"{node.op_type} '{node.name}': scales {inputs[1].shape} for axis {axis} of {shape}")
    return tuple(size if at == axis else 1 for at, size in enumerate(shape))


KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "DequantizeLinear": (dequantize,),
    "QuantizeLinear": (quantize,),
}
