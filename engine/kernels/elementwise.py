"""Runs Relu, Add, Sub, Mul, Div and BatchNormalization: one or two element-wise passes over the data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import ACTIVATIONS, Bind, Call, Kernel, Layout, Operand, Step, attributes, finish, unsupported


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
        a, b = inputs[0].shape, inputs[1].shape
        try:
            shape = np.broadcast_shapes(a, b)
        except ValueError as error:
            raise ModelError(f"{node.op_type} '{node.name}': shapes {a} and {b} do not go together") from error

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return [partial(ufunc, arrays[0], arrays[1], out=out), *finish(out, out, (), activation)]

        # An operand that broadcasts over all pixels has the same memory in every layout.
        alike = len(a) == len(b) == len(shape) and not any(operand.is_parameter for operand in inputs)
        return _step(shape, bind) if alike or ufunc is np.add else Step(shape, bind)

    kernel.__name__ = ufunc.__name__
    return kernel


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
divide = _binary(np.divide)
