"""Runs LeakyRelu, PRelu, Clip, Sigmoid, Tanh, HardSigmoid and HardSwish: a few passes over the data, in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import Call, Kernel, Layout, Operand, Scratch, Step, attributes, clipped, scalar
from engine.shapes import broadcasts

MIN_X = -87.0  # below it exp(-x) overflows float32; the sigmoid there is below 2e-38


def _elementwise(passes: Callable[[Node], Callable[[Array, Array], list[Call]]], name: str) -> Kernel:
    """Return an element-wise kernel, which runs in any layout."""

    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        make = passes(node)

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return make(arrays[0], out)

        return Step(inputs[0].shape, bind, layout=Layout.ANY, strided=True, strided_out=True)

    kernel.__name__ = name
    return kernel


def _clip(node: Node) -> Callable[[Array, Array], list[Call]]:
    found = attributes(node, min=-np.inf, max=np.inf)
    return partial(clipped, found["min"], found["max"])


def _sigmoid(node: Node) -> Callable[[Array, Array], list[Call]]:
    attributes(node)
    return lambda x, out: [
        partial(np.maximum, x, scalar(MIN_X), out=out),
        partial(np.multiply, out, scalar(-1), out=out),  # np.negative is wrong in strides of 16 bytes (NumPy 2.4.6)
        partial(np.exp, out, out=out),
        partial(np.add, out, scalar(1), out=out),
        partial(np.reciprocal, out, out=out),
    ]


def _tanh(node: Node) -> Callable[[Array, Array], list[Call]]:
    attributes(node)
    return lambda x, out: [partial(np.tanh, x, out=out)]


def _hard(x: Array, out: Array, alpha: float, beta: float) -> list[Call]:
    """Compute max(0, min(1, alpha * x + beta))."""
    return [
        partial(np.multiply, x, scalar(alpha), out=out),
        partial(np.add, out, scalar(beta), out=out),
        *clipped(0, 1, out, out),
    ]


def _hard_sigmoid(node: Node) -> Callable[[Array, Array], list[Call]]:
    found = attributes(node, alpha=0.2, beta=0.5)
    return lambda x, out: _hard(x, out, found["alpha"], found["beta"])


def _hard_swish(node: Node) -> Callable[[Array, Array], list[Call]]:
    attributes(node)
    return lambda x, out: [*_hard(x, out, 1 / 6, 0.5), partial(np.multiply, out, x, out=out)]


def leaky_relu(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute x if it is above 0, else alpha * x."""
    alpha = attributes(node, alpha=0.01)["alpha"]

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        if 0 < alpha <= 1:
            scaled = partial(np.multiply, arrays[0], scalar(alpha), out=scratch[0])
            return [scaled, partial(np.maximum, arrays[0], scratch[0], out=out)]
        return _two_slopes(arrays[0], scalar(alpha), out, scratch[0])

    below = Scratch(inputs[0].shape, follows=True)
    return Step(inputs[0].shape, bind, (below,), layout=Layout.ANY, strided=True, strided_out=True)


def prelu(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute x if it is above 0, else slope * x; the slopes broadcast to the shape of x."""
    attributes(node)
    shape, slope = inputs[0].shape, inputs[1].shape
    if not broadcasts(slope, shape):
        raise ModelError(f"PRelu '{node.name}': slopes of shape {slope} do not fit an input of {shape}")

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return _two_slopes(arrays[0], arrays[1], out, scratch[0])

    return Step(shape, bind, (Scratch(shape),))


def _two_slopes(x: Array, slope: Array, out: Array, below: Array) -> list[Call]:
    return [
        partial(np.minimum, x, scalar(0), out=below),
        partial(np.multiply, below, slope, out=below),
        partial(np.maximum, x, scalar(0), out=out),
        partial(np.add, out, below, out=out),
    ]


clip = _elementwise(_clip, "clip")
hard_sigmoid = _elementwise(_hard_sigmoid, "hard_sigmoid")
hard_swish = _elementwise(_hard_swish, "hard_swish")
sigmoid = _elementwise(_sigmoid, "sigmoid")
tanh = _elementwise(_tanh, "tanh")
