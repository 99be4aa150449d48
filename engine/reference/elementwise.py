"""Runs element-wise operators by plain loops: activations, arithmetic, batch norms, casts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import exp, inf, sqrt, tanh
from typing import Any

import numpy as np

from engine.graph import Array, Node

# onnx.TensorProto.DataType: FLOAT, UINT8, INT8, INT16, INT32, INT64, BOOL, FLOAT16, DOUBLE, BFLOAT16.
_DTYPES = {1: "f4", 2: "u1", 3: "i1", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f4", 11: "f8", 16: "f4"}


def each(function: Callable[..., Any], *arrays: Array) -> Array:
    """Return the function of each element, or of the elements at the same place of several arrays, broadcast."""
    together = np.broadcast_arrays(*arrays)
    whole = arrays[0].dtype.kind != "f"
    out = np.zeros(together[0].shape, arrays[0].dtype if whole else np.float64)
    for place in np.ndindex(out.shape):
        out[place] = function(*(array[place].item() for array in together))
    return out


def aligned(node: Node, a: Array, b: Array) -> Array:
    """Return the second operand where `axis` of old operator sets puts it."""
    if "axis" not in node.attributes or not b.ndim or b.shape == (1,):
        return b
    return b.reshape(*b.shape, *(1,) * (a.ndim - node.attributes["axis"] % a.ndim - b.ndim))


def relu(node: Node, x: Array) -> Array:
    """Compute x if it is above 0, else 0; NaN stays NaN."""
    out = x.copy()
    for place in np.ndindex(x.shape):
        if out[place] < 0:
            out[place] = 0
    return out


def divide(node: Node, a: Array, b: Array) -> Array:
    """Compute a / b; integers round towards 0, floats follow IEEE."""
    b = aligned(node, a, b)
    if a.dtype.kind != "f":
        return each(lambda x, y: int(x / y), a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return each(lambda x, y: np.float64(x) / np.float64(y), a, b)


def batch_normalization(node: Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """Normalise each channel by its mean and deviation, then scale and shift it."""
    out = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        deviation = sqrt(float(var[c]) + node.attributes.get("epsilon", 1e-5))
        out[n, c] = (x[n, c].astype(np.float64) - float(mean[c])) / deviation * float(scale[c]) + float(bias[c])
    return out


def _clip(number: float, low: float, high: float) -> float:
    return min(max(number, low), high)  # in this order NaN stays


def _operator(function: Callable[..., Any], **defaults: float) -> Callable[..., Array]:
    """Return the operator that computes a function of its inputs' numbers and of attributes, with these defaults."""

    def run(node: Node, x: Array, *others: Array) -> Array:
        found = {name: node.attributes.get(name, value) for name, value in defaults.items()}
        return each(partial(function, **found), x, *(aligned(node, x, other) for other in others))

    return run


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "Add": _operator(lambda x, y: x + y),
    "BatchNormalization": batch_normalization,
    "Cast": lambda node, x: x.astype(_DTYPES[node.attributes["to"]]),
    "Clip": _operator(lambda x, min, max: _clip(x, min, max), min=-inf, max=inf),
    "Div": divide,
    "HardSigmoid": _operator(lambda x, alpha, beta: _clip(alpha * x + beta, 0, 1), alpha=0.2, beta=0.5),
    "HardSwish": _operator(lambda x: x * _clip(x / 6 + 0.5, 0, 1)),
    "LeakyRelu": _operator(lambda x, alpha: x if x > 0 else alpha * x, alpha=0.01),
    "Mul": _operator(lambda x, y: x * y),
    "PRelu": _operator(lambda x, slope: x if x > 0 else slope * x),
    "Relu": relu,
    # Written so that exp does not overflow.
    "Sigmoid": _operator(lambda x: 1 / (1 + exp(-x)) if x > 0 else exp(x) / (1 + exp(x))),
    "Sub": _operator(lambda x, y: x - y),
    "Sum": _operator(lambda *numbers: sum(numbers)),
    "Tanh": _operator(tanh),
}
