"""Runs sums, means and maxima by plain loops: Gemm, MatMul, Softmax, LRN, the reductions and the global pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import exp, inf, log, nan, prod, sqrt
from typing import Any

import numpy as np

from engine.graph import Array, Node
from engine.reference.windows import nan_first


def matmul(node: Node, a: Array, b: Array) -> Array:
    """Sum products along a's last axis and b's second last; a vector is a row, or a column."""
    rows, columns = a.reshape(1, -1) if a.ndim == 1 else a, b.reshape(-1, 1) if b.ndim == 1 else b
    outer = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows = np.broadcast_to(rows, (*outer, *rows.shape[-2:]))
    columns = np.broadcast_to(columns, (*outer, *columns.shape[-2:]))
    out = np.zeros((*outer, rows.shape[-2], columns.shape[-1]))
    for *at, i, j in np.ndindex(out.shape):
        out[(*at, i, j)] = sum(float(rows[(*at, i, k)]) * float(columns[(*at, k, j)]) for k in range(rows.shape[-1]))
    out = out if a.dtype.kind == "f" else out.astype(a.dtype)
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


def softmax(node: Node, x: Array, *, logarithm: bool = False) -> Array:
    """Compute exp(x) over its sum along the axis, or its logarithm; the largest x is subtracted: nothing overflows."""
    rows = np.moveaxis(x, node.attributes.get("axis", -1), -1)
    out = np.zeros(rows.shape)
    for place in np.ndindex(*rows.shape[:-1]):
        largest = float(max(rows[place]))
        moved = [float(number) - largest for number in rows[place]]
        powers = [exp(number) for number in moved]
        total = sum(powers)
        out[place] = [number - log(total) for number in moved] if logarithm else [power / total for power in powers]
    return np.moveaxis(out, -1, node.attributes.get("axis", -1))


def global_average_pool(node: Node, x: Array) -> Array:
    """Return the mean of each channel."""
    out = np.zeros((*x.shape[:2], *(1,) * (x.ndim - 2)))
    for n, c in np.ndindex(*x.shape[:2]):
        out[n, c] = sum(float(number) for number in x[n, c].ravel()) / x[n, c].size
    return out


def global_max_pool(node: Node, x: Array) -> Array:
    """Return the largest number of each channel."""
    out = np.zeros((*x.shape[:2], *(1,) * (x.ndim - 2)))
    for n, c in np.ndindex(*x.shape[:2]):
        out[n, c] = max(x[n, c].ravel(), key=nan_first)
    return out


def lrn(node: Node, x: Array) -> Array:
    """Compute x / (bias + alpha / size * the sum of squares of the channels around it) ** beta."""
    size = node.attributes["size"]
    alpha, beta = node.attributes.get("alpha", 1e-4), node.attributes.get("beta", 0.75)
    out = np.zeros(x.shape)
    for n, c, *place in np.ndindex(x.shape):
        around = range(max(0, c - (size - 1) // 2), min(x.shape[1], c + size // 2 + 1))
        total = sum(float(x[(n, other, *place)]) ** 2 for other in around)
        out[(n, c, *place)] = x[(n, c, *place)] / (node.attributes.get("bias", 1.0) + alpha / size * total) ** beta
    return out


def reduce(node: Node, x: Array, *, function: Callable[[list[Any]], Any], noop: Callable[[Any], Any]) -> Array:
    """Return a function of the numbers along some axes, or all; `noop` is that of a single number."""
    axes = sorted(axis % x.ndim for axis in node.attributes.get("axes", ()))
    if not axes and node.attributes.get("noop_with_empty_axes"):
        function = lambda numbers: noop(numbers[0])  # noqa: E731
    else:
        axes = axes or [*range(x.ndim)]
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    out = np.zeros(kept, np.float64 if x.dtype.kind == "f" else x.dtype)
    for place in np.ndindex(kept):
        part = x[tuple(slice(None) if axis in axes else at for axis, at in enumerate(place))]
        found = function([number.item() for number in part.ravel()])
        if x.dtype.kind != "f" and abs(found) == inf:  # of no numbers: the end of their range
            ends = (False, True) if x.dtype.kind == "b" else (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
            found = ends[found > 0]
        out[place] = found
    return out if node.attributes.get("keepdims", 1) else out.squeeze(tuple(axes))


def _log(number: float) -> float:
    return log(number) if number > 0 and number < inf else number if number == inf else -inf if number == 0 else nan


def _log_sum_exp(numbers: list[float]) -> float:
    largest = max(numbers, default=-inf)
    if any(number != number for number in numbers):
        return nan
    if abs(largest) == inf:
        return largest
    return largest + log(sum(exp(number - largest) for number in numbers))


def _same(number: Any) -> Any:
    return number


def _best(of: Callable[..., Any], empty: float) -> Callable[[list[Any]], Any]:
    return lambda numbers: next((n for n in numbers if n != n), of(numbers, default=empty))


REDUCTIONS: Mapping[str, Callable[..., Array]] = {
    f"Reduce{name}": partial(reduce, function=function, noop=noop)
    for name, function, noop in (
        ("L1", lambda numbers: sum(map(abs, numbers)), abs),
        ("L2", lambda numbers: sqrt(sum(number**2 for number in numbers)), abs),
        ("LogSum", lambda numbers: _log(sum(numbers)), _log),
        ("LogSumExp", _log_sum_exp, _same),
        ("Max", _best(max, -inf), _same),
        ("Mean", lambda numbers: sum(numbers) / len(numbers), _same),
        ("Min", _best(min, inf), _same),
        ("Prod", prod, _same),
        ("Sum", sum, _same),
        ("SumSquare", lambda numbers: sum(number**2 for number in numbers), lambda number: number**2),
    )
}
