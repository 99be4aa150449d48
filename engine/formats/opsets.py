"""Upgrades ONNX operators of old operator sets to current ones, by operator, after ONNX's Changelog.md.

The engine keeps one form of each node: settings that newer sets pass as inputs may stay attributes (`engine.attributes`
lists them), because a plan needs them before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.formats.microsoft import swish
from engine.graph import Array, ModelError, Node, UnsupportedOperator

NEWEST = 28


def upgrade(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Return the equivalent current nodes of a node of an old operator set; constants are added to `arrays`.

    Raises:
        ModelError: a Constant without a value, or with the name of another one.
        UnsupportedOperator: an attribute's value that has no equivalent.
    """
    if node.op_type == "Constant":
        _constant(node, arrays)
        return []
    if "consumed_inputs" in node.attributes:  # operator set 1: which inputs may be overwritten
        node = _without(node, "consumed_inputs")
    change = _CHANGES.get(node.op_type)
    return change(node, opset, arrays) if change else [node]


def _constant(node: Node, arrays: dict[str, Array]) -> None:
    values = [(name, node.attributes[name]) for name in _CONSTANTS if name in node.attributes]
    if len(values) != 1 or len(node.outputs) != 1 or node.outputs[0] in arrays:
        raise ModelError(f"Constant '{node.name}' should have one value, and one output with a unique name")
    name, value = values[0]
    arrays[node.outputs[0]] = np.asarray(value, _CONSTANTS[name])


_CONSTANTS: Mapping[str, str | None] = {
    "value": None,
    "value_float": "float32",
    "value_floats": "float32",
    "value_int": "int64",
    "value_ints": "int64",
}


def _without(node: Node, *names: str) -> Node:
    return replace(node, attributes={key: value for key, value in node.attributes.items() if key not in names})


def _with(node: Node, **changes: Any) -> Node:
    return replace(node, attributes={**node.attributes, **changes})


def _broadcast(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Keep `axis` of sets before 7, the place of the second input's axes; constant folding, with the ranks, uses it."""
    if not node.attributes.get("broadcast") or node.attributes.get("axis") == -1:
        node = _without(node, "axis")
    return [_without(node, "broadcast")]


def _slope(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Add `axis`: before 7, PRelu's slopes lie along axis 1."""
    return [_with(node, axis=1) if opset < 7 else node]


def _softmax(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Flatten before 13, where all axes from `axis` (1) on count as one; since 13 only `axis` (-1) does."""
    if opset >= 13:
        return [node]
    x, y = node.inputs[0], node.outputs[0]
    shape, flat, found = f"{y}/shape", f"{y}/flat", f"{y}/found"
    return [
        Node("Shape", (x,), (shape,), {}, f"{node.name}/shape"),
        Node("Flatten", (x,), (flat,), {"axis": node.attributes.get("axis", 1)}, f"{node.name}/flat"),
        replace(node, inputs=(flat,), outputs=(found,), attributes={"axis": -1}),
        Node("Reshape", (found, shape), (y,), {}, f"{node.name}/reshape"),
    ]


def _cast(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Replace names of data types, used before 6, by numbers; half precision is rounded, and float32 again after it."""
    names = {"FLOAT": 1, "INT32": 6, "INT64": 7, "BOOL": 9, "FLOAT16": 10, "DOUBLE": 11}
    to = node.attributes.get("to")
    to = names.get(to, 0) if isinstance(to, str) else to
    node = _with(_without(node, "saturate", "round_mode"), to=to)
    if to not in _HALVES:
        return [node]
    half = f"{node.outputs[0]}/half"
    return [replace(node, outputs=(half,)), Node("Cast", (half,), node.outputs, {"to": _FLOAT}, node.name)]


_FLOAT, _HALVES = 1, (10, 16)


def _upsample(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Replace Upsample, which ended in 10, by a Resize that counts from the corner and rounds down."""
    found = dict(node.attributes)
    scales = found.pop("scales", None)
    if opset < 7:
        scales = (1.0, 1.0, found.pop("height_scale", 1.0), found.pop("width_scale", 1.0))
    mode = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}.get(found.pop("mode", "nearest"))
    if mode is None or found:
        raise UnsupportedOperator(f"Upsample '{node.name}': {node.attributes!r:.80}")
    attributes = {"mode": mode, **_FROM_THE_CORNER, **({} if scales is None else {"scales": tuple(scales)})}
    return [replace(node, op_type="Resize", inputs=_scales_third(node), attributes=attributes)]


def _resize(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Convert Resize of set 10, which had (X, scales), counted from the corner and rounded down."""
    if opset > 10:
        return [node]
    return [replace(_with(node, **_FROM_THE_CORNER), inputs=_scales_third(node))]


_FROM_THE_CORNER = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def _scales_third(node: Node) -> tuple[str, ...]:
    return (node.inputs[0], "", node.inputs[1]) if len(node.inputs) > 1 else node.inputs


def _pad(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Rename `paddings` of set 1 to `pads`."""
    if "paddings" in node.attributes:
        node = _without(_with(node, pads=node.attributes["paddings"]), "paddings")
    return [node]


def _concat(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Add `axis`, which was optional before 4."""
    return [_with(node, axis=node.attributes.get("axis", 1)) if opset < 4 else node]


def _split(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Add `num_outputs`: before 18, without sizes, the number of outputs defined the parts."""
    sized = "split" in node.attributes or any(node.inputs[1:])
    return [node if sized or opset >= 18 else _with(node, num_outputs=len(node.outputs))]


def _inference(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Drop `is_test` of sets before 7, which selects inference: the engine runs nothing else."""
    return [_without(node, "is_test", "seed")]


def _batch_norm(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Refuse training: before 7 that is the default of `is_test`, and before 14 it is meant by five outputs."""
    if opset < 7 and not node.attributes.get("is_test"):
        raise UnsupportedOperator(f"BatchNormalization '{node.name}': is_test=0, training; supported is inference")
    if opset < 14 and any(node.outputs[1:]):
        raise UnsupportedOperator(
            f"BatchNormalization '{node.name}' has {len(node.outputs)} outputs, as in training; supported is inference"
        )
    return [_without(node, "is_test")]


def _swish(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Separate Swish of set 24, as all sets before have it."""
    return swish(node, float(node.attributes.get("alpha", 1.0)))


def _affine(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Replace the experimental Affine and ImageScaler of sets before 10: x * alpha + beta, a bias for each channel."""
    has, y = node.attributes, node.outputs[0]
    factor, shift = f"{y}/factor", f"{y}/shift"
    arrays[factor] = np.array(has.get("scale" if node.op_type == "ImageScaler" else "alpha", 1.0), np.float32)
    arrays[shift] = np.array(has.get("bias", has.get("beta", 0.0)), np.float32)
    if node.op_type == "ImageScaler":
        arrays[shift] = arrays[shift].reshape(-1, 1, 1)
    scaled = Node("Mul", (node.inputs[0], factor), (f"{y}/scaled",), {}, node.name)
    return [scaled, Node("Add", (f"{y}/scaled", shift), (y,), {}, node.name)]


def _crop(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Replace the experimental Crop of sets before 10: the border's widths are left, top, right, bottom."""
    border, size = node.attributes.get("border", ()), node.attributes.get("scale", ())
    if len(border) != 4 or len(size) not in (0, 2):
        raise ModelError(f"Crop '{node.name}': border={border!r:.60}, scale={size!r:.60}")
    left, top, right, bottom = border
    ends = (top + size[0], left + size[1]) if size else (-bottom or _END, -right or _END)
    return [replace(node, op_type="Slice", attributes={"starts": (top, left), "ends": ends, "axes": (2, 3)})]


_END = (1 << 31) - 1


def _gemm(node: Node, opset: int, arrays: dict[str, Array]) -> list[Node]:
    """Drop `broadcast`, which enabled broadcasting C before 7."""
    return [_without(node, "broadcast")]


_CHANGES: Mapping[str, Callable[[Node, int, dict[str, Array]], list[Node]]] = {
    "Add": _broadcast,
    "Affine": _affine,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Crop": _crop,
    "Div": _broadcast,
    "Dropout": _inference,
    "Gemm": _gemm,
    "ImageScaler": _affine,
    "LogSoftmax": _softmax,
    "Mul": _broadcast,
    "PRelu": _slope,
    "Pad": _pad,
    "Resize": _resize,
    "Softmax": _softmax,
    "Split": _split,
    "Sub": _broadcast,
    "Swish": _swish,
    "Upsample": _upsample,
}
