"""Quantized nets in each form that tools write, against ONNX Runtime: equal to one step of the output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ModelError
from engine.graph import Array
from engine.runtime.convert import convert

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

STATE = np.random.RandomState(6)
X = STATE.uniform(-2, 2, (1, 4, 9, 9)).astype(np.float32)
W = STATE.randint(-127, 128, (6, 4, 3, 3)).astype(np.int8)
M = STATE.randint(-127, 128, (9, 5)).astype(np.int8)
STEP = np.float32(0.1)  # of quantized outputs
ARRAYS: dict[str, Any] = {
    "xs": np.float32(0.016), "xz": np.uint8(128), "x2s": np.float32(0.02), "x2z": np.uint8(120), "w": W,
    "ws": STATE.uniform(0.001, 0.01, 6).astype(np.float32), "wz": np.zeros(6, np.int8), "w1": np.float32(0.004),
    "z1": np.int8(0), "b": STATE.randint(-3000, 3000, 6).astype(np.int32), "m": M,
    "ms": STATE.uniform(0.001, 0.01, 5).astype(np.float32), "mz": STATE.randint(-5, 6, 5).astype(np.int8),
    "c": STATE.randint(-900, 900, 5).astype(np.int32), "bias": STATE.uniform(-1, 1, 5).astype(np.float32),
    "ys": STEP, "yz": np.uint8(125), "ss": np.float32(1 / 256), "sz": np.uint8(0), "g": np.array([1, -1]),
}  # fmt: skip


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs.split(" "), outputs.split(), name=outputs.split()[0], **attributes)


def own(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return node(op_type, inputs, outputs, domain="com.microsoft", **attributes)


ENTER, LEAVE = node("QuantizeLinear", "x xs xz", "q"), node("DequantizeLinear", "r ys yz", "y")
CASES: dict[str, list[Any]] = {
    "qdq conv": [
        ENTER,
        node("DequantizeLinear", "q xs xz", "d"),
        node("DequantizeLinear", "w ws wz", "dw", axis=0),
        node("Conv", "d dw", "v", pads=[1] * 4),
        node("Relu", "v", "a"),
        node("QuantizeLinear", "a ys yz", "r"),
        LEAVE,
    ],
    "conv": [ENTER, node("QLinearConv", "q xs xz w ws wz ys yz b", "r", pads=[1] * 4, strides=[2, 2]), LEAVE],
    "conv without bias": [ENTER, node("QLinearConv", "q xs xz w w1 z1 ys yz", "r"), LEAVE],
    "conv and pool": [
        ENTER,
        node("QLinearConv", "q xs xz w ws wz ys yz", "p"),
        node("MaxPool", "p", "r", kernel_shape=[2, 2]),
        LEAVE,
    ],
    "matmul": [ENTER, node("QLinearMatMul", "q xs xz m w1 z1 ys yz", "r"), LEAVE],
    "add": [ENTER, node("QuantizeLinear", "x x2s x2z", "t"), own("QLinearAdd", "q xs xz t x2s x2z ys yz", "r"), LEAVE],
    "mul": [ENTER, node("QuantizeLinear", "x x2s x2z", "t"), own("QLinearMul", "q xs xz t x2s x2z ys yz", "r"), LEAVE],
    "concat": [
        ENTER,
        node("QuantizeLinear", "x x2s x2z", "t"),
        own("QLinearConcat", "ys yz q xs xz t x2s x2z", "r", axis=1),
        LEAVE,
    ],
    "sigmoid": [ENTER, own("QLinearSigmoid", "q xs xz ss sz", "s"), node("DequantizeLinear", "s ss sz", "y")],
    "leaky relu": [ENTER, own("QLinearLeakyRelu", "q xs xz ys yz", "r", alpha=0.1), LEAVE],
    "global average": [ENTER, own("QLinearGlobalAveragePool", "q xs xz ys yz", "r"), LEAVE],
    "average pool": [ENTER, own("QLinearAveragePool", "q xs xz ys yz", "r", kernel_shape=[3, 3]), LEAVE],
    "softmax": [
        ENTER,
        own("QLinearSoftmax", "q xs xz ss sz", "s", axis=-1, opset=13),
        node("DequantizeLinear", "s ss sz", "y"),
    ],
    "gemm": [
        node("Reshape", "x g9", "f"),
        node("QuantizeLinear", "f xs xz", "q"),
        own("QGemm", "q xs xz m w1 z1 c ys yz", "r"),
        LEAVE,
    ],
    "dynamic conv": [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("ConvInteger", "q w z", "i", pads=[1] * 4),
        node("Cast", "i", "f", to=1),
        node("Mul", "s w1", "t"),
        node("Mul", "f t", "y"),
    ],
    "dynamic matmul": [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q m z mz", "i"),
        node("Cast", "i", "f", to=1),
        node("Mul", "s ms", "t"),
        node("Mul", "f t", "y"),
    ],
    "dynamic matmul of onnxruntime": [own("DynamicQuantizeMatMul", "x m ms mz bias", "y")],
    "matmul to float": [
        node("DynamicQuantizeLinear", "x", "q s z"),
        own("MatMulIntegerToFloat", "q m s ms z mz bias", "y"),
    ],
}
ARRAYS["g9"] = np.array([-1, 9])


def model(nodes: list[Any], x: Array = X) -> bytes:
    used = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in ARRAYS.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.mark.parametrize("name", CASES)
def test_quantized_operators_are_equal_to_one_step(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.onnx").write_bytes(model(CASES[name]))
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": X})[0]
    found = engine.load(tmp_path / "m.onnx")
    step = 1 / 256 if "ss" in str(CASES[name][-1]) else 1e-4 * np.abs(expected).max() if "namic" in name else STEP
    step = 1e-4 * np.abs(expected).max() if name == "matmul to float" else step
    for made in (found.run(X), found.plan().run(X)):
        assert isinstance(made, np.ndarray)
        assert made.shape == expected.shape
        assert np.abs(made - expected).max() <= 1.001 * step
        assert (np.abs(made - expected) > 1e-4).mean() < 0.02  # seldom
    convert(tmp_path / "m.onnx", tmp_path / "again.onnx")


def test_a_frame_of_zeros_is_quantized_without_a_scale(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model(CASES["dynamic conv"]))
    found = engine.load(tmp_path / "m.onnx").run(np.zeros_like(X))
    np.testing.assert_array_equal(found, np.zeros((1, 6, 9, 9), np.float32))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("QuantizeLinear", "x ws wz", "q"), node("Cast", "q", "y", to=1)], r"scales \(6,\) for axis 1 of"),
        ([node("QuantizeLinear", "x w1 wz", "q"), node("Cast", "q", "y", to=1)], "do not fit one another"),
        ([node("DequantizeLinear", "m w1 xz", "y")], "data types int8 and uint8 do not go together"),
        ([ENTER, node("QLinearConv", "q xs xz w", "r"), LEAVE], "QLinearConv 'r': 4 inputs are too few"),
    ],
)
def test_quantization_that_does_not_fit_is_refused(tmp_path: Path, nodes: list[Any], message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(model(nodes))
    with pytest.raises(ModelError, match=message):
        engine.load(tmp_path / "m.onnx").run(X)
