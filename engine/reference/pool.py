"""Runs MaxPool, AveragePool and GlobalAveragePool by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from engine.graph import Array, Node
from engine.reference.windows import nan_first, padding_of, slides_of, taps_of


def max_pool(node: Node, x: Array, *bias: Array) -> Array | tuple[Array, Array]:
    """Return the largest element of each window in the input, plus a bias (`compiler.fusion.delay_epilogues`).

    A second output holds its index among all elements of x, in row-major or (`storage_order` 1) column-major order.
    """
    size = x.shape[2:]
    slides = slides_of(node, size, node.attributes["kernel_shape"])
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    indices = np.zeros(out.shape, np.int64)
    order = "F" if node.attributes.get("storage_order") else "C"
    for n, c, *place in np.ndindex(out.shape):
        where = max((at for _, at in taps_of(slides, place, size)), key=lambda at: nan_first(x[(n, c, *at)]))
        out[(n, c, *place)] = x[(n, c, *where)] + sum(float(added[c]) for added in bias)
        within = np.ravel_multi_index(where, size, order=order)  # type: ignore[call-overload]
        indices[(n, c, *place)] = (n * x.shape[1] + c) * prod(size) + within
    return (out, indices) if len(node.outputs) > 1 else out


def average_pool(node: Node, x: Array) -> Array:
    """Return the mean of each window; with `count_include_pad` zeros in the padding count, but none beyond it."""
    size, kernel = x.shape[2:], node.attributes["kernel_shape"]
    slides = slides_of(node, size, kernel)
    begin, end = padding_of(node, size, kernel)
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    for n, c, *place in np.ndindex(out.shape):
        numbers = [float(x[(n, c, *at)]) for _, at in taps_of(slides, place, size)]
        count = len(numbers)
        if node.attributes.get("count_include_pad"):
            count = sum(1 for _ in taps_of(slides, place, size, begin, end))
        out[(n, c, *place)] = sum(numbers) / count
    return out


def global_average_pool(node: Node, x: Array) -> Array:
    """Return the mean of each channel."""
    out = np.zeros((*x.shape[:2], *(1,) * (x.ndim - 2)))
    for n, c in np.ndindex(*x.shape[:2]):
        out[n, c] = sum(float(number) for number in x[n, c].ravel()) / x[n, c].size
    return out


FUNCTIONS: Mapping[str, Callable[..., Array | tuple[Array, ...]]] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "MaxPool": max_pool,
}
