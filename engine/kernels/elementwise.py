"""Relu, Add and BatchNormalization: one pass or two over the data, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import ACTIVATIONS, Bind, Call, Kernel, Layout, Operand, Step, attributes, finish, unsupported


def relu(node: Node, inputs: Sequence[Operand]) -> Step:
    """max(x, 0)."""
    attributes(node)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return ACTIVATIONS["Relu"](arrays[0], out)

    return _step(inputs[0].shape, bind)


def add(node: Node, inputs: Sequence[Operand]) -> Step:
    """a + b, broadcast both ways."""
    activation = attributes(node, activation="")["activation"]
    try:
        shape = np.broadcast_shapes(inputs[0].shape, inputs[1].shape)
    except ValueError as error:
        raise ModelError(
            f"Add '{node.name}': shapes {inputs[0].shape} and {inputs[1].shape} do not go together"
        ) from error

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        plain = finish(out, out, (), activation)
        return [partial(np.add, arrays[0], arrays[1], out=out), *plain]

    return _step(shape, bind)


def batch_normalization(node: Node, inputs: Sequence[Operand]) -> Step:
    """(x - mean) / sqrt(var + epsilon) * scale + bias by channel, as one multiplication and one addition."""
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
    """(scale, bias, mean, var) -> (factor, offset), float64, so that the norm is x * factor + offset."""
    scale, bias, mean, var = (array.astype(np.float64) for array in parameters)
    factor = scale / np.sqrt(var + epsilon)
    return factor, bias - mean * factor


def _step(shape: Shape, bind: Bind) -> Step:
    return Step(shape, bind, layout=Layout.ANY, strided=True, strided_out=True)


RELU: tuple[Kernel, ...] = (relu,)
ADD: tuple[Kernel, ...] = (add,)
BATCH_NORMALIZATION: tuple[Kernel, ...] = (batch_normalization,)
