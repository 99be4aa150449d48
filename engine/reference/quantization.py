"""Runs QuantizeLinear and DequantizeLinear by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine.graph import Array, Node


def _at(node: Node, numbers: Array, place: tuple[int, ...]) -> Any:
    """Return the number for a place: the only one, or that of its entry along the axis."""
    return numbers.ravel()[0] if numbers.size == 1 else numbers[place[node.attributes.get("axis", 1)]]


def quantize(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """Divide by the scale in float32, round halves to even, add the zero point and saturate."""
    zeros = np.zeros(1, np.uint8) if zero is None else zero
    limits, out = np.iinfo(zeros.dtype), np.zeros(x.shape, zeros.dtype)
    for place in np.ndindex(x.shape):
        whole = round(float(np.float32(x[place]) / _at(node, scale, place))) + int(_at(node, zeros, place))
        out[place] = min(max(whole, limits.min), limits.max)
    return out


def dequantize(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """Subtract the zero point and multiply by the scale."""
    zeros, out = np.zeros(1, x.dtype) if zero is None else zero, np.zeros(x.shape, np.float64)
    for place in np.ndindex(x.shape):
        out[place] = (int(x[place]) - int(_at(node, zeros, place))) * float(_at(node, scale, place))
    return out


FUNCTIONS: Mapping[str, Callable[..., Array]] = {"DequantizeLinear": dequantize, "QuantizeLinear": quantize}
