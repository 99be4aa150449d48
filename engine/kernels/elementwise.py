"""Runs element-wise operators of several inputs, Relu and BatchNormalization: one or two passes over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import (
    ACTIVATIONS,
    Bind,
    Call,
    Kernel,
    Layout,
    Operand,
    Scratch,
    Step,
    attributes,
    finish,
    scalar,
    unsupported,
)

BOOL = np.dtype(np.bool_)


def relu(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute max(x, 0)."""
    attributes(node)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return ACTIVATIONS["Relu"](arrays[0], out)

    return _step(inputs[0].shape, bind)


def _binary(ufunc: np.ufunc, **defaults: str) -> Kernel:
    """Return a kernel of two operands, broadcast both ways; with `activation` in `defaults` it can end with one."""

    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        activation = attributes(node, **defaults).get("activation", "")
        shape = together(node, inputs, count=2)

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return [partial(ufunc, arrays[0], arrays[1], out=out), *finish(out, out, (), activation)]

        # An operand that broadcasts over all pixels has the same memory in every layout.
        alike = len(inputs[0].shape) == len(inputs[1].shape) == len(shape) and not any(
            operand.is_parameter for operand in inputs
        )
        return _step(shape, bind) if alike or ufunc is np.add else Step(shape, bind)

    kernel.__name__ = ufunc.__name__
    return kernel


def together(
    node: Node, inputs: Sequence[Operand], dtype: np.dtype[Any] | None = None, count: int | None = None
) -> Shape:
    """Return the shape to which all inputs broadcast; they must be of that data type, or of the first one's.

    Raises:
        ModelError: other data types, shapes that do not broadcast, or not `count` inputs.
    """
    if not inputs or count not in (None, len(inputs)):
        raise ModelError(f"{node.op_type} '{node.name}': {len(inputs)} inputs, expected {count or 'one or more'}")
    for operand in inputs:
        if operand.dtype != (inputs[0].dtype if dtype is None else dtype):
            kinds = " and ".join(operand.dtype.name for operand in inputs)
            raise ModelError(f"{node.op_type} '{node.name}': data types {kinds} do not go together")
    shapes = [operand.shape for operand in inputs]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        listed = " and ".join(map(str, shapes))
        raise ModelError(f"{node.op_type} '{node.name}': shapes {listed} do not go together") from error


def _variadic(ufunc: np.ufunc, *, mean: bool = False) -> Kernel:
    """Return a kernel that applies a ufunc to any number of inputs, one after another."""

    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        attributes(node)
        shape = together(node, inputs)

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            first, *others = arrays
            calls = [partial(np.copyto, out, first)] if not others else [partial(ufunc, first, others[0], out=out)]
            calls += [partial(ufunc, out, other, out=out) for other in others[1:]]
            if mean:
                calls.append(partial(np.multiply, out, scalar(1 / len(arrays), out.dtype), out=out))
            return list(calls)

        return _spread(shape, bind, inputs)

    kernel.__name__ = "mean" if mean else ufunc.__name__
    return kernel


def _spread(shape: Shape, bind: Bind, inputs: Sequence[Operand], **more: Any) -> Step:
    """Return a step that runs in any layout if all that is computed has the output's number of axes."""
    alike = all(len(operand.shape) == len(shape) for operand in inputs if not operand.is_parameter)
    return replace(_step(shape, bind) if alike else Step(shape, bind), **more)


def _comparison(ufunc: np.ufunc, dtype: np.dtype[Any] | None = None) -> Kernel:
    """Return a kernel of two operands, of a data type if one is given, that makes bool."""

    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        attributes(node)

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return [partial(ufunc, arrays[0], arrays[1], out=out)]

        return _spread(together(node, inputs, dtype, 2), bind, inputs, dtype=BOOL)

    kernel.__name__ = ufunc.__name__
    return kernel


def where(node: Node, inputs: Sequence[Operand]) -> Step:
    """Take elements of the second input where the first is true, else of the third."""
    attributes(node)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [partial(np.copyto, out, arrays[2]), partial(np.copyto, out, arrays[1], where=arrays[0])]

    together(node, inputs[:1], BOOL)
    together(node, inputs[1:])
    shapes = [Operand(operand.shape) for operand in inputs]
    return _spread(together(node, shapes, count=3), bind, inputs, dtype=inputs[1].dtype)


def divide(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute a / b; whole numbers round towards 0."""
    attributes(node)
    shape, own = together(node, inputs, count=2), inputs[0].dtype
    if own.kind == "f":
        return _spread(shape, _quotient, inputs)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        a, b, (whole,) = arrays[0], arrays[1], scratch
        return [
            partial(np.fmod, a, b, out=whole),
            partial(np.subtract, a, whole, out=whole),
            partial(np.floor_divide, whole, b, out=out),
        ]

    return Step(shape, bind, (Scratch(shape, dtype=own),))


def _quotient(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
    return [partial(np.divide, arrays[0], arrays[1], out=out)]


def mod(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute the remainder with the divisor's sign, or with `fmod` the dividend's."""
    ufunc = np.fmod if attributes(node, fmod=0)["fmod"] else np.remainder

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [partial(ufunc, arrays[0], arrays[1], out=out)]

    return _spread(together(node, inputs, count=2), bind, inputs)


def power(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute a ** b, of a's data type; whole numbers are raised in float64."""
    attributes(node)
    shape = together(node, [Operand(operand.shape) for operand in inputs], count=2)
    base, exponent = inputs
    squares = exponent.constant is not None and exponent.constant.size == 1 and exponent.constant.item() == 2
    if squares and shape == base.shape:

        def square(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return [partial(np.square, arrays[0], out=out)]

        return _spread(shape, square, inputs[:1])
    if base.dtype == exponent.dtype and base.dtype.kind == "f":

        def plain(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return [partial(np.power, arrays[0], arrays[1], out=out)]

        return _spread(shape, plain, inputs)

    def convert(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        a, b, found = scratch
        return [
            partial(np.copyto, a, arrays[0]),
            partial(np.copyto, b, arrays[1]),
            partial(np.power, a, b, out=found),
            partial(np.copyto, out, found, "unsafe"),
        ]

    shapes = (base.shape, exponent.shape, shape)
    return Step(shape, convert, tuple(Scratch(each, dtype=np.dtype(np.float64)) for each in shapes))


HALF, BRAIN_HALF = 10, 16  # onnx.TensorProto: FLOAT16 and BFLOAT16
CAST_TYPES: Mapping[int, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in (
        (1, "f4"), (2, "u1"), (3, "i1"), (4, "u2"), (5, "i2"), (6, "i4"), (7, "i8"),
        (9, "?"), (HALF, "f4"), (11, "f8"), (12, "u4"), (13, "u8"), (BRAIN_HALF, "f4"),
    )
}  # fmt: skip
"""onnx.TensorProto.DataType -> the data type in the engine: half precision is float32 that is rounded."""


def cast(node: Node, inputs: Sequence[Operand]) -> Step:
    """Convert to another data type; to half precision: round."""
    to = attributes(node, to=0)["to"]
    if to not in CAST_TYPES:
        raise unsupported(node, "to", to, ", ".join(map(str, CAST_TYPES)))
    shape, half = inputs[0].shape, Scratch(inputs[0].shape, True, np.dtype(np.float16))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        if to == HALF:
            return [partial(np.copyto, scratch[0], arrays[0], "unsafe"), partial(np.copyto, out, scratch[0])]
        calls: list[Call] = [partial(np.copyto, out, arrays[0], "unsafe")]
        return calls + _round_to_upper_half(out, scratch[0]) if to == BRAIN_HALF else calls

    rooms = {HALF: (half,), BRAIN_HALF: (replace(half, dtype=np.dtype(np.uint32)),)}.get(to, ())
    return replace(_step(shape, bind), scratch=rooms, dtype=CAST_TYPES[to])


def _round_to_upper_half(x: Array, room: Array) -> list[Call]:
    """Round float32 to its upper 16 bits, halves to even, in place: bfloat16."""
    bits = x.view(np.uint32)
    return [
        partial(np.right_shift, bits, np.uint32(16), out=room),
        partial(np.bitwise_and, room, np.uint32(1), out=room),
        partial(np.add, room, np.uint32(0x7FFF), out=room),
        partial(np.add, bits, room, out=bits),
        partial(np.bitwise_and, bits, np.uint32(0xFFFF0000), out=bits),
    ]


def batch_normalization(node: Node, inputs: Sequence[Operand]) -> Step:
    """Rearrange (x - mean) / sqrt(var + epsilon) * scale + bias by channel, as one multiplication and one addition."""
    found = attributes(node, epsilon=1e-5, momentum=0.9, training_mode=0, spatial=1, activation="")
    if found["training_mode"] or not found["spatial"] or len(node.outputs) > 1:
        raise unsupported(node, "training_mode", found["training_mode"], "inference, by channel")
    shape = inputs[0].shape
    constants = [operand.constant for operand in inputs[1:5]]
    if any(array is None or array.shape != shape[1:2] for array in constants):
        raise ModelError(f"BatchNormalization '{node.name}': expected four parameters of shape {shape[1:2]}")
    factor, offset = fold_batch_norm([array for array in constants if array is not None], found["epsilon"])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        by_channel = (-1, *(1,) * (len(shape) - 2))
        factors = factor.astype(np.float32).reshape(by_channel)
        offsets = offset.astype(np.float32).reshape(by_channel)
        scaled = partial(np.multiply, arrays[0], factors, out=out)
        return [scaled, *finish(out, out, [offsets], found["activation"])]

    return _step(shape, bind)


def fold_batch_norm(parameters: Sequence[Array], epsilon: float) -> tuple[Array, Array]:
    """Rearrange (scale, bias, mean, var) to (factor, offset), float64, so that the norm is x * factor + offset."""
    scale, bias, mean, var = (array.astype(np.float64) for array in parameters)
    factor = scale / np.sqrt(var + epsilon)
    return factor, bias - mean * factor


def _step(shape: Shape, bind: Bind) -> Step:
    return Step(shape, bind, layout=Layout.ANY, strided=True, strided_out=True)


add = _binary(np.add, activation="")
subtract = _binary(np.subtract)
multiply = _binary(np.multiply)

OTHERS: Mapping[str, tuple[Kernel, ...]] = {
    "And": (_comparison(np.logical_and, BOOL),),
    "Cast": (cast,),
    "Equal": (_comparison(np.equal),),
    "Greater": (_comparison(np.greater),),
    "GreaterOrEqual": (_comparison(np.greater_equal),),
    "Less": (_comparison(np.less),),
    "LessOrEqual": (_comparison(np.less_equal),),
    "Max": (_variadic(np.maximum),),
    "Mean": (_variadic(np.add, mean=True),),
    "Min": (_variadic(np.minimum),),
    "Mod": (mod,),
    "Or": (_comparison(np.logical_or, BOOL),),
    "Pow": (power,),
    "Where": (where,),
    "Xor": (_comparison(np.logical_xor, BOOL),),
}
"""The kernels of the operators that no built-in net has."""
