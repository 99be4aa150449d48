"""MatMul: matrix products of the last two axes, over all that stand before them; a vector is a row or a column."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import Call, Kernel, Operand, Step, attributes, gemm


def matmul(node: Node, inputs: Sequence[Operand]) -> Step:
    """a @ b as NumPy has it."""
    attributes(node)
    a, b = inputs[0].shape, inputs[1].shape
    fault = ModelError(f"MatMul '{node.name}': shapes {a} and {b} do not go together")
    if not a or not b:
        raise fault
    rows, columns = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    try:
        outer = np.broadcast_shapes(rows[:-2], columns[:-2])
    except ValueError as error:
        raise fault from error
    if rows[-1] != columns[-2]:
        raise fault
    full = (*outer, rows[-2], columns[-1])
    shape = (*outer, *(rows[-2:-1] if len(a) > 1 else ()), *(columns[-1:] if len(b) > 1 else ()))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [gemm(arrays[0].reshape(rows), arrays[1].reshape(columns), out.reshape(full))]

    return Step(shape, bind, macs=prod(full) * rows[-1])


KERNELS: tuple[Kernel, ...] = (matmul,)
