"""Cases of operators that the engine's nets do not use, compared with onnxruntime instead of PyTorch."""

from __future__ import annotations

from typing import Any

from engine.graph import Shape
from tests.engine.case import Case


def case(op_type: str, name: str, *shapes: Shape, **attributes: Any) -> Case:
    return Case(f"{op_type}_{name}".lower(), op_type, shapes, attributes, in_torch=False)


def transposed(name: str, x: Shape, weight: Shape, *, bias: bool = False, **attributes: Any) -> Case:
    group = attributes.get("group", 1)
    shapes = (x, weight, (weight[1] * group,)) if bias else (x, weight)
    return case("ConvTranspose", name, *shapes, **attributes)


def resized(name: str, x: Shape, **attributes: Any) -> Case:
    return case("Resize", name, x, **attributes)


UP, DOWN = (1.0, 1.0, 2.0, 3.0), (1.0, 1.0, 0.6, 0.5)
FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

MORE_CASES = [
    case("Sub", "same", (2, 3, 4, 5), (2, 3, 4, 5)),
    case("Sub", "channel", (2, 3, 4, 5), (3, 1, 1)),
    case("Mul", "excitation", (2, 3, 4, 5), (2, 3, 1, 1)),
    case("Mul", "both_ways", (2, 1, 4, 1), (3, 1, 5)),
    case("Mul", "scalar", (2, 3), ()),
    case("Div", "same", (2, 3, 4), (2, 3, 4)),
    case("LeakyRelu", "default", (2, 3, 4)),
    case("LeakyRelu", "steep", (2, 3, 4), alpha=1.5),
    case("LeakyRelu", "negative", (2, 3, 4), alpha=-0.5),
    case("PRelu", "channel", (2, 3, 4, 5), (3, 1, 1)),
    case("PRelu", "one", (2, 3, 4), (1,)),
    case("PRelu", "each", (2, 3), (2, 3)),
    case("Clip", "relu6", (2, 3, 4, 5), min=0.0, max=1.5),
    case("Clip", "low", (2, 3, 4), min=-0.5),
    case("Clip", "high", (2, 3, 4), max=0.5),
    case("Clip", "none", (2, 3, 4)),
    case("Clip", "crossed", (2, 3, 4), min=1.0, max=-1.0),
    case("Sigmoid", "plain", (2, 3, 4)),
    case("Tanh", "plain", (2, 3, 4)),
    case("HardSigmoid", "default", (2, 3, 4)),
    case("HardSigmoid", "torch", (2, 3, 4), alpha=1 / 6, beta=0.5),
    case("HardSwish", "plain", (2, 3, 4, 5)),
    case("Concat", "channels", (2, 3, 4), (2, 1, 4), (2, 2, 4), axis=1),
    case("Concat", "from_end", (2, 3, 4), (2, 3, 2), axis=-1),
    case("Concat", "alone", (2, 3), axis=0),
    case("Slice", "plain", (4, 5, 6), starts=(1, 2), ends=(3, 5)),
    case("Slice", "axes_steps", (4, 5, 6), starts=(0, 1), ends=(10, -1), axes=(2, -2), steps=(2, 2)),
    case("Slice", "backwards", (4, 5), starts=(-1,), ends=(-100,), axes=(1,), steps=(-2,)),
    case("Transpose", "reversed", (2, 3, 4)),
    case("Transpose", "shuffle", (2, 3, 4, 5), perm=(0, 2, 1, 3)),
    case("Gather", "rows", (4, 5), (3,)),
    case("Gather", "axis_1", (2, 4, 3), (2, 2), axis=1),
    case("Gather", "scalar", (4, 5), (), axis=-1),
    case("Pad", "constant", (1, 2, 4, 5), pads=(0, 0, 1, 2, 0, 1, 3, 0), value=0.5),
    case("Pad", "crop", (1, 2, 4, 5), pads=(0, 0, -1, 2, 0, 0, 1, -2)),
    case("Pad", "reflect", (1, 2, 4, 5), pads=(0, 0, 1, 2, 0, 0, 3, 1), mode="reflect"),
    case("Pad", "edge", (1, 2, 4, 5), pads=(0, 0, 1, 2, 0, 1, 3, 0), mode="edge"),
    case("Pad", "wrap", (2, 4), pads=(1, 2, 0, 3), mode="wrap"),
    case("Pad", "axes", (1, 2, 4, 5), pads=(1, 2), axes=(-1,)),
    case("Reshape", "rest", (2, 3, 4), shape=(0, -1)),
    case("Reshape", "all", (2, 3, 4), shape=(4, 6)),
    case("Squeeze", "all", (2, 1, 3, 1)),
    case("Squeeze", "axes", (2, 1, 3, 1), axes=(-1,)),
    case("Unsqueeze", "two", (2, 3), axes=(0, -1)),
    case("ReduceMean", "spatial", (2, 3, 4, 5), axes=(2, 3), keepdims=1),
    case("ReduceMean", "drop", (2, 3, 4), axes=(-1,), keepdims=0),
    case("ReduceMean", "all", (2, 3, 4), keepdims=0),
    case("GlobalMaxPool", "plain", (2, 3, 4, 5)),
    case("GlobalMaxPool", "one_dimension", (2, 3, 7)),
    case("LogSoftmax", "plain", (2, 7)),
    case("LogSoftmax", "axis_1", (2, 3, 4), axis=1),
    case("LRN", "odd", (2, 6, 3, 4), size=3, alpha=0.2, beta=0.6, bias=1.5),
    case("LRN", "even", (1, 5, 3), size=4, alpha=0.1),
    case("LRN", "wide", (1, 3, 2, 2), size=9),
    case("MatMul", "matrices", (3, 4), (4, 5)),
    case("MatMul", "stacks", (2, 3, 4), (2, 4, 5)),
    case("MatMul", "broadcast", (2, 1, 3, 4), (5, 4, 2)),
    case("MatMul", "row", (4,), (4, 5)),
    case("MatMul", "column", (2, 3, 4), (4,)),
    case("MatMul", "inner", (4,), (4,)),
    transposed("plain", (1, 2, 3, 4), (2, 3, 3, 3)),
    transposed("bias_stride_pads", (2, 2, 3, 4), (2, 3, 3, 2), bias=True, strides=(2, 3), pads=(1, 0, 0, 1)),
    transposed("output_padding", (1, 2, 3, 3), (2, 2, 3, 3), strides=(3, 2), output_padding=(2, 1)),
    transposed("output_shape", (1, 1, 3, 3), (1, 2, 3, 3), strides=(3, 2), output_shape=(10, 8)),
    transposed("dilated", (1, 1, 3, 3), (1, 1, 2, 2), dilations=(2, 3)),
    transposed("groups", (1, 4, 3, 3), (4, 2, 2, 2), group=2, bias=True),
    transposed("same_upper", (1, 1, 3, 3), (1, 2, 3, 3), strides=(2, 2), auto_pad="SAME_UPPER"),
    transposed("one_dimension", (1, 2, 5), (2, 3, 4), strides=(2,), pads=(1, 1)),
    transposed("pointwise", (1, 3, 2, 2), (3, 4, 1, 1)),
    resized("nearest_up", (1, 2, 3, 4), scales=UP),
    resized("nearest_down", (1, 2, 5, 6), scales=DOWN),
    resized("nearest_floor", (1, 2, 3, 4), scales=UP, **FLOOR),
    resized("nearest_ceil", (1, 1, 4, 4), sizes=(1, 1, 7, 3), mode="nearest", nearest_mode="ceil"),
    resized("nearest_1d", (1, 2, 5), scales=(1.0, 1.0, 2.0)),
    resized("linear_up", (1, 2, 3, 4), scales=UP, mode="linear"),
    resized("linear_down", (1, 2, 5, 6), scales=DOWN, mode="linear"),
    resized(
        "linear_corners",
        (1, 1, 3, 4),
        sizes=(1, 1, 6, 5),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    resized(
        "linear_torch",
        (1, 1, 4, 4),
        sizes=(1, 1, 3, 1),
        mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    ),
    resized(
        "cubic_torch_one",
        (1, 1, 2, 6),
        sizes=(1, 1, 5, 1),
        mode="cubic",
        coordinate_transformation_mode="pytorch_half_pixel",
    ),
    resized("linear_antialias", (1, 1, 6, 6), scales=DOWN, mode="linear", antialias=1),
    resized("cubic_up", (1, 1, 4, 5), scales=UP, mode="cubic"),
    resized("cubic_inside", (1, 1, 4, 5), scales=DOWN, mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    resized("cubic_antialias", (1, 1, 8, 8), scales=DOWN, mode="cubic", antialias=1),
    resized("same", (1, 2, 3, 4), scales=(1.0, 1.0, 1.0, 1.0)),
    resized(
        "crop",
        (1, 1, 4, 4),
        sizes=(1, 1, 3, 3),
        roi=(0.0, 0.0, 0.4, 0.6, 1.0, 1.0, 1.2, 1.7),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=10.0,
    ),
]
