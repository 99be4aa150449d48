"""Graphs with tampered nodes: each runs, or a ModelError names the node, without delay."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.compiler.constant_folding import fold
from engine.compiler.planner import make_plan
from engine.graph import Graph, ModelError, Node, Value
from engine.interpreter import Interpreter
from engine.reference import run_graph
from tests.engine.operator_cases import CASES
from tests.engine.wide_cases import WIDE_CASES

EVERY = (*CASES, *WIDE_CASES)
NUMBERS = (-1, 0, 1, 2, 3, 7, -5, 100, 65_536, 2**31 - 1, 2**62, -(2**63))
STRANGE = (3, -1, (1, 2), (), 1.5, (1.5,), "text", "SAME_UPPER", "linear", "cubic", "reflect", float("nan"), 1e30)


def tampered(node: Node, state: np.random.RandomState) -> Node:
    """One change: an attribute another number, another kind or gone, or an input more or less."""
    attributes: dict[str, Any] = dict(node.attributes)
    name = sorted(attributes)[state.randint(len(attributes))] if attributes else ""
    kind = state.randint(5)
    if kind == 0 and isinstance(attributes.get(name), tuple) and attributes[name]:
        values = list(attributes[name])
        values[state.randint(len(values))] = NUMBERS[state.randint(len(NUMBERS))]
        attributes[name] = tuple(values)
    elif kind in (0, 1) and name:
        attributes[name] = NUMBERS[state.randint(len(NUMBERS))]
    elif kind == 2 and name:
        attributes[name] = STRANGE[state.randint(len(STRANGE))]
    elif kind == 3 and name:
        del attributes[name]
    elif state.randint(2) and len(node.inputs) > 1:
        return replace(node, inputs=node.inputs[:-1])
    else:
        return replace(node, inputs=(*node.inputs, node.inputs[0]))
    return replace(node, attributes=attributes)


def tamper(count: int, seed: int) -> None:
    state, refused, slowest = np.random.RandomState(seed), 0, 0.0
    unnamed: list[str] = []
    for _ in range(count):
        case = EVERY[state.randint(len(EVERY))]
        inputs, node = case.inputs(), case.node()
        for _ in range(1 + state.randint(3)):
            node = tampered(node, state)
        values = tuple(Value(f"in{i}", array.shape, array.dtype.name) for i, array in enumerate(inputs))
        start = time.monotonic()
        try:
            Interpreter(Graph("g", values, (Value("out", ()),), (node,)), inputs).run(inputs)
        except ModelError as error:
            refused += 1
            unnamed += [str(error)] if case.name not in str(error) else []
        except Exception as error:
            raise AssertionError(f"{node}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.monotonic() - start)
    assert count / 10 < refused < count * 9 / 10
    assert not unnamed
    assert slowest < 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers beyond float32 overflow as IEEE defines
def test_tampered_nodes_run_or_are_refused_by_name() -> None:
    tamper(1000, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.timeout(600)
def test_thousands_of_tampered_nodes() -> None:
    tamper(20_000, 2)


def one_node(op_type: str, shape: tuple[int, ...], weight: tuple[int, ...] | None = None, **attributes: Any) -> Graph:
    inputs, arrays = ("x",), {}
    if weight is not None:
        inputs, arrays = ("x", "w"), {"w": np.zeros(weight, np.float32)}  # type: ignore[assignment]
    node = Node(op_type, inputs, ("y",), attributes, "n")
    return Graph("g", (Value("x", shape),), (Value("y", ()),), (node,), initializers=arrays)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (one_node("MaxPool", (1, 1, 1 << 24), kernel_shape=(1 << 23,)), "a window of .8388608,.; allowed are"),
        (one_node("ConvTranspose", (1, 1, 4, 4), (1, 1, 700, 700)), "weight .1, 1, 700, 700.; allowed are"),
    ],
    ids=["pool", "deconvolution"],
)
def test_windows_of_too_many_taps_are_refused_by_name(graph: Graph, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ModelError, match=f"'n': {message}"):
        fold(graph, [graph.inputs[0].shape])
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "graph",
    [
        one_node("AveragePool", (1, 1, 1 << 16), kernel_shape=(1 << 15,)),
        one_node("LRN", (1, 3, 4, 4), size=3_000_001),
    ],
    ids=["average of half of a long signal", "more channels than there are"],
)
def test_wide_windows_take_no_more_memory_than_their_input_deserves(graph: Graph) -> None:
    tracemalloc.start()
    fold(graph, [graph.inputs[0].shape])
    if graph.nodes[0].op_type == "LRN":
        make_plan(graph, [graph.inputs[0].shape])
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_lrn_over_more_channels_than_there_are_agrees_with_plain_loops() -> None:
    x = np.random.RandomState(0).uniform(-1, 1, (2, 3, 2, 2)).astype(np.float32)
    for size in (4, 5, 6, 9, 12):
        graph = one_node("LRN", x.shape, size=size, alpha=0.5)
        np.testing.assert_allclose(make_plan(graph, [x.shape]).run(x), run_graph(graph, x)[0], rtol=1e-5)


def test_nodes_that_make_numbers_have_a_bound_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.compiler.constant_folding.MAX_NUMBERS", 1000)
    makers = [Node("ConstantOfShape", (), (f"c{at}",), {"shape": (400,)}, f"n{at}") for at in range(3)]
    views = [Node("Reshape", ("c0",), (f"v{at}",), {"shape": (20, 20)}, f"v{at}") for at in range(3)]
    graph = Graph("g", (), (Value("c0", ()),), (*makers[:2], *views))
    fold(graph, [])
    with pytest.raises(ModelError, match=r"ConstantOfShape 'n2': with \(400,\) the file's nodes make too many"):
        fold(replace(graph, nodes=(*makers[:2], *views, makers[2])), [])


def test_a_node_after_the_plan_that_cannot_run_is_a_model_error() -> None:
    # No plan holds the pool's indices; the second node reads more axes than there are.
    pool = Node("MaxPool", ("x",), ("y", "i"), {"kernel_shape": (2, 2)}, "p")
    broken = Node("Transpose", ("i",), ("z",), {"perm": (0, 1, 2, 3, 9)}, "t")
    graph = Graph("g", (Value("x", (1, 1, 4, 4)),), (Value("y", ()), Value("z", ())), (pool, broken))
    x = np.zeros((1, 1, 4, 4), np.float32)
    with pytest.raises(ModelError, match="Transpose 't' cannot be computed: axes don't match array"):
        Interpreter(graph, [x]).run([x])
    wrong = replace(broken, attributes={"perm": "reversed"})
    with pytest.raises(ModelError, match="attribute perm='reversed' is of the wrong kind"):
        Interpreter(replace(graph, nodes=(pool, wrong)), [x]).run([x])
