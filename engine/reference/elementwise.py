"""Runs element-wise operators by plain loops: activations, arithmetic, batch norms, casts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import erf, exp, expm1, floor, inf, log1p, pi, sqrt, tanh
from struct import pack, unpack
from typing import Any

import numpy as np

from engine.graph import Array, Node

# onnx.TensorProto.DataType: FLOAT, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL, DOUBLE, UINT32, UINT64.
_DTYPES = {1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 11: "f8", 12: "u4", 13: "u8"}
_HALF, _BRAIN_HALF = 10, 16


def each(function: Callable[..., Any], *arrays: Array, dtype: Any = None) -> Array:
    """Return the function of each element, or of the elements at the same place of several arrays, broadcast."""
    together = np.broadcast_arrays(*arrays)
    whole = arrays[0].dtype.kind != "f"
    out = np.zeros(together[0].shape, dtype or (arrays[0].dtype if whole else np.float64))
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


def cast(node: Node, x: Array) -> Array:
    """Convert to another data type; half precision is rounded and stays float32."""
    to = node.attributes["to"]
    if to == _HALF:
        with np.errstate(over="ignore"):
            return each(lambda number: float(np.float16(number)), x, dtype=np.float32)
    if to == _BRAIN_HALF:
        return each(_brain_half, x.astype(np.float32), dtype=np.float32)
    return x.astype(_DTYPES[to])


def _brain_half(number: float) -> float:
    """Round to the nearest float32 whose lower half is zero, of two as near ones to that with an even upper half."""
    if number != number or number in (inf, -inf):
        return number
    upper, lower = divmod(int.from_bytes(pack("<f", number), "little"), 1 << 16)
    upper += lower > 1 << 15 or (lower == 1 << 15 and upper % 2 == 1)
    return float(unpack("<f", (upper << 16).to_bytes(4, "little"))[0])


def _ieee(function: Any) -> Callable[..., Any]:
    """Return a NumPy function of numbers, in float64, without warnings: math's functions raise where IEEE has inf."""

    def compute(*numbers: float) -> Any:
        with np.errstate(all="ignore"):
            return function(*map(np.float64, numbers))

    return compute


def power(node: Node, x: Array, y: Array) -> Array:
    """Compute x ** y in float64, of x's data type."""
    made = each(_ieee(np.power), x, y, dtype=np.float64)
    return made if x.dtype.kind == "f" else made.astype(x.dtype)


def _softplus(x: float) -> float:
    return x + log1p(exp(-x)) if x > 0 else log1p(exp(x))


def _elu(x: float, alpha: float, gamma: float = 1.0, divisor: float = 1.0) -> float:
    return gamma * (x if x > 0 or x != x else alpha * expm1(x / divisor))


def _gelu(x: float, approximate: str) -> float:
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / sqrt(2)))


def _round(x: float) -> float:
    return float(round(x)) if abs(x) < 1 << 52 else x  # halves to even; what is larger is whole, infinite or NaN


def _modulo(x: float, y: float, fmod: int) -> Any:
    """Return the remainder with y's sign, or x's; whole numbers exactly."""
    if not fmod:
        return x % y
    return int(abs(x) % abs(y)) * (-1 if x < 0 else 1) if isinstance(x, int) else _ieee(np.fmod)(x, y)


def _infinite(x: float, detect_positive: int, detect_negative: int) -> bool:
    return bool((x == inf and detect_positive) or (x == -inf and detect_negative))


def _comparison(function: Callable[[Any, Any], bool]) -> Callable[..., Array]:
    return lambda node, x, y: each(function, x, y, dtype=bool)


def _extreme(better: Callable[[Any, Any], bool]) -> Callable[..., Array]:
    """Return the operator that takes the best of its inputs' numbers; NaN wins."""

    def choose(*numbers: Any) -> Any:
        best = numbers[0]
        for number in numbers[1:]:
            best = number if best == best and (number != number or better(number, best)) else best
        return best

    return lambda node, *arrays: each(choose, *arrays)


def batch_normalization(node: Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """Normalise each channel by its mean and deviation, then scale and shift it."""
    out = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        deviation = sqrt(float(var[c]) + node.attributes.get("epsilon", 1e-5))
        out[n, c] = (x[n, c].astype(np.float64) - float(mean[c])) / deviation * float(scale[c]) + float(bias[c])
    return out


def _clip(number: float, low: float, high: float) -> float:
    return min(max(number, low), high)  # in this order NaN stays


def _floor(x: float) -> float:
    return float(floor(x)) if abs(x) < inf else x


_SIGNS = ("positive", "negative")


def _operator(function: Callable[..., Any], **defaults: Any) -> Callable[..., Array]:
    """Return the operator that computes a function of its inputs' numbers and of attributes, with these defaults."""

    def run(node: Node, x: Array, *others: Array) -> Array:
        found = {name: node.attributes.get(name, value) for name, value in defaults.items()}
        return each(partial(function, **found), x, *(aligned(node, x, other) for other in others))

    return run


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "Abs": _operator(abs),
    "Acos": _operator(_ieee(np.arccos)),
    "Acosh": _operator(_ieee(np.arccosh)),
    "Add": _operator(lambda x, y: x + y),
    "And": _comparison(lambda x, y: x and y),
    "Asin": _operator(_ieee(np.arcsin)),
    "Asinh": _operator(_ieee(np.arcsinh)),
    "Atan": _operator(_ieee(np.arctan)),
    "Atanh": _operator(_ieee(np.arctanh)),
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Ceil": _operator(lambda x: -_floor(-x)),
    "Celu": _operator(lambda x, alpha: _elu(x, alpha, divisor=alpha), alpha=1.0),
    "Clip": _operator(lambda x, min, max: _clip(x, min, max), min=-inf, max=inf),
    "Cos": _operator(_ieee(np.cos)),
    "Cosh": _operator(_ieee(np.cosh)),
    "Div": divide,
    "Elu": _operator(_elu, alpha=1.0),
    "Equal": _comparison(lambda x, y: x == y),
    "Erf": _operator(erf),
    "Exp": _operator(_ieee(np.exp)),
    "Floor": _operator(lambda x: _floor(x)),
    "Gelu": _operator(_gelu, approximate="none"),
    "Greater": _comparison(lambda x, y: x > y),
    "GreaterOrEqual": _comparison(lambda x, y: x >= y),
    "HardSigmoid": _operator(lambda x, alpha, beta: _clip(alpha * x + beta, 0, 1), alpha=0.2, beta=0.5),
    "HardSwish": _operator(lambda x: x * _clip(x / 6 + 0.5, 0, 1)),
    "LeakyRelu": _operator(lambda x, alpha: x if x > 0 else alpha * x, alpha=0.01),
    "IsInf": lambda node, x: each(
        partial(_infinite, **{f"detect_{sign}": node.attributes.get(f"detect_{sign}", 1) for sign in _SIGNS}),
        x,
        dtype=bool,
    ),
    "IsNaN": lambda node, x: each(lambda number: number != number, x, dtype=bool),
    "Less": _comparison(lambda x, y: x < y),
    "LessOrEqual": _comparison(lambda x, y: x <= y),
    "Log": _operator(_ieee(np.log)),
    "Max": _extreme(lambda x, y: x > y),
    "Mean": _operator(lambda *numbers: sum(numbers) / len(numbers)),
    "Min": _extreme(lambda x, y: x < y),
    "Mish": _operator(lambda x: x * tanh(_softplus(x))),
    "Mod": _operator(_modulo, fmod=0),
    "Mul": _operator(lambda x, y: x * y),
    "Neg": _operator(lambda x: -x),
    "Not": _operator(lambda x: not x),
    "Or": _comparison(lambda x, y: x or y),
    "PRelu": _operator(lambda x, slope: x if x > 0 else slope * x),
    "Pow": power,
    "Reciprocal": _operator(_ieee(lambda x: 1 / x)),
    "Relu": relu,
    "Round": _operator(_round),
    "Selu": _operator(_elu, alpha=1.6732632423543772, gamma=1.0507009873554805),
    # Written so that exp does not overflow.
    "Sigmoid": _operator(lambda x: 1 / (1 + exp(-x)) if x > 0 else exp(x) / (1 + exp(x))),
    "Sign": _operator(lambda x: x if x != x else (x > 0) - (x < 0)),
    "Sin": _operator(_ieee(np.sin)),
    "Sinh": _operator(_ieee(np.sinh)),
    "Softplus": _operator(_softplus),
    "Softsign": _operator(lambda x: x / (1 + abs(x))),
    "Sqrt": _operator(_ieee(np.sqrt)),
    "Sub": _operator(lambda x, y: x - y),
    "Sum": _operator(lambda *numbers: sum(numbers)),
    "Tan": _operator(_ieee(np.tan)),
    "Tanh": _operator(tanh),
    "ThresholdedRelu": _operator(lambda x, alpha: x if x > alpha else 0, alpha=1.0),
    "Where": lambda node, chosen, x, y: each(lambda first, a, b: a if first else b, chosen, x, y, dtype=x.dtype),
    "Xor": _comparison(lambda x, y: x != y),
}
