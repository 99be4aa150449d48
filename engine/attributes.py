"""Turns settings of operators that ONNX passes as inputs into attributes.

A plan needs them before it runs, because shapes and windows follow from them. Old operator sets had most of them as
attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.graph import Array, Graph, ModelError, Node, UnsupportedOperator, every_node

# Operator -> index of an input -> (the attribute with the same meaning, its data type).
PARAMETERS: Mapping[str, Mapping[int, tuple[str, str]]] = {
    "Clip": {1: ("min", "float32"), 2: ("max", "float32")},
    "ConstantOfShape": {0: ("shape", "int64")},
    "Dropout": {1: ("ratio", "float32"), 2: ("training_mode", "bool")},
    "Expand": {1: ("shape", "int64")},
    "Pad": {1: ("pads", "int64"), 2: ("value", "float32"), 3: ("axes", "int64")},
    **{
        f"Reduce{name}": {1: ("axes", "int64")}
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    "Reshape": {1: ("shape", "int64")},
    "Resize": {1: ("roi", "float32"), 2: ("scales", "float32"), 3: ("sizes", "int64")},
    "Slice": {1: ("starts", "int64"), 2: ("ends", "int64"), 3: ("axes", "int64"), 4: ("steps", "int64")},
    "Split": {1: ("split", "int64")},
    "Squeeze": {1: ("axes", "int64")},
    "Tile": {1: ("repeats", "int64")},
    "TopK": {1: ("k", "int64")},
    "Unsqueeze": {1: ("axes", "int64")},
}
# Names of attributes by the kind of their value; the same for all operators.
_FLOATS = frozenset(
    ("alpha", "beta", "bias", "cubic_coeff_a", "epsilon", "extrapolation_value", "max", "min", "momentum", "ratio")
)
_INTS = frozenset(
    (
        "allowzero",
        "antialias",
        "axis",
        "blocksize",
        "ceil_mode",
        "count_include_pad",
        "detect_negative",
        "detect_positive",
        "end",
        "exclude_outside",
        "fmod",
        "group",
        "k",
        "keepdims",
        "largest",
        "noop_with_empty_axes",
        "num_groups",
        "num_outputs",
        "select_last_index",
        "size",
        "sorted",
        "spatial",
        "start",
        "stash_type",
        "storage_order",
        "to",
        "training_mode",
        "transA",
        "transB",
    )
)
_TUPLES_OF_INTS = frozenset(
    (
        "axes",
        "dilations",
        "ends",
        "kernel_shape",
        "output_padding",
        "output_shape",
        "pads",
        "perm",
        "repeats",
        "shape",
        "sizes",
        "split",
        "starts",
        "steps",
        "strides",
    )
)
_OF_WINDOWS = ("dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides")
MAX_SIDE = 1 << 24
_SCALARS = ("k", "min", "max", "ratio", "training_mode", "value")


class NotPlannable(UnsupportedOperator):
    """Signals a node that no plan can hold, because a shape or a setting follows from data; `Model.run` runs it."""


def inputs_to_attributes(node: Node, constants: Mapping[str, Array]) -> Node:
    """Return the node with its settings as attributes instead of inputs, and without empty inputs at the end.

    Raises:
        ModelError: an attribute of the wrong kind.
        NotPlannable: such a setting is not among `constants`.
    """
    check_kinds(node)
    inputs, attributes = list(node.inputs), dict(node.attributes)
    for place, (name, _) in PARAMETERS.get(node.op_type, {}).items():
        if place >= len(node.inputs) or not node.inputs[place]:
            continue
        if inputs[place] not in constants:
            raise NotPlannable(
                f"{node.op_type} '{node.name}': its {name} ('{inputs[place]}') is computed from data; "
                "a plan needs it before it runs"
            )
        value = constants[inputs[place]]
        if node.op_type == "Clip" and value.size == 1 and value.item() == (-np.inf if name == "min" else np.inf):
            continue  # no limit, which the JSON of a shared model could not hold
        if value.size or name in ("axes", "repeats", "shape"):  # an empty roi, scales or sizes stands for none
            attributes[name] = _plain(name, value)
    first = min(PARAMETERS.get(node.op_type, {}), default=len(inputs))
    inputs = inputs[:first]
    while inputs and not inputs[-1]:
        inputs.pop()
    return replace(node, inputs=tuple(inputs), attributes=attributes)


def weights_of(graph: Graph) -> set[str]:
    """Return the names of values that multiply or shift data by the operator's definition."""
    return {name for node in every_node(graph) if node.op_type in _WEIGHTED for name in node.inputs[1:]}


_WEIGHTED = (
    *("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu"),
    *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"),
)


def wanted_by_value(graph: Graph) -> set[str]:
    """Return the names of inputs that planning needs by value: settings and parameters."""
    names: set[str] = set()
    for node in graph.nodes:
        places = {*PARAMETERS.get(node.op_type, {}), *_PARAMETER_INPUTS.get(node.op_type, ())}
        names |= {name for place, name in enumerate(node.inputs) if place in places}
    return names & {value.name for value in graph.inputs}


_PARAMETER_INPUTS = {"BatchNormalization": (1, 2, 3, 4)}


def check_kinds(node: Node) -> None:
    """Check the types of a node's attributes.

    Raises:
        ModelError: an attribute of the wrong kind, or a window far larger than memory.
    """
    for name, value in node.attributes.items():
        if (
            (name in _FLOATS and not isinstance(value, float | int))
            or (name in _INTS and not isinstance(value, int))
            or (name in _TUPLES_OF_INTS and not _are(int, value))
            or (name in ("roi", "scales") and not _are(float | int, value))
        ):
            raise ModelError(f"{node.op_type} '{node.name}': attribute {name}={value!r:.60} is of the wrong kind")
        if name in _OF_WINDOWS and any(abs(size) > MAX_SIDE for size in value):
            raise ModelError(f"{node.op_type} '{node.name}': {name}={value!r:.60}; allowed is up to {MAX_SIDE}")


def _are(kind: Any, values: Any) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(value, kind) for value in values)


def _plain(name: str, value: Array) -> Any:
    """Return an array as an attribute: a number, or a tuple of numbers."""
    return value.ravel()[0].item() if name in _SCALARS else tuple(value.ravel().tolist())
