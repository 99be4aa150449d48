"""Runs Gemm, MatMul and Softmax."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import (
    Call,
    Operand,
    Pack,
    Scratch,
    Step,
    aligned,
    attributes,
    finish,
    gemm,
    reads_twice,
    scalar,
)
from engine.shapes import broadcasts, positive

# Elements of the largest weight that is aligned; a larger one comes from memory, and only the memory's speed counts.
MAX_ALIGNED = 4 << 20


def gemm_node(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute alpha * A' @ B' + beta * C, where ' is a transposition (a view, never a copy)."""
    found = attributes(node, alpha=1.0, beta=1.0, transA=0, transB=0, activation="")
    if any(len(operand.shape) != 2 for operand in inputs[:2]):
        raise ModelError(f"Gemm '{node.name}': expected two matrices, found {inputs[0].shape} and {inputs[1].shape}")
    rows, inner = inputs[0].shape[::-1] if found["transA"] else inputs[0].shape
    inner_b, columns = inputs[1].shape[::-1] if found["transB"] else inputs[1].shape
    if inner != inner_b:
        raise ModelError(f"Gemm '{node.name}': input {inputs[0].shape} does not fit weight {inputs[1].shape}")
    has_c = len(inputs) > 2 and found["beta"] != 0
    if has_c and not broadcasts(inputs[2].shape, (rows, columns)):
        raise ModelError(f"Gemm '{node.name}': bias {inputs[2].shape} does not fit an output ({rows}, {columns})")
    scales_c = has_c and found["beta"] != 1

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        a = arrays[0].T if found["transA"] else arrays[0]
        b = arrays[1].T if found["transB"] else arrays[1]
        product = scratch[1] if reads_twice(found["activation"]) else out
        calls = [gemm(a, b, product)]
        if found["alpha"] != 1:
            calls.append(partial(np.multiply, product, scalar(found["alpha"]), out=product))
        if scales_c:
            calls.append(partial(np.multiply, arrays[2], scalar(found["beta"]), out=scratch[0]))
        added = [scratch[0] if scales_c else arrays[2]] if has_c else []
        return calls + finish(product, out, added, found["activation"])

    before_swish = Scratch((rows, columns) if reads_twice(found["activation"]) else (0,))
    scratch = (Scratch(inputs[2].shape if scales_c else (0,)), before_swish)
    fits = inputs[1].is_parameter and prod(inputs[1].shape) <= MAX_ALIGNED
    packs = {1: Pack("aligned", aligned)} if fits else {}
    return Step((rows, columns), bind, scratch, macs=rows * inner * columns, packs=packs)


def matmul(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute a @ b as in NumPy: products of the last two axes over all before them; a vector is a row or a column."""
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


def softmax(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute exp(x) / sum(exp(x)) along an axis, the largest x subtracted first."""
    shape = inputs[0].shape
    axis = positive(node, attributes(node, axis=-1)["axis"], len(shape))
    reduced = (*shape[:axis], 1, *shape[axis + 1 :])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        one = scratch[0]
        return [
            partial(np.maximum.reduce, arrays[0], axis, None, one, True),
            partial(np.subtract, arrays[0], one, out=out),
            partial(np.exp, out, out=out),
            partial(np.add.reduce, out, axis, None, one, True),
            partial(np.divide, out, one, out=out),
        ]

    return Step(shape, bind, (Scratch(reduced),))
