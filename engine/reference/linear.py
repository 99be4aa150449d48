"""Runs Gemm, MatMul and Softmax by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp

import numpy as np

from engine.graph import Array, Node


def matmul(node: Node, a: Array, b: Array) -> Array:
    """Sum products along a's last axis and b's second last; a vector is a row, or a column."""
    rows, columns = a.reshape(1, -1) if a.ndim == 1 else a, b.reshape(-1, 1) if b.ndim == 1 else b
    outer = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows = np.broadcast_to(rows, (*outer, *rows.shape[-2:]))
    columns = np.broadcast_to(columns, (*outer, *columns.shape[-2:]))
    out = np.zeros((*outer, rows.shape[-2], columns.shape[-1]))
    for *at, i, j in np.ndindex(out.shape):
        out[(*at, i, j)] = sum(float(rows[(*at, i, k)]) * float(columns[(*at, k, j)]) for k in range(rows.shape[-1]))
    out = out[..., 0, :] if a.ndim == 1 else out
    return out[..., 0] if b.ndim == 1 else out


def gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    """Compute alpha * A' @ B' + beta * C."""
    a = a.T if node.attributes.get("transA") else a
    b = b.T if node.attributes.get("transB") else b
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    out = np.zeros((a.shape[0], b.shape[1]))
    added = np.zeros(out.shape) if c is None else np.broadcast_to(c, out.shape)
    for i, j in np.ndindex(out.shape):
        total = sum(float(a[i, k]) * float(b[k, j]) for k in range(a.shape[1]))
        out[i, j] = alpha * total + beta * float(added[i, j])
    return out


def softmax(node: Node, x: Array) -> Array:
    """Compute exp(x) over its sum along the axis; the largest x is subtracted first, so that nothing overflows."""
    rows = np.moveaxis(x, node.attributes.get("axis", -1), -1)
    out = np.zeros(rows.shape)
    for place in np.ndindex(*rows.shape[:-1]):
        largest = float(max(rows[place]))
        powers = [exp(float(number) - largest) for number in rows[place]]
        out[place] = [power / sum(powers) for power in powers]
    return np.moveaxis(out, -1, node.attributes.get("axis", -1))


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Softmax": softmax,
}
