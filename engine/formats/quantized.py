"""Replaces quantized operators of ONNX and com.microsoft by QuantizeLinear, DequantizeLinear and plain operators.

The engine multiplies in float32, which is exact for whole numbers up to 2^24: results differ from integer arithmetic by
one step of the output at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine.graph import ModelError, Node

INT32, UINT8, FLOAT = 6, 2, 1  # onnx.TensorProto.DataType


class _Writer:
    """Collects the nodes that replace one node; their values are named after its first output."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def input(self, at: int) -> str:
        return self.node.inputs[at] if at < len(self.node.inputs) else ""

    def add(self, op_type: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Append a node and return its output; empty inputs at the end are left out."""
        name = out or f"{self.node.outputs[0]}/{op_type} {len(self.nodes)}"
        names = list(inputs)
        while names and not names[-1]:
            names.pop()
        self.nodes.append(Node(op_type, tuple(names), (name,), attributes, self.node.name))
        return name

    def number(self, value: float) -> str:
        return self.add("ConstantOfShape", shape=(), value=np.array([value], np.float32))

    def plain(self, at: int, axis: int = 1) -> str:
        """Return the float32 of a quantized input that is followed by its scale and zero point."""
        return self.add("DequantizeLinear", self.input(at), self.input(at + 1), self.input(at + 2), axis=axis)

    def quantized(self, x: str, scale: int) -> list[Node]:
        """Quantize a value by the scale and zero point at an index as the node's output; return all nodes."""
        self.add("QuantizeLinear", x, self.input(scale), self.input(scale + 1), out=self.node.outputs[0])
        return self.nodes


def replace_quantized(node: Node) -> list[Node] | None:
    """Return the nodes that a quantized node stands for; None for any other node.

    Raises:
        ModelError: it lacks inputs.
    """
    change = CHANGES.get(node.op_type)
    if change is None:
        return None
    if len(node.inputs) < _FEWEST.get(node.op_type, 5):
        raise ModelError(f"{node.op_type} '{node.name}': {len(node.inputs)} inputs are too few")
    return change(_Writer(node))


_FEWEST = {"ConvInteger": 2, "MatMulInteger": 2, "DynamicQuantizeLinear": 1, "DynamicQuantizeMatMul": 3}


def _conv(to: _Writer) -> list[Node]:
    bias = ""
    if to.input(8):  # its scale is the product of the others'
        bias = to.add("DequantizeLinear", to.input(8), to.add("Mul", to.input(1), to.input(4)), axis=0)
    return to.quantized(to.add("Conv", to.plain(0), to.plain(3, axis=0), bias, **to.node.attributes), 6)


def _matmul(to: _Writer) -> list[Node]:
    return to.quantized(to.add("MatMul", to.plain(0, axis=-2), to.plain(3, axis=-1)), 6)


def _whole(to: _Writer, at: int, zero: int, *, by_output: bool = False) -> str:
    """Return the float32 of a whole number less its zero point; by output, that is one number for each row."""
    x = to.add("Cast", to.input(at), to=FLOAT)
    if not to.input(zero):
        return x
    less = to.add("Cast", to.input(zero), to=FLOAT)
    if by_output:
        less = to.add("Reshape", less, shape=(-1, 1, 1, 1))
    return to.add("Sub", x, less)


def _integer(op_type: str) -> Callable[[_Writer], list[Node]]:
    def change(to: _Writer) -> list[Node]:
        a, b = _whole(to, 0, 2), _whole(to, 1, 3, by_output=op_type == "Conv")
        rounded = to.add("Round", to.add(op_type, a, b, **to.node.attributes))
        to.add("Cast", rounded, out=to.node.outputs[0], to=INT32)
        return to.nodes

    return change


def _dynamic(to: _Writer, x: str, outputs: tuple[str, ...]) -> tuple[str, str, str]:
    """Add the quantization of a value by its own range, which includes 0; return numbers, scale and zero point."""
    names = (*outputs, "", "")
    nothing = to.number(0)
    high = to.add("Max", to.add("ReduceMax", x, keepdims=0), nothing)
    low = to.add("Min", to.add("ReduceMin", x, keepdims=0), nothing)
    span = to.add("Sub", high, low)
    scale = to.add("Div", span, to.number(255))
    empty = to.add("Equal", span, nothing)
    scale = to.add("Where", empty, to.number(1), scale, out=names[1])
    zero = to.add("Round", to.add("Neg", to.add("Div", low, scale)))
    zero = to.add("Cast", to.add("Clip", zero, min=0.0, max=255.0), out=names[2], to=UINT8)
    return to.add("QuantizeLinear", x, scale, zero, out=names[0]), scale, zero


def _dynamic_linear(to: _Writer) -> list[Node]:
    _dynamic(to, to.input(0), to.node.outputs)
    return to.nodes


def _dynamic_matmul(to: _Writer) -> list[Node]:
    numbers, scale, zero = _dynamic(to, to.input(0), (f"{to.node.outputs[0]}/numbers",))
    a = to.add("DequantizeLinear", numbers, scale, zero)
    b = to.add("DequantizeLinear", to.input(1), to.input(2), to.input(3), axis=-1)
    return _biased(to, to.add("MatMul", a, b), 4)


def _to_float(to: _Writer) -> list[Node]:
    """Replace MatMulIntegerToFloat: A, B, their scales, their zero points, a bias."""
    a = to.add("DequantizeLinear", to.input(0), to.input(2), to.input(4), axis=-2)
    b = to.add("DequantizeLinear", to.input(1), to.input(3), to.input(5), axis=-1)
    return _biased(to, to.add("MatMul", a, b), 6)


def _biased(to: _Writer, x: str, at: int) -> list[Node]:
    if to.input(at):
        to.add("Add", x, to.input(at), out=to.node.outputs[0])
    else:
        to.add("Identity", x, out=to.node.outputs[0])
    return to.nodes


def _gemm(to: _Writer) -> list[Node]:
    """Replace QGemm: the bias has the product of both scales; without a scale for the output that is float32."""
    has = dict(to.node.attributes)
    b = to.plain(3, axis=0 if has.get("transB") else 1)
    c = to.input(6)
    if c:
        product = to.add("Mul", to.input(1), to.input(4))
        alpha = has.get("alpha", 1.0)
        product = product if alpha == 1 else to.add("Mul", product, to.number(alpha))
        c = to.add("DequantizeLinear", c, product, axis=0)
    y = to.add("Gemm", to.plain(0), b, c, **has)
    return to.quantized(y, 7) if to.input(7) else _biased(to, y, 99)


def _unary(op_type: str) -> Callable[[_Writer], list[Node]]:
    """Return the change of an operator with inputs X, its scale and zero point, those of Y."""

    def change(to: _Writer) -> list[Node]:
        has = {name: value for name, value in to.node.attributes.items() if name != "opset"}
        if has.pop("channels_last", 0):
            raise ModelError(f"{to.node.op_type} '{to.node.name}': channels_last=1 is not supported")
        return to.quantized(to.add(op_type, to.plain(0), **has), 3)

    return change


def _binary(op_type: str) -> Callable[[_Writer], list[Node]]:
    return lambda to: to.quantized(to.add(op_type, to.plain(0), to.plain(3)), 6)


def _concat(to: _Writer) -> list[Node]:
    """Replace QLinearConcat: scale and zero point of Y, then each input with its own."""
    parts = [to.plain(at) for at in range(2, len(to.node.inputs), 3)]
    return to.quantized(to.add("Concat", *parts, **to.node.attributes), 0)


CHANGES: Mapping[str, Callable[[_Writer], list[Node]]] = {
    "ConvInteger": _integer("Conv"),
    "DynamicQuantizeLinear": _dynamic_linear,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulInteger": _integer("MatMul"),
    "MatMulIntegerToFloat": _to_float,
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearConcat": _concat,
    "QLinearConv": _conv,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearMatMul": _matmul,
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": _unary("Softmax"),
}
