"""Converts operators of the domain com.microsoft, which ONNX Runtime writes into files that it optimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from engine.graph import Node, UnsupportedOperator

MICROSOFT = "com.microsoft"


def upgrade_microsoft(node: Node) -> list[Node]:
    """Return the nodes of ONNX that a node stands for; one that has none keeps its domain in `op_type`.

    Raises:
        UnsupportedOperator: an attribute's value without an equivalent.
    """
    change = _CHANGES.get(node.op_type)
    return change(node) if change else [replace(node, op_type=f"{node.op_type} of domain '{MICROSOFT}'")]


def _fused_conv(node: Node) -> list[Node]:
    """Separate a Conv, the sum with a fourth input, and the activation."""
    has = dict(node.attributes)
    activation, numbers = has.pop("activation", ""), has.pop("activation_params", ())
    y = node.outputs[0]
    steps: list[tuple[str, tuple[str, ...], Mapping[str, object]]] = [("Conv", node.inputs[:3], has)]
    if len(node.inputs) > 3 and node.inputs[3]:
        steps.append(("Add", ("", node.inputs[3]), {}))
    if activation:
        names = _ACTIVATIONS.get(activation)
        if names is None or len(names) < len(numbers):
            raise UnsupportedOperator(f"FusedConv '{node.name}': activation={activation!r:.20} {numbers!r:.60}")
        steps.append((activation, ("",), dict(zip(names, numbers, strict=False))))
    return _chain(node, steps, y)


_ACTIVATIONS = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
}


def _chain(node: Node, steps: list[tuple[str, tuple[str, ...], Mapping[str, object]]], y: str) -> list[Node]:
    """Return a chain of nodes; the input '' of all but the first is the output before."""
    nodes, x = [], ""
    for index, (op_type, inputs, attributes) in enumerate(steps):
        out = y if index == len(steps) - 1 else f"{y}/{op_type}"
        names = tuple(name or x for name in inputs) if index else inputs
        nodes.append(Node(op_type, names, (out,), attributes, node.name))
        x = out
    return nodes


def _quick_gelu(node: Node) -> list[Node]:
    return swish(node, float(node.attributes.get("alpha", 1.702)))


def swish(node: Node, alpha: float) -> list[Node]:
    """Return the nodes of x * sigmoid(alpha * x)."""
    x, y = node.inputs[0], node.outputs[0]
    if alpha == 1:
        return [
            Node("Sigmoid", (x,), (f"{y}/gate",), {}, node.name),
            replace(node, op_type="Mul", inputs=(x, f"{y}/gate"), attributes={}),
        ]
    factor = Node(
        "ConstantOfShape", (), (f"{y}/alpha",), {"shape": (), "value": np.array([alpha], np.float32)}, node.name
    )
    scaled = Node("Mul", (x, f"{y}/alpha"), (f"{y}/scaled",), {}, node.name)
    gate = Node("Sigmoid", (f"{y}/scaled",), (f"{y}/gate",), {}, node.name)
    return [factor, scaled, gate, Node("Mul", (x, f"{y}/gate"), (y,), {}, node.name)]


def _same(node: Node) -> list[Node]:
    return [node]


_CHANGES: Mapping[str, Callable[[Node], list[Node]]] = {
    "DequantizeLinear": _same,
    "FusedConv": _fused_conv,
    "Gelu": _same,
    "QuantizeLinear": _same,
    "QuickGelu": _quick_gelu,
}
