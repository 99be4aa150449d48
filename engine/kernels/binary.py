"""Sub, Mul and Div: two operands, broadcast both ways, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import Call, Kernel, Layout, Operand, Step, attributes


def _binary(ufunc: np.ufunc) -> Kernel:
    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        attributes(node)
        a, b = inputs[0].shape, inputs[1].shape
        try:
            shape = np.broadcast_shapes(a, b)
        except ValueError as error:
            raise ModelError(f"{node.op_type} '{node.name}': shapes {a} and {b} do not go together") from error

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return [partial(ufunc, arrays[0], arrays[1], out=out)]

        # An operand that is repeated over all pixels has the same memory in every layout.
        any_layout = len(a) == len(b) == len(shape) and not any(operand.is_parameter for operand in inputs)
        layout = Layout.ANY if any_layout else Layout.PLANAR
        return Step(shape, bind, layout=layout, strided=any_layout, strided_out=any_layout)

    kernel.__name__ = ufunc.__name__
    return kernel


SUB: tuple[Kernel, ...] = (_binary(np.subtract),)
MUL: tuple[Kernel, ...] = (_binary(np.multiply),)
DIV: tuple[Kernel, ...] = (_binary(np.divide),)
