"""Runs Instance-, Group-, Layer- and RMSNormalization by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt

import numpy as np

from engine.graph import Array, Node


def _moments(numbers: Array, epsilon: float, centred: bool = True) -> tuple[float, float]:
    """Return the mean and the deviation of numbers."""
    mean = sum(float(number) for number in numbers) / len(numbers) if centred else 0.0
    return mean, sqrt(sum((float(number) - mean) ** 2 for number in numbers) / len(numbers) + epsilon)


def group(node: Node, x: Array, scale: Array, bias: Array) -> Array:
    """Normalise the channels of each item in groups; scale and bias are by channel or by group."""
    groups = node.attributes.get("num_groups", x.shape[1])
    each, out = x.shape[1] // groups, np.zeros(x.shape)
    for n in range(x.shape[0]):
        for g in range(groups):
            own = x[n, g * each : (g + 1) * each].astype(np.float64)
            mean, deviation = _moments(own.ravel(), node.attributes.get("epsilon", 1e-5))
            out[n, g * each : (g + 1) * each] = (own - mean) / deviation
        for c in range(x.shape[1]):
            at = c if len(scale) == x.shape[1] else c // each
            out[n, c] = out[n, c] * float(scale[at]) + float(bias[at])
    return out


def layer(node: Node, x: Array, scale: Array, bias: Array | None = None) -> tuple[Array, Array, Array]:
    """Normalise all numbers from `axis` on together; RMSNormalization leaves their mean.

    Further outputs of LayerNormalization are the mean and one over the deviation.
    """
    axis = node.attributes.get("axis", -1) % x.ndim
    out, kept = np.zeros(x.shape), (*x.shape[:axis], *(1,) * (x.ndim - axis))
    means, factors = np.zeros(kept), np.zeros(kept)
    for place in np.ndindex(*x.shape[:axis]):
        centred = node.op_type == "LayerNormalization"
        mean, deviation = _moments(x[place].ravel(), node.attributes.get("epsilon", 1e-5), centred)
        means[place], factors[place] = mean, 1 / deviation
        out[place] = (x[place].astype(np.float64) - mean) / deviation
    added = np.zeros(x.shape) if bias is None else np.broadcast_to(bias, x.shape).astype(np.float64)
    return out * np.broadcast_to(scale, x.shape).astype(np.float64) + added, means, factors


FUNCTIONS: Mapping[str, Callable[..., Array | tuple[Array, ...]]] = {
    "GroupNormalization": group,
    "InstanceNormalization": group,
    "LayerNormalization": layer,
    "RMSNormalization": layer,
}
