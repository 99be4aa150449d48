"""Operators that no built-in net has: kernels in plans against the plain loops, and these against ONNX Runtime."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from engine.compiler.constant_folding import fold
from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.planner import make_plan
from engine.formats.onnx import serialise_onnx
from engine.graph import Array, Graph, ModelError, Node, Value
from engine.interpreter import Interpreter
from engine.kernels import KERNELS, KINDS
from engine.kernels.step import Layout
from engine.model_card import ModelCard
from engine.reference import FUNCTIONS, run_node, run_outputs
from tests.engine.operator_cases import CASES
from tests.engine.wide_cases import WIDE_CASES, WideCase, floats

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # IEEE's results of what is out of range

each_case = pytest.mark.parametrize("case", WIDE_CASES, ids=lambda case: case.name)


def graph_of(node: Node, inputs: list[Array], outputs: tuple[str, ...] = ("out",)) -> Graph:
    values = tuple(Value(name, a.shape, a.dtype.name) for name, a in zip(node.inputs, inputs, strict=True))
    return Graph("single", values, tuple(Value(name, (), "") for name in outputs), (node,))


def assert_same(found: Array, expected: Array, tolerance: float = 1e-5) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)


def test_every_operator_has_a_reference_and_a_case() -> None:
    assert set(KERNELS) - {case.op_type for case in CASES} <= {case.op_type for case in WIDE_CASES} | {"TopK"}
    assert set(KERNELS) <= set(FUNCTIONS)
    assert set(KINDS) <= {*KERNELS, "TopKIndices"}


@each_case
@pytest.mark.parametrize("layout", [Layout.PLANAR, Layout.LAST], ids=["planar", "last"])
def test_a_plan_agrees_with_the_plain_loops_in_every_run(case: WideCase, layout: Layout) -> None:
    inputs, node = case.inputs(), case.node()
    if any(not array.size for array in inputs):
        pytest.skip("a plan holds no empty input; the next test runs it")
    graph = fold(graph_of(node, inputs), [array.shape for array in inputs])
    plan = make_plan(graph, [array.shape for array in inputs], KernelSelector(layout=layout))
    for _ in range(2):
        found = plan.run(*inputs)
        assert isinstance(found, np.ndarray)
        assert_same(found, run_node(node, *inputs))


@each_case
def test_a_model_computes_the_same_from_data_and_from_constants(case: WideCase) -> None:
    inputs, node = case.inputs(), case.node()
    expected = run_node(node, *inputs)
    assert_same(Interpreter(graph_of(node, inputs), inputs).run(inputs)[0], expected)
    constants = dict(zip(node.inputs, inputs, strict=True))
    graph = Graph("constant", (), (Value("out", (), ""),), (node,), initializers=constants)
    assert_same(Interpreter(graph, []).run([])[0], expected)


@pytest.mark.parametrize("case", [case for case in WIDE_CASES if case.runtime], ids=lambda case: case.name)
def test_the_plain_loops_agree_with_onnxruntime(case: WideCase) -> None:
    runtime = pytest.importorskip("onnxruntime")
    inputs, node = case.inputs(), case.node()
    expected = run_outputs(node, *inputs)
    graph = graph_of(node, inputs)
    outputs = ("out", "indices") if case.op_type == "TopK" else ("out",)
    node = Node(node.op_type, node.inputs, outputs, node.attributes, node.name)
    values = tuple(Value(name, a.shape, a.dtype.name) for name, a in zip(outputs, expected, strict=False))
    model = serialise_onnx(
        Graph("single", graph.inputs, values, (node,)), ModelCard("single", "other", (1,), colour="")
    )
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = session.run(None, dict(zip(node.inputs, inputs, strict=True)))
    for mine, theirs in zip(expected, found, strict=False):
        assert_same(mine, np.asarray(theirs), 1e-4)


def test_top_k_gives_both_outputs_in_one_plan() -> None:
    x = np.random.RandomState(3).randint(-3, 4, (2, 11)).astype(np.float32)
    node = Node("TopK", ("x",), ("values", "indices"), {"k": 5}, "t")
    plan = make_plan(fold(graph_of(node, [x], ("values", "indices")), [x.shape]), [x.shape])
    for found, expected in zip(plan.run(x), run_outputs(node, x), strict=True):
        assert_same(found, expected)


BIG = (1, 8, 128, 128)  # larger than the buffers within a ufunc, which are 64 KiB
ALLOCATION_FREE: list[tuple[str, dict[str, Any], int]] = [
    *((op, {}, 1) for op in ("Exp", "Erf", "Gelu", "Elu", "Mish", "Softplus", "ThresholdedRelu", "Round", "Sqrt")),
    *((op, {}, 2) for op in ("Max", "Pow", "Less", "Mod", "Div")),
    *((f"Reduce{name}", {"axes": (1,)}, 1) for name in ("L2", "LogSumExp", "Max", "Prod", "Sum")),
    ("ArgMax", {"axis": 1}, 1),
    ("TopK", {"k": 9}, 1),
    ("DepthToSpace", {"blocksize": 2}, 1),
    ("SpaceToDepth", {"blocksize": 2}, 1),
    ("Tile", {"repeats": (1, 2, 1, 1)}, 1),
    ("Cast", {"to": 10}, 1),
    ("LayerNormalization", {"axis": 1}, 2),
]


@pytest.mark.parametrize(("op_type", "attributes", "count"), ALLOCATION_FREE, ids=lambda value: str(value)[:24])
def test_a_run_allocates_no_array(op_type: str, attributes: dict[str, Any], count: int) -> None:
    state = np.random.RandomState(0)
    inputs = [floats(*BIG, low=0.5)(state) for _ in range(count)]
    node = Node(op_type, tuple(f"in{index}" for index in range(count)), ("out",), attributes, "n")
    plan = make_plan(fold(graph_of(node, inputs), [BIG] * count), [BIG] * count)
    plan.run(*inputs)
    tracemalloc.start()
    plan.run(*inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < inputs[0].nbytes / 3


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("node", "others", "message"),
    [
        (Node("Add", ("x", "a"), ("y",), {}, "n"), [np.ones(3, np.int64)], "Add 'n': data types float32 and int64"),
        (Node("And", ("x", "x"), ("y",), {}, "n"), [], "And 'n': no kernel for 'x' of float32"),
        (Node("Where", ("x", "x", "x"), ("y",), {}, "n"), [], "Where 'n': data types float32"),
        (Node("Max", ("x", "a"), ("y",), {}, "n"), [np.ones(4, np.float32)], "shapes .2, 3. and .4,. do not go"),
        (Node("Expand", ("x",), ("y",), {"shape": (5, 3)}, "n"), [], "Expand 'n': .2, 3. does not go with .5, 3."),
        (Node("Expand", ("x",), ("y",), {"shape": (1 << 40, 2, 3)}, "n"), [], "Expand 'n': an output of shape"),
        (Node("Tile", ("x",), ("y",), {"repeats": (1 << 30, 9)}, "n"), [], "Tile 'n': an output of shape"),
        (Node("Tile", ("x",), ("y",), {"repeats": (-1, 1)}, "n"), [], "Tile 'n': repeats"),
        (Node("Tile", ("x",), ("y",), {"repeats": (2,)}, "n"), [], "Tile 'n': repeats .2,. do not fit .2, 3."),
        (Node("DepthToSpace", ("x",), ("y",), {"blocksize": 2}, "n"), [], "blocksize=2 of an input .2, 3."),
        (Node("ReduceSum", ("x",), ("y",), {"axes": (2,)}, "n"), [], "ReduceSum 'n': axis 2, but its input has 2"),
        (Node("ReduceMean", ("a",), ("y",), {}, "n"), [np.ones(3, np.int32)], "no kernel for 'a' of int32"),
        (Node("TopK", ("x",), ("y", "i"), {"k": 4}, "n"), [], "TopK 'n': k=4 of the 3 along axis 1"),
        (Node("TopK", ("x",), ("y", "i"), {"k": -1}, "n"), [], "TopK 'n': k=-1 of the 3 along axis 1"),
        (Node("GatherElements", ("x", "a"), ("y",), {}, "n"), [np.ones((9, 9), np.int64)], "indices .9, 9. do not fit"),
        (Node("Gelu", ("x",), ("y",), {"approximate": "erf"}, "n"), [], "approximate='erf'; supported is none, tanh"),
        (Node("LayerNormalization", ("x", "a"), ("y",), {}, "n"), [np.ones(5, np.float32)], "do not fit one another"),
        (Node("GroupNormalization", ("x", "a", "a"), ("y",), {"num_groups": 0}, "n"), [X[0]], "do not fit one another"),
        (Node("Exp", ("x",), ("y",), {"base": 2}, "n"), [], "Exp 'n': attribute base=2 is not supported"),
    ],
    ids=lambda value: value.op_type if isinstance(value, Node) else "",
)
def test_what_does_not_fit_is_refused_by_node(node: Node, others: list[Array], message: str) -> None:
    arrays = {"x": X, "a": others[0] if others else X}
    names = tuple(dict.fromkeys(node.inputs))
    values = tuple(Value(name, arrays[name].shape, arrays[name].dtype.name) for name in names)
    outputs = tuple(Value(name, (), "") for name in node.outputs)
    with pytest.raises(ModelError, match=message):
        fold(Graph("g", values, outputs, (node,)), [arrays[name].shape for name in names])


@pytest.mark.parametrize("op_type", ["Gather", "GatherElements"])
@pytest.mark.parametrize("index", [2, -3])
def test_an_index_beyond_the_axis_is_an_error_of_the_run(op_type: str, index: int) -> None:
    node = Node(op_type, ("x", "i"), ("out",), {}, "n")
    indices = np.full((1, 3), index)
    graph = fold(graph_of(node, [X, indices]), [X.shape, indices.shape])
    with pytest.raises(ModelError, match=f"{op_type} 'n': an index beyond the 2 entries"):
        make_plan(graph, [X.shape, indices.shape]).run(X, indices)
