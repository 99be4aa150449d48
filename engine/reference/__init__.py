"""Runs operators by plain loops: one function for each, ONNX semantics, slow and obvious.

The oracle of the tests shares no code with what it checks: it imports only `engine.graph` and NumPy. The interpreter
runs graphs with it that no plan can hold.

Every function takes the node, its settings as attributes, and its input arrays, and returns its output (a tuple where
it has several). Sums run in float64, so that what is left between a kernel and its reference is the kernel's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from engine.graph import Array, Graph, Node, UnsupportedOperator
from engine.reference import elementwise, movement, normalization, quantization, reductions, selection, windows
from engine.reference.resize import resize

FUNCTIONS: Mapping[str, Callable[..., Array | tuple[Array, ...]]] = {
    **elementwise.FUNCTIONS,
    **normalization.FUNCTIONS,
    **quantization.FUNCTIONS,
    **reductions.REDUCTIONS,
    **selection.FUNCTIONS,
    "AveragePool": windows.average_pool,
    "Concat": movement.concat,
    "ConstantOfShape": movement.constant_of_shape,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "DepthToSpace": movement.depth_to_space,
    "Dropout": lambda node, x: (x, np.ones(x.shape, bool)),  # training is over: nothing is dropped
    "Expand": movement.expand,
    "Flatten": movement.flatten,
    "Gather": movement.gather,
    "Gemm": reductions.gemm,
    "GlobalAveragePool": reductions.global_average_pool,
    "GlobalMaxPool": reductions.global_max_pool,
    "Identity": lambda node, x: x,
    "LRN": reductions.lrn,
    "LogSoftmax": partial(reductions.softmax, logarithm=True),
    "MatMul": reductions.matmul,
    "MaxPool": windows.max_pool,
    "Pad": movement.pad,
    "Range": movement.range_,
    "Reshape": movement.reshape,
    "Resize": resize,
    "Shape": movement.shape,
    "Slice": movement.slice_,
    "Softmax": reductions.softmax,
    "SpaceToDepth": movement.space_to_depth,
    "Split": movement.split,
    "Squeeze": lambda node, x: x.squeeze(node.attributes.get("axes") or None),
    "Tile": movement.tile,
    "Transpose": movement.transpose,
    "Unsqueeze": lambda node, x: np.expand_dims(x, node.attributes.get("axes", ())),
}


def run_graph(graph: Graph, *inputs: Array) -> tuple[Array, ...]:
    """Return all outputs of a graph, node by node; raises UnsupportedOperator for a node not in FUNCTIONS."""
    values = dict(graph.initializers)
    values.update({value.name: array for value, array in zip(graph.inputs, inputs, strict=True)})
    for node in graph.nodes:
        if node.op_type not in FUNCTIONS:
            raise UnsupportedOperator(f"operator {node.op_type} ('{node.name}') is not supported")
        plain = _with_attributes(node, values)
        found = run_outputs(plain, *(values[name] for name in plain.inputs))
        values |= dict(zip(node.outputs, found, strict=False))
    return tuple(values[value.name] for value in graph.outputs)


# The attributes that inputs 1, 2, ... set; for ConstantOfShape input 0.
_FROM_INPUTS = {
    "Clip": ("min", "max"),
    "ConstantOfShape": ("shape",),
    "Dropout": ("ratio", "training_mode"),
    "Expand": ("shape",),
    "Pad": ("pads", "value", "axes"),
    **dict.fromkeys(reductions.REDUCTIONS, ("axes",)),
    "Reshape": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Tile": ("repeats",),
    "TopK": ("k",),
    "Unsqueeze": ("axes",),
}


def _with_attributes(node: Node, values: Mapping[str, Array]) -> Node:
    """Return the node with its data inputs alone; the others become attributes."""
    names, inputs, found = _FROM_INPUTS.get(node.op_type, ()), list(node.inputs), dict(node.attributes)
    data = len(inputs) if not names else 0 if node.op_type == "ConstantOfShape" else 1
    for name, source in zip(names, inputs[data:], strict=False):
        numbers = values[source].ravel().tolist() if source else []
        if numbers or (
            source and name in ("axes", "repeats", "shape")
        ):  # an empty roi, scales or sizes counts as left out
            is_scalar = name in ("k", "min", "max", "ratio", "training_mode", "value")
            found[name] = numbers[0] if is_scalar else tuple(numbers)
    while data and not inputs[data - 1]:
        data -= 1
    return replace(node, inputs=tuple(inputs[:data]), attributes=found)


def run_node(node: Node, *inputs: Array) -> Array:
    """Return the first output of one node."""
    return run_outputs(node, *inputs)[0]


def run_outputs(node: Node, *inputs: Array) -> tuple[Array, ...]:
    """Return all outputs of one node; floats are float32, or float64 if an input is."""
    if node.attributes.get("residual") == 2:  # made by engine.compiler.fusion.fuse_residuals, late
        early = replace(node, attributes={**node.attributes, "residual": 0})
        return (run_node(early, *inputs[:-1]) + inputs[-1],)
    if node.attributes.get("activation") == "Floor":  # made by engine.compiler.bias_deferral.defer_biases
        at = 1 if node.op_type == "MaxPool" else 2
        plain = replace(node, attributes={**node.attributes, "activation": ""})
        (out,) = run_outputs(plain, *inputs[:at], *inputs[at + 1 :])
        return (np.maximum(out, inputs[at].reshape(-1, *(1,) * (out.ndim - 2))),)
    if node.attributes.get("activation"):  # what engine.compiler.fusion fused
        plain = replace(node, attributes={**node.attributes, "activation": ""})
        name, _, slope = node.attributes["activation"].partition(":")
        activate = partial(_leaky, float(slope)) if name == "LeakyRelu" else _ACTIVATIONS[name]
        return tuple(activate(array) for array in run_outputs(plain, *inputs))
    found = FUNCTIONS[node.op_type](node, *inputs)
    arrays = found if isinstance(found, tuple) else (found,)
    double = node.op_type == "Cast" or any(array.dtype == np.float64 for array in inputs)
    return tuple(array.astype(np.float32) if array.dtype.kind == "f" and not double else array for array in arrays)


def _swish(x: Array) -> Array:
    """Compute the HardSwish of y for x = (y + 3) / sqrt(6)."""
    y = x.astype(np.float64) * 6**0.5 - 3
    return np.asarray(y * np.clip(y / 6 + 0.5, 0, 1), np.float32)


def _leaky(slope: float, x: Array) -> Array:
    """Compute x, or slope * x below 0."""
    return np.where(x < 0, x * np.float32(slope), x)


def _silu(x: Array) -> Array:
    """Compute y * sigmoid(y) for x = y / 2."""
    y = x.astype(np.float64) * 2
    return np.asarray(y / (1 + np.exp(-y)), np.float32)


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "Relu": lambda x: np.maximum(x, np.float32(0)),
    "Relu6": lambda x: np.clip(x, np.float32(0), np.float32(6)),
    "Unit": lambda x: np.clip(x, np.float32(0), np.float32(1)),
    "Silu": _silu,
    "Swish": _swish,
}
