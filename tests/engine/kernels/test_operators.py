"""Every kernel against the plain loops, PyTorch's stored answers, and PyTorch itself where installed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.formats.onnx import serialise_onnx
from engine.graph import Array, Graph, Node, Value
from engine.kernels import KERNELS
from engine.kernels.step import Operand
from engine.model_card import ModelCard
from engine.reference import run_node
from tests.engine.operator_cases import CASES, Case, assert_close, run_in_plan, run_in_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "operators.npz"
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_torch_case = pytest.mark.parametrize("case", [c for c in CASES if c.in_torch], ids=lambda case: case.name)


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "lrn_even"], ids=lambda case: case.name)
def test_plain_loops_agree_with_onnxruntime(case: Case) -> None:
    runtime = pytest.importorskip("onnxruntime")
    inputs = case.inputs()
    kinds = {np.dtype(np.float32): "float32", np.dtype(np.int64): "int64"}
    names = [f"in{index}" for index in range(len(inputs))]
    given = tuple(Value(name, array.shape, kinds[array.dtype]) for name, array in zip(names, inputs, strict=True))
    graph = Graph("single", given, (Value("out", run_node(case.node(), *inputs).shape),), (case.node(),))
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    model = serialise_onnx(graph, ModelCard("single", "other", (1,), colour=""))
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {name: np.asarray(array) for name, array in zip(names, inputs, strict=True)})[0]
    assert_close(run_node(case.node(), *inputs), expected, 1e-4)


@each_case
@pytest.mark.parametrize("constants", [True, False], ids=["parameters", "inputs"])
def test_kernel_agrees_with_plain_loops(case: Case, constants: bool) -> None:
    inputs = case.inputs()
    assert_close(run_in_plan(case.node(), inputs, constants=constants), run_node(case.node(), *inputs))


@each_torch_case
def test_plain_loops_agree_with_stored_torch(case: Case, golden: dict[str, Array]) -> None:
    assert_close(run_node(case.node(), *case.inputs()), golden[case.name])


@each_torch_case
def test_kernel_agrees_with_stored_torch(case: Case, golden: dict[str, Array]) -> None:
    assert_close(run_in_plan(case.node(), case.inputs(), constants=True), golden[case.name])


@each_torch_case
def test_kernel_agrees_with_live_torch(case: Case) -> None:
    pytest.importorskip("torch")
    generator = np.random.default_rng(7)
    inputs = [np.asarray(generator.uniform(-1, 3, shape), np.float32) for shape in case.shapes]
    if case.op_type == "BatchNormalization":
        inputs[4] += np.float32(1.1)
    assert_close(run_in_plan(case.node(), inputs, constants=True), run_in_torch(case, inputs))


@pytest.mark.parametrize("op_type", ["Conv", "Gemm", "Add", "BatchNormalization"])
def test_fused_relu_is_relu_of_the_plain_result(op_type: str) -> None:
    case = next(case for case in CASES if case.op_type == op_type)
    plain = run_in_plan(case.node(), case.inputs(), constants=True)
    fused = Node(op_type, case.node().inputs, ("out",), {**case.attributes, "activation": "Relu"}, "fused")
    assert (plain < 0).any()
    np.testing.assert_array_equal(run_in_plan(fused, case.inputs(), constants=True), np.maximum(plain, 0))


def _draw_window(draw: st.DrawFn, rank: int) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...], tuple[int, ...]]:
    axes = st.tuples(*[st.integers(1, 3)] * rank)
    kernel, strides, dilations = draw(axes), draw(axes), draw(st.tuples(*[st.integers(1, 2)] * rank))
    # Padding below the kernel, so that no window of a pool lies wholly in it.
    pads = tuple(draw(st.integers(0, kernel[axis % rank] - 1)) for axis in range(2 * rank))
    size = tuple(draw(st.integers((k - 1) * d + 1, 7)) for k, d in zip(kernel, dilations, strict=True))
    return {"strides": strides, "dilations": dilations, "pads": pads}, kernel, size


@st.composite
def conv_cases(draw: st.DrawFn) -> Case:
    attributes, kernel, size = _draw_window(draw, draw(st.integers(1, 2)))
    group = draw(st.integers(1, 2))
    x = (draw(st.integers(1, 2)), group * draw(st.integers(1, 2)), *size)
    weight = (group * draw(st.integers(1, 2)), x[1] // group, *kernel)
    return Case("drawn", "Conv", (x, weight, weight[:1]), {**attributes, "group": group})


@st.composite
def pool_cases(draw: st.DrawFn, op_type: str) -> Case:
    attributes, kernel, size = _draw_window(draw, draw(st.integers(1, 2)))
    more = {"ceil_mode": draw(st.integers(0, 1))}
    if op_type == "AveragePool":
        attributes["dilations"] = (1,) * len(kernel)
        more["count_include_pad"] = draw(st.integers(0, 1))
    return Case("drawn", op_type, ((1, 2, *size),), {**attributes, **more, "kernel_shape": kernel})


@settings(max_examples=60, deadline=None)
@given(conv_cases())
def test_conv_agrees_with_plain_loops_on_drawn_shapes(case: Case) -> None:
    assert_close(run_in_plan(case.node(), case.inputs(), constants=True), run_node(case.node(), *case.inputs()))


@settings(max_examples=60, deadline=None)
@given(st.one_of(pool_cases("MaxPool"), pool_cases("AveragePool")))
def test_pools_agree_with_plain_loops_on_drawn_shapes(case: Case) -> None:
    assert_close(run_in_plan(case.node(), case.inputs(), constants=True), run_node(case.node(), *case.inputs()))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("factor", [2.0, 0.75])
def test_a_long_signal_is_resized_without_a_matrix_of_its_length_squared(mode: str, factor: float) -> None:
    length = 40_000
    case = Case("long", "Resize", ((1, 2, length),), {"scales": (1.0, 1.0, factor), "mode": mode})
    tracemalloc.start()
    found = run_in_plan(case.node(), case.inputs(), constants=True)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    # The start of a signal is resized as a short one is, which is multiplied by a matrix.
    short = Case("short", "Resize", ((1, 2, 400),), case.attributes)
    expected = run_in_plan(short.node(), [case.inputs()[0][..., :400]], constants=True)
    assert_close(found[..., :200], expected[..., :200])


@pytest.mark.parametrize("op_type", ["Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Clip", "Relu"])
def test_numbers_that_lie_apart_are_what_they_are_in_a_row(op_type: str) -> None:
    node = Node(op_type, ("in0",), ("out",), {"min": -0.5, "max": 0.5} if op_type == "Clip" else {}, "apart")
    step = KERNELS[op_type][0](node, [Operand((1, 11, 1, 1))])
    assert step is not None
    assert step.bind is not None
    x = np.random.RandomState(0).uniform(-4, 4, (1, 11, 1, 1)).astype(np.float32)
    for side in range(1, 6):  # of a frame: the numbers are 1, 4, 9, 16 and 25 apart
        memory = np.zeros((2, 1, 11, side, side), np.float32)
        source, out = memory[0, ..., :1, :1], memory[1, ..., :1, :1]
        source[...] = x
        for call in step.bind([source], out, [np.zeros(scratch.shape, np.float32) for scratch in step.scratch]):
            call()
        assert_close(out, run_node(node, x))
