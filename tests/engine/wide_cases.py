"""Cases of the operators that no built-in net has: operator, inputs, attributes; inputs of any data type and range."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.graph import Array, Node

Make = Callable[[np.random.RandomState], Array]


def floats(*shape: int, low: float = -3, high: float = 3, dtype: str = "f4") -> Make:
    return lambda state: np.asarray(state.uniform(low, high, shape), dtype)


def integers(*shape: int, low: int = -5, high: int = 6, dtype: str = "i8") -> Make:
    return lambda state: np.asarray(state.randint(low, high, shape), dtype)


def flags(*shape: int) -> Make:
    return lambda state: np.asarray(state.randint(0, 2, shape), bool)


def given(*numbers: Any, dtype: str = "f4") -> Make:
    return lambda state: np.array(numbers, dtype)


@dataclass(frozen=True)
class WideCase:
    name: str
    op_type: str
    makes: tuple[Make, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    runtime: bool = True  # False: ONNX Runtime lacks it, or defines it otherwise

    def inputs(self) -> list[Array]:
        state = np.random.RandomState(zlib.crc32(self.name.encode()))
        return [make(state) for make in self.makes]

    def node(self) -> Node:
        names = tuple(f"in{index}" for index in range(len(self.makes)))
        return Node(self.op_type, names, ("out",), self.attributes, self.name)


def case(op_type: str, name: str, *makes: Make, runtime: bool = True, **attributes: Any) -> WideCase:
    return WideCase(f"{op_type}_{name}".lower(), op_type, makes, attributes, runtime)


SHAPE = (2, 3, 4, 5)
ANY_NUMBER = (
    "Abs",
    "Atan",
    "Asinh",
    "Celu",
    "Ceil",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Mish",
    "Neg",
    "Round",
)
ANY_NUMBER += ("Selu", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "ThresholdedRelu", "Gelu", "Reciprocal")
LIMITED = {"Acos": (-1, 1), "Acosh": (1, 9), "Asin": (-1, 1), "Atanh": (-0.99, 0.99), "Log": (0.01, 9), "Sqrt": (0, 9)}
REDUCTIONS = ("L1", "L2", "LogSumExp", "Max", "Min", "Prod", "Sum", "SumSquare")
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
HALVES = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e9, -0.0)
FAR = (-1e30, -200.0, -90.0, -20.0, -1e-6, -0.0, 0.0, 1e-6, 20.0, 90.0, 200.0, 1e30)

WIDE_CASES = [
    *(case(op, "plain", floats(*SHAPE)) for op in ANY_NUMBER),
    *(case(op, "plain", floats(*SHAPE, low=low, high=high)) for op, (low, high) in LIMITED.items()),
    *(case(op, "far", given(*FAR)) for op in ("Elu", "Erf", "Gelu", "Mish", "Selu", "Softplus", "Softsign")),
    case("Round", "halves", given(*HALVES)),
    case("Gelu", "tanh", floats(*SHAPE), approximate="tanh"),
    case("Elu", "alpha", floats(*SHAPE), alpha=0.3),
    case("Celu", "alpha", floats(*SHAPE), alpha=0.3),
    case("ThresholdedRelu", "alpha", floats(*SHAPE), alpha=-0.5),
    case("Abs", "int32", integers(2, 3, dtype="i4")),
    case("Neg", "int64", integers(2, 3)),
    case("Sqrt", "double", floats(2, 3, low=0, dtype="f8")),
    case("IsNaN", "plain", given(1, np.nan, np.inf)),
    case("IsInf", "plain", given(1, np.nan, np.inf, -np.inf)),
    case("IsInf", "negative", given(1, np.nan, np.inf, -np.inf), detect_positive=0),
    case("IsInf", "neither", given(1, np.inf), detect_positive=0, detect_negative=0),
    case("Not", "plain", flags(2, 3)),
    *(case(op, "both_ways", flags(2, 1, 3), flags(4, 1)) for op in ("And", "Or", "Xor")),
    *(case(op, "int64", integers(2, 1, 4), integers(3, 1)) for op in COMPARISONS),
    *(case(op, "float", given(1, 2, np.nan, -0.0), given(1, 3, np.nan, 0.0)) for op in COMPARISONS),
    case("Equal", "bool", flags(4, 5), flags(4, 5)),
    *(case(op, "three", floats(2, 1, 4), floats(3, 1), floats(1)) for op in ("Max", "Min", "Mean")),
    *(case(op, "one", floats(2, 3)) for op in ("Max", "Min", "Mean")),
    *(case(op, "nan", given(1, np.nan, 3), given(2, 2, np.nan)) for op in ("Max", "Min")),
    case("Max", "int32", integers(2, 3, dtype="i4"), integers(3, dtype="i4")),
    case("Mod", "signs", integers(40), integers(40, low=1)),
    case("Mod", "fmod", floats(40), floats(40, low=0.5), fmod=1),
    case("Mod", "fmod_int", integers(40), integers(40, low=1), fmod=1),
    case("Div", "int64", integers(40), integers(40, low=1)),
    case("Div", "double", floats(4, 5, dtype="f8"), floats(5, low=1, dtype="f8")),
    *(case(op, "int32", integers(2, 3, dtype="i4"), integers(3, dtype="i4")) for op in ("Add", "Sub", "Mul")),
    case("Pow", "square", floats(2, 3), given(2)),
    case("Pow", "each", floats(2, 3, low=0.1), floats(3)),
    case("Pow", "of_negatives", given(-2, -0.5, 0, 3), given(3, -2, 0, 0.5)),
    case("Pow", "int64", integers(2, 3), given(3, dtype="i8")),
    case("Pow", "float_by_int", floats(2, 3), given(3, dtype="i8")),
    case("Where", "both_ways", flags(2, 1, 4), floats(3, 1), floats(1)),
    case("Where", "int64", flags(4), integers(4), integers(3, 4)),
    *(case("Cast", f"to_{to}", floats(30, low=0, high=99), to=to) for to in (1, 2, 6, 7, 9, 11)),
    case("Cast", "int64_to_float", integers(9), to=1),
    case("Expand", "both_ways", floats(3, 1), shape=(2, 1, 6)),
    case("Expand", "bool", flags(1), shape=(4,)),
    case("Tile", "plain", floats(2, 3), repeats=(2, 3)),
    case("Tile", "int64", integers(2, 1, 2), repeats=(1, 3, 2)),
    case("DepthToSpace", "dcr", floats(2, 8, 2, 3), blocksize=2),
    case("DepthToSpace", "crd", floats(2, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", "plain", floats(2, 3, 4, 6), blocksize=2),
    *(case(f"Reduce{name}", "channel", floats(*SHAPE), axes=(1,)) for name in (*REDUCTIONS, "Mean")),
    *(case(f"Reduce{name}", "all", floats(2, 3, 4), keepdims=0) for name in (*REDUCTIONS, "Mean")),
    *(case(f"Reduce{name}", "two", floats(*SHAPE), axes=(-1, 0), keepdims=0) for name in (*REDUCTIONS, "Mean")),
    *(case(f"Reduce{name}", "int32", integers(3, 4, dtype="i4"), axes=(0,)) for name in ("Max", "Min", "Sum", "Prod")),
    *(
        case(f"Reduce{name}", "noop", floats(2, 3), noop_with_empty_axes=1, runtime=False)
        for name in ("L1", "L2", "Sum", "SumSquare", "Max")
    ),
    case("ReduceLogSum", "plain", floats(2, 3, 4, low=0.1), axes=(1,)),
    case("ReduceLogSumExp", "far", given(-900, 900, 899), axes=(0,)),
    case("ReduceLogSumExp", "infinite", given(-np.inf, 1, 2), axes=(0,), runtime=False),
    case("ReduceMax", "empty", floats(2, 0, 3), axes=(1,), runtime=False),
    case("ReduceSum", "empty", floats(2, 0, 3), axes=(1,)),
    case("InstanceNormalization", "plain", floats(2, 3, 4, 5), floats(3), floats(3)),
    case("InstanceNormalization", "signal", floats(2, 3, 7), floats(3), floats(3), epsilon=0.1),
    case("LayerNormalization", "last", floats(2, 3, 8), floats(8), floats(8)),
    case("LayerNormalization", "from_axis_1", floats(2, 3, 4), floats(3, 4), axis=1),
    case("RMSNormalization", "last", floats(2, 3, 8), floats(8), runtime=False),
    case("GroupNormalization", "by_channel", floats(2, 6, 3, 4), floats(6), floats(6), num_groups=2, runtime=False),
    case("GroupNormalization", "by_group", floats(2, 6, 3, 4), floats(3), floats(3), num_groups=3, runtime=False),
    *(case(op, "channel", floats(*SHAPE), axis=1) for op in ("ArgMax", "ArgMin")),
    *(case(op, "drop", floats(*SHAPE), axis=-1, keepdims=0) for op in ("ArgMax", "ArgMin")),
    *(case(op, "ties", integers(6, 9, low=0, high=3, dtype="i4"), axis=1) for op in ("ArgMax", "ArgMin")),
    *(
        case(op, "last_of_ties", integers(6, 9, low=0, high=3, dtype="i4"), axis=1, select_last_index=1)
        for op in ("ArgMax", "ArgMin")
    ),
    case("GatherElements", "rows", floats(4, 5), integers(2, 5, low=-4, high=4)),
    case("GatherElements", "axis_1", floats(2, 4, 3), integers(2, 6, 3, low=0, high=4), axis=1),
    case("GatherElements", "int32_indices", integers(4, 5), integers(4, 2, low=-5, high=5, dtype="i4"), axis=1),
    case("TopK", "largest", floats(3, 9), k=4),
    case("TopK", "smallest", floats(3, 9, 2), k=9, axis=1, largest=0),
    case("TopK", "ties", integers(4, 12, low=-2, high=3, dtype="i4"), k=7),
    case("TopK", "zeros", given(0.0, -0.0, 0.0, -1, -0.0, 1e-45, -1e-45), k=7),
    case("TopK", "infinite", given(np.inf, -np.inf, 1, -1, np.inf), k=5),
    case("QuantizeLinear", "plain", floats(3, 50), given(0.02), given(7, dtype="u1")),
    case("QuantizeLinear", "int8", floats(3, 50), given(0.02), given(-7, dtype="i1")),
    case("QuantizeLinear", "halves", given(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 999, -999), given(1), given(0, dtype="i1")),
    case("QuantizeLinear", "axis", floats(2, 3, 4), given(0.01, 0.1, 1), given(1, 2, 3, dtype="u1"), axis=1),
    case("DequantizeLinear", "plain", integers(3, 5, low=0, high=255, dtype="u1"), given(0.02), given(7, dtype="u1")),
    case("DequantizeLinear", "int32", integers(3, low=-(10**6), high=10**6, dtype="i4"), given(0.02)),
    case("DequantizeLinear", "axis", integers(3, 4, dtype="i1"), floats(3, low=0.1), integers(3, dtype="i1"), axis=0),
    case("Gather", "by_data", floats(4, 5), integers(2, 3, low=-4, high=4)),
    case("Gather", "of_int64", integers(3, 4), integers(2, low=0, high=4), axis=1),
    case("Concat", "int64", integers(2, 3), integers(1, 3), axis=0),
    case("Transpose", "bool", flags(2, 3, 4), perm=(1, 2, 0)),
    case("Pad", "int64", integers(2, 3), pads=(1, 0, 0, 2), value=7, runtime=False),  # as ONNX its value is float32
    case("Slice", "backwards_from_before", floats(4), starts=(-9,), ends=(-1000,), steps=(-1,)),
    case("Slice", "backwards_of_one", floats(1, 3), starts=(-3, 5), ends=(1 << 31, -9), axes=(0, 1), steps=(-2, -2)),
    case("Slice", "int64", integers(5, 6), starts=(4,), ends=(-9,), steps=(-2,)),
]
"""A case for each operator of `engine.kernels` that the cases of the built-in nets' operators lack, and more."""
