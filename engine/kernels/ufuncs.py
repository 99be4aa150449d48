"""Runs element-wise operators of one input by a table: each is a few ufuncs over the data, in place, in any layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import pi, sqrt
from typing import Any

import numpy as np

from engine.graph import Array, Node
from engine.kernels.step import Call, Kernel, Layout, Operand, Scratch, Step, attributes, clip, scalar, unsupported

Attributes = Mapping[str, Any]
Passes = Callable[[Attributes, Array, Array, Sequence[Array]], list[Call]]

BOOL = np.dtype(np.bool_)
APPROXIMATIONS = ("none", "tanh")  # of Gelu


@dataclass(frozen=True)
class Unary:
    """Describes an operator of one input.

    Attributes:
        passes: (attributes, input, output, rooms) -> calls; the rooms are buffers like the input.
        rooms: how many.
        room: their data type; None: that of the input.
        out: data type of the output; None: that of the input.
        defaults: attributes and their defaults.
    """

    passes: Passes
    rooms: int = 0
    room: np.dtype[Any] | None = None
    out: np.dtype[Any] | None = None
    defaults: Attributes = field(default_factory=dict)


def _one(ufunc: np.ufunc) -> Passes:
    """Return the passes of an operator that is a ufunc."""
    return lambda has, x, out, rooms: [partial(ufunc, x, out=out)]


def _negative(has: Attributes, x: Array, out: Array, rooms: Sequence[Array]) -> list[Call]:
    return [partial(np.multiply, x, scalar(-1, x.dtype), out=out)]  # see `engine.kernels.activations`


def _elu(has: Attributes, x: Array, out: Array, rooms: Sequence[Array], *, divides: bool = False) -> list[Call]:
    """Compute gamma * (alpha * (exp(min(x, 0)) - 1) + max(x, 0)); Celu divides x by alpha within the exponent."""
    (below,), alpha, gamma = rooms, has["alpha"], has.get("gamma", 1.0)
    return [
        partial(np.minimum, x, scalar(0, x.dtype), out=below),
        *([partial(np.divide, below, scalar(alpha, x.dtype), out=below)] if divides else []),
        partial(np.expm1, below, out=below),
        partial(np.multiply, below, scalar(alpha * gamma, x.dtype), out=below),
        partial(np.maximum, x, scalar(0, x.dtype), out=out),
        *([partial(np.multiply, out, scalar(gamma, x.dtype), out=out)] if gamma != 1 else []),
        partial(np.add, out, below, out=out),
    ]


def _softplus(has: Attributes, x: Array, out: Array, rooms: Sequence[Array]) -> list[Call]:
    """Compute log(1 + exp(x)) as log1p(exp(-|x|)) + max(x, 0), which does not overflow."""
    (power,) = rooms
    return [
        partial(np.absolute, x, out=power),
        partial(np.multiply, power, scalar(-1, x.dtype), out=power),
        partial(np.exp, power, out=power),
        partial(np.log1p, power, out=power),
        partial(np.maximum, x, scalar(0, x.dtype), out=out),
        partial(np.add, out, power, out=out),
    ]


def _softsign(has: Attributes, x: Array, out: Array, rooms: Sequence[Array]) -> list[Call]:
    (room,) = rooms
    one = scalar(1, x.dtype)
    return [
        partial(np.absolute, x, out=room),
        partial(np.add, room, one, out=room),
        partial(np.divide, x, room, out=out),
    ]


MISH_LIMIT = 20.0  # above it tanh(softplus(x)) is 1 in float32 and float64


def _mish(has: Attributes, x: Array, out: Array, rooms: Sequence[Array]) -> list[Call]:
    """Compute x * tanh(log(1 + e)) for e = exp(x), which is x * n / (n + 2) for n = e * (e + 2)."""
    (n,) = rooms
    two = scalar(2, x.dtype)
    return [
        partial(np.minimum, x, scalar(MISH_LIMIT, x.dtype), out=n),
        partial(np.exp, n, out=n),
        partial(np.add, n, two, out=out),
        partial(np.multiply, n, out, out=n),
        partial(np.add, n, two, out=out),
        partial(np.divide, n, out, out=n),
        partial(np.multiply, x, n, out=out),
    ]


# erf(x) = x * P(x^2) / Q(x^2) up to |x| = 3.92, where it is 1 in float32; a fit by least squares of the relative error,
# with a largest one of 2e-8.
ERF_END = 3.92
ERF_P = (2.0500847e-06, 2.8488357e-04, 3.7656464e-03, 5.2748814e-02, 1.9040713e-01, 1.1283791)
ERF_Q = (3.8091734e-05, 1.1625430e-03, 1.4969275e-02, 1.1410939e-01, 5.0207669e-01, 1.0)


def _polynomial(coefficients: Sequence[float], t: Array, out: Array) -> list[Call]:
    """Compute a polynomial of t by Horner's rule, the highest power first."""
    first, *rest = (scalar(value, t.dtype) for value in coefficients)
    calls: list[Call] = [partial(np.multiply, t, first, out=out)]
    for value in rest[:-1]:
        calls += [partial(np.add, out, value, out=out), partial(np.multiply, out, t, out=out)]
    return [*calls, partial(np.add, out, rest[-1], out=out)]


def _erf(has: Attributes, x: Array, out: Array, rooms: Sequence[Array], *, factor: float = 1.0) -> list[Call]:
    """Compute erf(factor * x)."""
    near, square, below = rooms
    limits = scalar(-ERF_END, x.dtype), scalar(ERF_END, x.dtype)
    return [
        partial(np.multiply, x, scalar(factor, x.dtype), out=near),
        partial(clip, near, *limits, near),
        partial(np.square, near, out=square),
        *_polynomial(ERF_Q, square, below),
        partial(np.divide, near, below, out=near),
        *_polynomial(ERF_P, square, below),
        partial(np.multiply, near, below, out=out),
    ]


def _gelu(has: Attributes, x: Array, out: Array, rooms: Sequence[Array]) -> list[Call]:
    """Compute x times the normal distribution of x, exact or approximated by tanh."""
    inner = rooms[0]
    if has["approximate"] == "none":
        calls = _erf(has, x, inner, [inner, *rooms[1:]], factor=sqrt(0.5))
    else:
        calls = [
            partial(np.square, x, out=inner),
            partial(np.multiply, inner, scalar(0.044715 * sqrt(2 / pi), x.dtype), out=inner),
            partial(np.add, inner, scalar(sqrt(2 / pi), x.dtype), out=inner),
            partial(np.multiply, inner, x, out=inner),
            partial(np.tanh, inner, out=inner),
        ]
    return [
        *calls,
        partial(np.add, inner, scalar(1, x.dtype), out=inner),
        partial(np.multiply, inner, scalar(0.5, x.dtype), out=inner),
        partial(np.multiply, x, inner, out=out),
    ]


def _thresholded(has: Attributes, x: Array, out: Array, rooms: Sequence[Array]) -> list[Call]:
    """Compute x if it is above alpha, else 0."""
    (above,) = rooms
    return [
        partial(np.greater, x, scalar(has["alpha"], x.dtype), out=above),
        partial(out.fill, 0),
        partial(np.copyto, out, x, where=above),
    ]


def _infinite(has: Attributes, x: Array, out: Array, rooms: Sequence[Array]) -> list[Call]:
    high, low = has["detect_positive"], has["detect_negative"]
    if high and low:
        return [partial(np.isinf, x, out=out)]
    if not high and not low:
        return [partial(out.fill, False)]
    return [partial(np.equal, x, scalar(np.inf if high else -np.inf, x.dtype), out=out)]


UNARY: Mapping[str, Unary] = {
    "Abs": Unary(_one(np.absolute)),
    "Acos": Unary(_one(np.arccos)),
    "Acosh": Unary(_one(np.arccosh)),
    "Asin": Unary(_one(np.arcsin)),
    "Asinh": Unary(_one(np.arcsinh)),
    "Atan": Unary(_one(np.arctan)),
    "Atanh": Unary(_one(np.arctanh)),
    "Ceil": Unary(_one(np.ceil)),
    "Celu": Unary(partial(_elu, divides=True), 1, defaults={"alpha": 1.0}),
    "Cos": Unary(_one(np.cos)),
    "Cosh": Unary(_one(np.cosh)),
    "Elu": Unary(_elu, 1, defaults={"alpha": 1.0}),
    "Erf": Unary(_erf, 3),
    "Exp": Unary(_one(np.exp)),
    "Floor": Unary(_one(np.floor)),
    "Gelu": Unary(_gelu, 3, defaults={"approximate": "none"}),
    "IsInf": Unary(_infinite, out=BOOL, defaults={"detect_negative": 1, "detect_positive": 1}),
    "IsNaN": Unary(_one(np.isnan), out=BOOL),
    "Log": Unary(_one(np.log)),
    "Mish": Unary(_mish, 1),
    "Neg": Unary(_negative),
    "Not": Unary(_one(np.logical_not)),
    "Reciprocal": Unary(_one(np.reciprocal)),
    "Round": Unary(_one(np.rint)),  # halves to the even number, as ONNX has it
    "Selu": Unary(_elu, 1, defaults={"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    "Sign": Unary(_one(np.sign)),
    "Sin": Unary(_one(np.sin)),
    "Sinh": Unary(_one(np.sinh)),
    "Softplus": Unary(_softplus, 1),
    "Softsign": Unary(_softsign, 1),
    "Sqrt": Unary(_one(np.sqrt)),
    "Tan": Unary(_one(np.tan)),
    "ThresholdedRelu": Unary(_thresholded, 1, room=BOOL, defaults={"alpha": 1.0}),
}
"""The table by ONNX name. Erf and Gelu are exact for float32 alone."""


def _kernel(name: str, operator: Unary) -> Kernel:
    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        has = attributes(node, **operator.defaults)
        if has.get("approximate", "none") not in APPROXIMATIONS:
            raise unsupported(node, "approximate", has["approximate"], ", ".join(APPROXIMATIONS))
        shape, own = inputs[0].shape, inputs[0].dtype
        room = Scratch(shape, True, own if operator.room is None else operator.room)

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            return operator.passes(has, arrays[0], out, scratch)

        dtype = own if operator.out is None else operator.out
        rooms = (room,) * operator.rooms
        return Step(shape, bind, rooms, layout=Layout.ANY, strided=True, strided_out=True, dtype=dtype)

    kernel.__name__ = name.lower()
    return kernel


KERNELS: Mapping[str, tuple[Kernel, ...]] = {name: (_kernel(name, operator),) for name, operator in UNARY.items()}
