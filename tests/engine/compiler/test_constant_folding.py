"""Folding: graphs as files have them, with shapes computed by nodes, against the plain loops and onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.compiler.constant_folding import NotPlannable, fold
from engine.formats.onnx import parse_onnx, serialise_onnx
from engine.graph import Array, Graph, ModelError, Node, UnsupportedOperator, Value
from engine.interpreter import Interpreter
from engine.model import Model, load
from engine.model_card import ModelCard
from engine.reference import run_graph
from engine.runtime.convert import save
from engine.runtime.shared_model import attach_shared, write_shared
from tests.engine.formats.test_onnx import node, onnx_model

X = np.random.RandomState(2).uniform(-1, 1, (2, 4, 3, 5)).astype(np.float32)


def graph(
    *nodes: Node, outputs: tuple[str, ...] = ("y",), inputs: dict[str, Array] | None = None, **constants: Any
) -> Graph:
    given = {"x": X} if inputs is None else inputs
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    values = tuple(Value(name, array.shape, array.dtype.name) for name, array in given.items())
    return Graph("g", values, tuple(Value(name, ()) for name in outputs), nodes, initializers=arrays)


def check(g: Graph, *inputs: Array) -> tuple[Array, ...]:
    """The outputs, once they are those of the plain loops in values, shape and data type."""
    found, expected = Interpreter(g, inputs).run(inputs), run_graph(g, *inputs)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    return found


def operators(g: Graph, *inputs: Array) -> list[str]:
    return [each.op_type for each in fold(g, [array.shape for array in inputs]).nodes]


FLATTENED = graph(
    Node("Shape", ("x",), ("shape",)),
    Node("Gather", ("shape", "zero"), ("batch",)),
    Node("Unsqueeze", ("batch", "axes"), ("batch_1",)),
    Node("Concat", ("batch_1", "rest"), ("wanted",), {"axis": 0}),
    Node("Reshape", ("x", "wanted"), ("y",)),
    zero=0,
    axes=[0],
    rest=[-1],
)


def test_shape_arithmetic_of_an_exported_flatten_leaves_one_view() -> None:
    assert operators(FLATTENED, X) == ["Reshape"]
    assert check(FLATTENED, X)[0].shape == (2, 60)


def test_shape_arithmetic_follows_the_batch() -> None:
    free = replace(FLATTENED, inputs=(Value("x", (0, 4, 3, 5)),))
    model = Model(ModelCard("g", "other", (4, 3, 5), colour=""), free)
    for batch in (1, 2):
        assert model.plan((batch, 4, 3, 5)).run(X[:batch]).shape == (batch, 60)
        assert np.asarray(model.run(X[:batch])).shape == (batch, 60)


def test_channel_shuffle_of_an_exporter_folds_to_its_moves() -> None:
    g = graph(
        Node("Reshape", ("x", "apart"), ("a",)),
        Node("Transpose", ("a",), ("b",), {"perm": (0, 2, 1, 3, 4)}),
        Node("Reshape", ("b", "together"), ("y",)),
        apart=[2, 2, 2, 3, 5],
        together=[2, 4, 3, 5],
    )
    (found,) = check(g, X)
    np.testing.assert_array_equal(found, X[:, [0, 2, 1, 3]])


def test_weights_made_by_nodes_are_computed_once() -> None:
    g = graph(
        Node("ConstantOfShape", ("size",), ("ones",), {"value": np.array([0.5], np.float32)}),
        Node("Mul", ("ones", "factor"), ("weight",)),
        Node("Sigmoid", ("weight",), ("squashed",)),
        Node("Conv", ("x", "squashed"), ("y",)),
        size=[3, 4, 1, 1],
        factor=np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1),
    )
    assert operators(g, X) == ["Conv"]
    check(g, X)


def test_split_becomes_slices_and_sum_becomes_additions() -> None:
    g = graph(
        Node("Split", ("x", "sizes"), ("a", "b", "c"), {"axis": 1}),
        Node("Sum", ("a", "b", "c"), ("y",)),
        outputs=("y", "b"),
        sizes=[1, 1, 2],
    )
    assert operators(g, X) == ["Slice", "Slice", "Slice", "Add", "Add"]
    check(replace(g, nodes=(g.nodes[0], Node("Sum", ("a", "b", "a"), ("y",)))), X)


def test_uneven_split_gives_the_last_part_what_is_left() -> None:
    g = graph(Node("Split", ("x",), ("a", "b"), {"axis": 2, "num_outputs": 2}), outputs=("a", "b"))
    assert [array.shape for array in check(g, X)] == [(2, 4, 2, 5), (2, 4, 1, 5)]


def test_old_broadcasting_puts_the_second_operand_at_its_axis() -> None:
    for op_type in ("Add", "Sub", "Mul", "Div", "PRelu"):
        g = graph(Node(op_type, ("x", "b"), ("y",), {"axis": 1}), b=np.arange(1, 5, dtype=np.float32))
        check(g, X)


def test_dropout_gives_its_input_and_a_mask_that_drops_nothing() -> None:
    g = graph(Node("Dropout", ("x", "ratio"), ("y", "mask")), outputs=("y", "mask"), ratio=np.float32(0.7))
    y, mask = check(g, X)
    np.testing.assert_array_equal(y, X)
    assert mask.dtype == bool
    assert mask.all()


def test_indices_of_max_pool_come_from_the_plain_loops() -> None:
    pool = Node("MaxPool", ("x",), ("y", "i"), {"kernel_shape": (2, 2), "storage_order": 1})
    g = graph(pool, outputs=("y", "i"))
    with pytest.raises(NotPlannable, match="its further output 'i' is not supported in plans"):
        fold(g, [X.shape])
    y, indices = check(g, X)
    places = X.transpose(0, 1, 3, 2).ravel()  # column by column
    np.testing.assert_array_equal(places[indices], y)


def test_casts_of_data_to_other_kinds_come_from_the_plain_loops() -> None:
    (found,) = check(graph(Node("Cast", ("x",), ("y",), {"to": 7})), X * 9)
    assert found.dtype == np.int64
    assert operators(graph(Node("Cast", ("x",), ("y",), {"to": 1})), X) == ["Identity"]


def test_inputs_that_are_settings_may_change_from_run_to_run() -> None:
    shape = np.array([2, 60])
    g = graph(Node("Reshape", ("x", "shape"), ("y",)), inputs={"x": X, "shape": shape})
    model = Model(ModelCard("g", "other", (4, 3, 5), colour=""), g)
    assert np.asarray(model.run(X, shape)).shape == (2, 60)
    assert np.asarray(model.run(X, np.array([4, 30]))).shape == (4, 30)
    with pytest.raises(
        ModelError, match=r"its shape \('shape'\) is computed from data; a plan needs it before it runs"
    ):
        model.plan(X.shape, (2,))


def test_empty_and_constant_results_have_their_shape_and_kind() -> None:
    empty = np.zeros((0, 4), np.float32)
    g = graph(Node("Shape", ("x",), ("s",)), Node("Relu", ("x",), ("y",)), inputs={"x": empty}, outputs=("s",))
    (shape,) = Interpreter(replace(g, nodes=g.nodes[:1]), [empty]).run([empty])
    np.testing.assert_array_equal(shape, [0, 4])


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([Node("Relu", ("x",), ("s",)), Node("Reshape", ("x", "s"), ("y",), {}, "r")], {}, "Reshape 'r': its shape"),
        (
            [Node("Reshape", ("x", "s"), ("y",), {}, "r")],
            {"s": [7, -1]},
            "Reshape 'r': an input of shape .2, 4, 3, 5. does",
        ),
        ([Node("Reshape", ("x", "s"), ("y",), {}, "r")], {"s": [-1, -1]}, "Reshape 'r'"),
        (
            [Node("Squeeze", ("x", "s"), ("y",), {}, "q")],
            {"s": [1]},
            "Squeeze 'q': axes .1. of .2, 4, 3, 5. are not all",
        ),
        ([Node("Split", ("x", "s"), ("y", "z"), {}, "p")], {"s": [1, 2]}, "Split 'p': 2 into .1, 2. for 2 outputs"),
        ([Node("Slice", ("x", "s", "s", "s", "t"), ("y",), {}, "l")], {"s": [1], "t": [0]}, "Slice 'l': axes"),
        ([Node("Gather", ("x", "s"), ("y",), {}, "g")], {"s": [2]}, "Gather 'g': an index beyond the 2 entries"),
        ([Node("Concat", ("x", "s"), ("y",), {"axis": 9}, "c")], {"s": X}, "Concat 'c': axis 9, but its input has 4"),
        ([Node("ConstantOfShape", ("s",), ("y",), {}, "k")], {"s": [1 << 40, 1 << 20]}, "larger than the"),
        (
            [Node("ConstantOfShape", ("s",), ("y",), {}, "k")],
            {"s": [-1]},
            "ConstantOfShape 'k' cannot be computed: neg",
        ),
        (
            [Node("Resize", ("x", "", "s"), ("y",), {}, "z")],
            {"s": np.array([1, 1, 1e6, 1e6], "f4")},
            "Resize 'z': axes",
        ),
        ([Node("Div", ("s", "t"), ("y",), {}, "d")], {"s": [1], "t": [0]}, "Div 'd' cannot be computed: division"),
        ([Node("Pad", ("x", "s"), ("y",), {}, "a")], {"s": [1, 2]}, "Pad 'a': pads=.1, 2. for 4 axes"),
        ([Node("Add", ("x", "s"), ("y",), {}, "a")], {"s": [1, 2]}, "Add 'a': data types float32 and int64 do not go"),
        ([Node("LSTM", ("x",), ("y",), {}, "deep")], {}, r"operator LSTM \('deep'\) is not supported"),
        ([Node("Cast", ("x",), ("y",), {"to": 8}, "c")], {}, "Cast 'c': to=8; supported are"),
        ([Node("Dropout", ("x", "r", "t"), ("y",), {}, "d")], {"r": np.float32(0), "t": True}, "training_mode=True"),
    ],
)
def test_what_does_not_fit_is_refused_by_node(nodes: list[Node], constants: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fold(graph(*nodes, **constants), [X.shape])


@pytest.mark.slow
def test_a_chain_of_doublings_is_stopped_before_it_fills_the_memory() -> None:
    nodes = [Node("Concat", (f"c{i}", f"c{i}"), (f"c{i + 1}",), {"axis": 0}) for i in range(60)]
    with pytest.raises(ModelError, match="the file's nodes make too many elements"):
        fold(graph(*nodes, outputs=("c60",), c0=np.zeros(1 << 20, np.float32)), [X.shape])


def test_wrong_inputs_are_refused_with_what_was_expected() -> None:
    model = Model(ModelCard("g", "other", (4, 3, 5), colour=""), FLATTENED)
    with pytest.raises(ValueError, match="input 'x': expected float32, found float64"):
        model.run(X.astype(np.float64))
    with pytest.raises(ModelError, match=r"input 'x' is \(2, 4, 3, 5\), found \(4, 3, 5\)"):
        model.run(X[0])
    with pytest.raises(ModelError, match="takes 1 inputs, 2 are given"):
        model.run(X, X)


def test_a_folded_graph_travels_to_workers_through_shared_memory() -> None:
    import io

    model = Model(
        ModelCard("g", "other", (4, 3, 5), colour=""),
        replace(
            FLATTENED,
            nodes=(
                *FLATTENED.nodes[:-1],
                Node("Gather", ("x", "order"), ("g",), {"axis": 1}),
                Node("Reshape", ("g", "wanted"), ("y",)),
            ),
            inputs=(Value("x", (0, 4, 3, 5)),),
            initializers={**FLATTENED.initializers, "order": np.array([3, -4, 1])},
        ),
    )
    file = io.BytesIO()
    write_shared(model, file)
    attached = attach_shared(file.getvalue())
    np.testing.assert_array_equal(attached.run(X), model.run(X))
    np.testing.assert_array_equal(attached.plan((1, 4, 3, 5)).run(X[:1]), np.asarray(model.run(X))[:1])


def test_a_net_from_an_onnx_file_travels_with_its_packed_weights(tmp_path: Any) -> None:
    import io

    from tests.engine.nets.test_nets import model as built

    save(built("residual"), tmp_path / "net.onnx")
    model = load(tmp_path / "net.onnx")
    images = np.random.RandomState(1).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    expected = np.array(model.plan(images.shape).run(images))
    file = io.BytesIO()
    write_shared(model, file)
    attached = attach_shared(file.getvalue())
    np.testing.assert_array_equal(attached.plan(images.shape).run(images), expected)
    np.testing.assert_allclose(expected, built("residual").run(images), rtol=1e-5, atol=1e-5)


def test_old_operator_sets_compute_what_onnxruntime_does(tmp_path: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    models = [
        onnx_model([node("Softmax", ["x"], ["y"])], {"x": [2, 4, 3]}, {}, opset=11, ir=6),
        onnx_model([node("LogSoftmax", ["x"], ["y"], axis=0)], {"x": [2, 4, 3]}, {}, opset=9, ir=4),
        onnx_model([node("Clip", ["x"], ["y"], min=-0.1, max=0.2)], {"x": [2, 4, 3]}, {}, opset=10, ir=5),
        onnx_model([node("Upsample", ["x", "s"], ["y"], mode="linear")], {"x": [1, 1, 3, 4]}, {"s": UP}, opset=9, ir=4),
        onnx_model([node("Resize", ["x", "s"], ["y"])], {"x": [1, 1, 3, 4]}, {"s": UP}, opset=10, ir=5),
        onnx_model([node("Slice", ["x"], ["y"], axes=[1], starts=[1], ends=[3])], {"x": [2, 4]}, {}, opset=9, ir=4),
        onnx_model([node("Unsqueeze", ["x"], ["y"], axes=[0])], {"x": [2, 4]}, {}, opset=11, ir=6),
        onnx_model([node("Pad", ["x"], ["y"], pads=[1, 0, 0, 2], value=3.0)], {"x": [2, 4]}, {}, opset=10, ir=5),
        onnx_model([node("Dropout", ["x"], ["y"], ratio=0.3)], {"x": [2, 4]}, {}, opset=10, ir=5),
        onnx_model([node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)], {"x": [2, 4]}, {}, opset=13, ir=7),
    ]
    for data in models:
        (tmp_path / "m.onnx").write_bytes(data)
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        x = np.random.RandomState(5).uniform(-1, 1, session.get_inputs()[0].shape).astype(np.float32)
        (expected,) = session.run(None, {"x": x})
        found = load(tmp_path / "m.onnx")
        np.testing.assert_allclose(found.run(x), expected, rtol=1e-5, atol=1e-6)
        # What we write of it, in today's terms, is the same again.
        save(found, tmp_path / "again.onnx")
        np.testing.assert_allclose(load(tmp_path / "again.onnx").run(x), expected, rtol=1e-5, atol=1e-6)


UP = np.array([1, 1, 2, 3], np.float32)


def test_settings_written_as_inputs_come_back_the_same() -> None:
    g = graph(Node("Clip", ("x",), ("y",), {"min": -0.5, "max": 0.25}))
    again = parse_onnx(serialise_onnx(g, ModelCard("g", "other", (4, 3, 5), colour=""))).graph
    assert again is not None
    np.testing.assert_array_equal(Interpreter(again, [X]).run([X])[0], np.clip(X, -0.5, 0.25))


def test_an_unknown_operator_is_an_unsupported_one() -> None:
    with pytest.raises(UnsupportedOperator):
        fold(graph(Node("LSTM", ("x",), ("y",))), [X.shape])
