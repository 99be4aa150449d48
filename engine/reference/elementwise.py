"""Runs element-wise operators by plain loops: activations, arithmetic, batch norms, casts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def leaky_relu(node: Node, x: Array) -> Array:
    """Compute x if it is above 0, else alpha * x."""
    alpha = node.attributes.get("alpha", 0.01)
    return each(lambda number: number if number > 0 else alpha * number, x)


def prelu(node: Node, x: Array, slope: Array) -> Array:
    """Compute x if it is above 0, else slope * x."""
    return each(lambda number, factor: number if number > 0 else factor * number, x, aligned(node, x, slope))


def clip(node: Node, x: Array) -> Array:
    """Compute the larger of x and `min`, then the smaller of that and `max`."""
    low, high = node.attributes.get("min", -inf), node.attributes.get("max", inf)
    return each(lambda number: min(max(number, low), high), x)


def sigmoid(node: Node, x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)), written so that exp does not overflow."""
    return each(lambda number: 1 / (1 + exp(-number)) if number > 0 else exp(number) / (1 + exp(number)), x)


def hard_sigmoid(node: Node, x: Array) -> Array:
    """Compute alpha * x + beta between 0 and 1."""
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    return each(lambda number: min(max(alpha * number + beta, 0), 1), x)  # in this order NaN stays


def hard_swish(node: Node, x: Array) -> Array:
    """Compute x times its hard sigmoid of slope 1/6."""
    return each(lambda number: number * min(max(number / 6 + 0.5, 0), 1), x)


def divide(node: Node, a: Array, b: Array) -> Array:
    """Compute a / b; integers round towards 0, floats follow IEEE."""
    b = aligned(node, a, b)
    if a.dtype.kind != "f":
        return each(lambda x, y: int(x / y), a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return each(lambda x, y: np.float64(x) / np.float64(y), a, b)


def sum_(node: Node, *arrays: Array) -> Array:
    """Compute the sum of all arrays."""
    return each(lambda *numbers: sum(numbers), *arrays)


def batch_normalization(node: Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """Normalise each channel by its mean and deviation, then scale and shift it."""
    out = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        deviation = sqrt(float(var[c]) + node.attributes.get("epsilon", 1e-5))
        out[n, c] = (x[n, c].astype(np.float64) - float(mean[c])) / deviation * float(scale[c]) + float(bias[c])
    return out


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    return lambda node, a, b: each(function, a, aligned(node, a, b))


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "Add": _arithmetic(lambda x, y: x + y),
    "BatchNormalization": batch_normalization,
    "Cast": lambda node, x: x.astype(_DTYPES[node.attributes["to"]]),
    "Clip": clip,
    "Div": divide,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Mul": _arithmetic(lambda x, y: x * y),
    "PRelu": prelu,
    "Relu": relu,
    "Sigmoid": sigmoid,
    "Sub": _arithmetic(lambda x, y: x - y),
    "Sum": sum_,
    "Tanh": lambda node, x: each(tanh, x),
}
