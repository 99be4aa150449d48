"""Runs ReduceMean, GlobalMaxPool, LogSoftmax and LRN by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, log, prod

import numpy as np

from engine.graph import Array, Node
from engine.reference.windows import nan_first


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


def reduce_mean(node: Node, x: Array) -> Array:
    """Return the mean along some axes, or all."""
    axes = sorted(axis % x.ndim for axis in node.attributes.get("axes", ()))
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return x
    axes = axes or [*range(x.ndim)]
    out = np.zeros(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))
    for place in np.ndindex(x.shape):
        out[tuple(0 if axis in axes else at for axis, at in enumerate(place))] += float(x[place])
    out /= prod(x.shape[axis] for axis in axes)
    return out if node.attributes.get("keepdims", 1) else out.squeeze(tuple(axes))


def log_softmax(node: Node, x: Array) -> Array:
    """Compute x minus the logarithm of the sum of exp(x) along the axis."""
    rows = np.moveaxis(x, node.attributes.get("axis", -1), -1)
    out = np.zeros(rows.shape)
    for place in np.ndindex(*rows.shape[:-1]):
        largest = float(max(rows[place]))
        total = log(sum(exp(float(number) - largest) for number in rows[place]))
        out[place] = [float(number) - largest - total for number in rows[place]]
    return np.moveaxis(out, -1, node.attributes.get("axis", -1))


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "GlobalMaxPool": global_max_pool,
    "LRN": lrn,
    "LogSoftmax": log_softmax,
    "ReduceMean": reduce_mean,
}
