"""ONNX files in the forms that exporters write: order, dead nodes, subgraphs, external data, other domains, types."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ModelError, UnsupportedOperator
from engine.formats import read
from engine.graph import Array
from engine.runtime.convert import convert

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

X = np.random.RandomState(4).uniform(-2, 2, (1, 4, 6, 6)).astype(np.float32)
W = np.random.RandomState(5).uniform(-1, 1, (5, 4, 3, 3)).astype(np.float32)
KINDS = {
    np.dtype(kind): getattr(TensorProto, name) for kind, name in (("f4", "FLOAT"), ("f2", "FLOAT16"), ("f8", "DOUBLE"))
}
MICROSOFT = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]


def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs, outputs, name=attributes.pop("name", outputs[0]), **attributes)


def model(
    nodes: list[Any], arrays: dict[str, Array] | None = None, *, x: Array = X, opset: Any = 17, kind: int | None = None
) -> Any:
    """A model of x and y; `kind` of y, if it is not x's."""
    own = KINDS[x.dtype]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", own, x.shape)],
        [helper.make_tensor_value_info("y", kind or own, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (arrays or {}).items()],
    )
    imports = opset if isinstance(opset, list) else [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def saved(made: Any, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def check(made: Any, folder: Path, x: Array = X, tolerance: float = 1e-5) -> Array:
    """What the engine computes, once it is what ONNX Runtime does, of the file and of what we write of it."""
    path = saved(made, folder / "m.onnx")
    expected = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    found = engine.load(path).run(x)
    assert isinstance(found, np.ndarray)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    return found


def test_nodes_may_come_in_any_order(tmp_path: Path) -> None:
    chain = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Neg", ["b"], ["y"])]
    expected = check(model(chain, {"w": W}), tmp_path)
    backwards = saved(model(chain[::-1], {"w": W}), tmp_path / "b.onnx")
    found = engine.load(backwards)
    assert [each.op_type for each in found.graph.nodes] == ["Conv", "Relu", "Neg"]
    np.testing.assert_array_equal(found.run(X), expected)


def test_what_no_output_depends_on_is_not_even_read(tmp_path: Path) -> None:
    dead = [node("Optional", ["x"], ["d"]), node("Foo", ["d"], ["e"], domain="own"), node("Relu", ["gone"], ["f"])]
    made = model([node("Relu", ["x"], ["y"]), *dead])
    made.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [1], [b"cat"]))
    found = engine.load(saved(made, tmp_path / "a.onnx"))
    assert [each.op_type for each in found.graph.nodes] == ["Relu"]
    np.testing.assert_array_equal(found.run(X), np.maximum(X, 0))


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    nodes = [
        node("Foo", ["x"], ["a"]),
        node("Loop", ["a", "a", "a"], ["b"], body=helper.make_graph([], "b", [], [])),
        node("Foo", ["b"], ["c"]),
        node("Bar", ["c"], ["y"], domain="own"),
    ]
    expected = r"operators Foo \('a' and 1 more\), Loop \('b'\), Bar of domain 'own' \('y'\) are not supported"
    with pytest.raises(UnsupportedOperator, match=expected):
        engine.load(saved(model(nodes), tmp_path / "a.onnx"))


def branch(name: str, nodes: list[Any], output: str, arrays: dict[str, Array] | None = None) -> Any:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, key) for key, array in (arrays or {}).items()]
    return helper.make_graph(nodes, name, [], [value], tensors)


@pytest.mark.parametrize("condition", [True, False])
def test_an_if_with_a_constant_condition_is_its_branch(tmp_path: Path, condition: bool) -> None:
    # Both branches have a value 'a' of their own, and one has a weight and another If.
    inner = node(
        "If",
        ["t"],
        ["z"],
        then_branch=branch("i", [node("Neg", ["a"], ["n"])], "n"),
        else_branch=branch("j", [node("Abs", ["x"], ["n"])], "n"),
    )
    nodes = [
        node(
            "If",
            ["t"],
            ["c"],
            then_branch=branch("a", [node("Relu", ["x"], ["a"]), node("Mul", ["a", "k"], ["b"])], "b", {"k": X[:, :1]}),
            else_branch=branch("b", [node("Tanh", ["x"], ["a"]), inner], "z"),
        ),
        node("Add", ["c", "x"], ["y"]),
    ]
    check(model(nodes, {"t": np.array(condition)}), tmp_path)


def test_branches_within_branches_have_a_bound(tmp_path: Path) -> None:
    inner = branch("b", [node("Relu", ["x"], ["r"])], "r")
    for _ in range(12):  # the onnx package writes no message that is much deeper
        deeper = node("If", ["t"], ["r"], then_branch=inner, else_branch=branch("e", [node("Relu", ["x"], ["r"])], "r"))
        inner = branch("b", [deeper], "r")
    made = model([node("If", ["t"], ["y"], then_branch=inner, else_branch=inner)], {"t": np.array(True)})
    with pytest.raises(UnsupportedOperator, match="more than 4 subgraphs within one another"):
        engine.load(saved(made, tmp_path / "a.onnx"))


def test_an_if_on_a_shape_is_decided_by_the_plan(tmp_path: Path) -> None:
    # What PyTorch writes for x.squeeze(1).
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["c"]),
        node("Equal", ["c", "one"], ["t"]),
        node(
            "If",
            ["t"],
            ["y"],
            then_branch=branch("a", [node("Squeeze", ["x", "axis"], ["a"])], "a"),
            else_branch=branch("b", [node("Identity", ["x"], ["b"])], "b"),
        ),
    ]
    for x, expected in ((X, X), (X[:, :1], X[:, 0])):  # ONNX Runtime wants branches of one rank
        made = model(nodes, {"one": np.array(1), "axis": np.array([1])}, x=x)
        found = engine.load(saved(made, tmp_path / "m.onnx"))
        np.testing.assert_array_equal(found.run(x), expected)
        assert found.plan().outputs[0].shape == expected.shape


def test_an_if_on_data_runs_and_is_no_plan(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "limit"], ["t"]),
        node(
            "If",
            ["t"],
            ["y"],
            then_branch=branch("a", [node("Relu", ["x"], ["a"])], "a"),
            else_branch=branch("b", [node("Neg", ["x"], ["b"])], "b"),
        ),
    ]
    for limit in (0.0, 9.0):
        check(model(nodes, {"limit": np.float32(limit)}), tmp_path)
    with pytest.raises(UnsupportedOperator, match="If 'y': its condition 't' is computed from data"):
        engine.load(tmp_path / "m.onnx").plan()


def anchors() -> Any:
    """The grid of a detector for any size: Shape, Range, Expand and a Reshape by what they give."""
    nodes = [
        node("Conv", ["x", "w"], ["f"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Shape", ["f"], ["s"]),
        node("Gather", ["s", "two"], ["h"]),
        node("Gather", ["s", "three"], ["v"]),
        node("Range", ["zero", "v", "one"], ["r"]),
        node("Cast", ["r"], ["c"], to=1),
        node("Add", ["c", "half"], ["e"]),
        node("Unsqueeze", ["h", "first"], ["h1"]),
        node("Unsqueeze", ["v", "first"], ["v1"]),
        node("Concat", ["h1", "v1"], ["hv"], axis=0),
        node("Expand", ["e", "hv"], ["grid"]),
        node("Add", ["f", "grid"], ["g"]),
        node("Mul", ["h", "v"], ["count"]),
        node("Unsqueeze", ["count", "first"], ["count1"]),
        node("Concat", ["keep", "count1"], ["wanted"], axis=0),
        node("Reshape", ["g", "wanted"], ["y"]),
    ]
    arrays = {"w": W, "half": np.float32(0.5), "zero": np.array(0), "one": np.array(1), "two": np.array(2)}
    arrays |= {"three": np.array(3), "first": np.array([0]), "keep": np.array([1, 5])}
    made = model(nodes, arrays)
    for axis, name in ((2, "height"), (3, "width")):
        made.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return made


def test_a_dynamic_detectors_grid_follows_the_size_of_the_input(tmp_path: Path) -> None:
    for height, width in ((6, 6), (8, 12), (5, 7)):
        x = np.random.RandomState(height).uniform(-1, 1, (1, 4, height, width)).astype(np.float32)
        expected = check(anchors(), tmp_path, x)
        plan = engine.load(tmp_path / "m.onnx").plan(x.shape)
        np.testing.assert_array_equal(plan.run(x), expected)


def test_boxes_that_survive_come_out_and_lead_to_their_values(tmp_path: Path) -> None:
    state = np.random.RandomState(8)
    boxes = np.sort(state.uniform(0, 1, (1, 30, 4)).astype(np.float32), axis=-1)[..., [0, 1, 2, 3]]
    scores = state.uniform(0, 1, (1, 3, 30)).astype(np.float32)
    nodes = [
        node("Relu", ["x"], ["b"]),
        node("NonMaxSuppression", ["b", "scores", "most", "overlap", "least"], ["kept"]),
        node("Slice", ["kept", "two", "three", "axis"], ["place"]),
        node("Squeeze", ["place", "axis"], ["index"]),
        node("Gather", ["b", "index"], ["y"], axis=1),
    ]
    arrays = {"scores": scores, "most": np.array([4]), "overlap": np.float32([0.3]), "least": np.float32([0.2])}
    arrays |= {"two": np.array([2]), "three": np.array([3]), "axis": np.array([1])}
    found = check(model(nodes, arrays, x=boxes), tmp_path, boxes)
    assert found.shape[1] > 4
    with pytest.raises(UnsupportedOperator, match="NonMaxSuppression 'kept': the shape of its output depends on data"):
        engine.load(tmp_path / "m.onnx").plan()


def test_dimensions_of_minus_one_are_free_and_outputs_need_no_type(tmp_path: Path) -> None:
    made = model([node("Relu", ["x"], ["y"])])
    for axis in (0, 2, 3):
        made.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    made.graph.output[0].ClearField("type")
    found = engine.load(saved(made, tmp_path / "a.onnx"))
    assert found.graph.inputs[0].shape == (0, 4, 0, 0)
    np.testing.assert_array_equal(found.run(X), np.maximum(X, 0))


def test_a_batch_of_none_gives_none(tmp_path: Path) -> None:
    made = model(
        [node("Conv", ["x", "w"], ["a"]), node("GlobalAveragePool", ["a"], ["p"]), node("Flatten", ["p"], ["y"])],
        {"w": W},
    )
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert check(made, tmp_path, X[:0]).shape == (0, 5)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_come_out_as_they_are_declared(tmp_path: Path, kind: Any) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Sigmoid", ["a"], ["b"]), node("Mul", ["a", "b"], ["y"])]
    check(model(nodes, {"w": X[0, 0].astype(kind)}, x=X.astype(kind)), tmp_path, X.astype(kind), 5e-3)


def test_double_precision_keeps_its_range_and_digits_in_element_wise_operators(tmp_path: Path) -> None:
    x = np.array([1e300, 0.1])
    made = model([node("Mul", ["x", "k"], ["a"]), node("Sqrt", ["a"], ["y"])], {"k": np.array([1, 1 + 1e-12])}, x=x)
    check(made, tmp_path, x, 1e-15)


def test_half_precision_rounds_and_overflows(tmp_path: Path) -> None:
    x = np.array([70000, 0.1, 1e-8, 3.14159], np.float32)
    cast = [node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16), node("Cast", ["a"], ["y"], to=TensorProto.FLOAT)]
    assert np.isinf(check(model(cast, x=x), tmp_path, x, 0)[0])
    convert(tmp_path / "m.onnx", tmp_path / "again.onnx")
    np.testing.assert_array_equal(engine.load(tmp_path / "again.onnx").run(x), engine.load(tmp_path / "m.onnx").run(x))
    half = np.array([300, 2], np.float16)
    assert np.isinf(check(model([node("Mul", ["x", "x"], ["y"])], x=half), tmp_path, half)[0])


@pytest.mark.parametrize(
    ("activation", "numbers"), [("Relu", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.5]), ("HardSigmoid", [0.3, 0.4])]
)
def test_fused_convolutions_of_onnxruntime(tmp_path: Path, activation: str, numbers: list[float]) -> None:
    fused = node("FusedConv", ["x", "w", "b"], ["y"], domain="com.microsoft", activation=activation)
    if numbers:
        fused.attribute.append(helper.make_attribute("activation_params", numbers))
    check(model([fused], {"w": W, "b": W[:, 0, 0, 0]}, opset=MICROSOFT), tmp_path)


@pytest.mark.parametrize("alpha", [1.0, 1.702])
def test_quick_gelu_of_onnxruntime(tmp_path: Path, alpha: float) -> None:
    check(model([node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=alpha)], opset=MICROSOFT), tmp_path)


@pytest.mark.parametrize(
    ("op_type", "attributes", "expected"),
    [
        ("ImageScaler", {"scale": 2.0, "bias": [1.0, 2.0, 3.0, 4.0]}, X * 2 + np.arange(1, 5).reshape(4, 1, 1)),
        ("Affine", {"alpha": 2.0, "beta": -1.0}, X * 2 - 1),
        ("Crop", {"border": [1, 2, 1, 0]}, X[:, :, 2:, 1:-1]),
        ("Crop", {"border": [1, 2, 0, 0], "scale": [3, 2]}, X[:, :, 2:5, 1:3]),
    ],
)
def test_operators_of_early_exporters(tmp_path: Path, op_type: str, attributes: Any, expected: Array) -> None:
    path = saved(model([node(op_type, ["x"], ["y"], **attributes)], opset=9), tmp_path / "a.onnx")
    np.testing.assert_allclose(engine.load(path).run(X), expected, rtol=1e-6)


def test_an_infinite_constant_is_no_damage(tmp_path: Path) -> None:
    mask = np.where(np.arange(6) < 3, 0, -np.inf).astype(np.float32)
    check(model([node("Add", ["x", "m"], ["a"]), node("Softmax", ["a"], ["y"])], {"m": mask}), tmp_path)


@pytest.mark.parametrize(
    ("opset", "attributes", "outputs"),
    [
        (9, {}, ["y", "a", "b", "c", "d"]),
        (13, {}, ["y", "a", "b", "c", "d"]),
        (6, {}, ["y"]),
        (6, {"is_test": 0}, ["y"]),
    ],
)
def test_batch_normalization_in_training_is_refused(
    tmp_path: Path, opset: int, attributes: dict[str, int], outputs: list[str]
) -> None:
    norm = node("BatchNormalization", ["x", "s", "s", "s", "s"], outputs, **attributes)
    path = saved(model([norm], {"s": np.ones(4, np.float32)}, opset=opset), tmp_path / "a.onnx")
    with pytest.raises(UnsupportedOperator, match=r"BatchNormalization 'y'.* training; supported is inference"):
        engine.load(path)


def test_squeeze_with_axes_of_no_elements_takes_all(tmp_path: Path) -> None:
    x = np.zeros((3, 1, 5, 1), np.float32)
    made = model([node("Squeeze", ["x", "a"], ["y"])], {"a": np.zeros(0, np.int64)}, x=x, opset=13)
    assert check(made, tmp_path, x).shape == (3, 5)


def test_millions_of_numbers_outside_raw_data_are_read(tmp_path: Path) -> None:
    numbers = np.arange(-400_000, 400_000, dtype=np.int32)
    made = model(
        [node("Cast", ["k"], ["c"], to=1), node("ReduceSum", ["c"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    )
    made.graph.initializer.append(helper.make_tensor("k", TensorProto.INT32, numbers.shape, numbers.tolist()))
    np.testing.assert_array_equal(read(saved(made, tmp_path / "a.onnx")).arrays["k"], numbers)
    made.graph.initializer[0].data_type = TensorProto.INT8
    with pytest.raises(ModelError, match="weight 'k': a number that is none of i1"):
        read(saved(made, tmp_path / "a.onnx"))


# External data


def external(made: Any, folder: Path, **changes: str) -> Path:
    """The model with weight 'w' in m.onnx.data, at 64; `changes` to what the file says of it."""
    data = W.tobytes()
    (folder / "m.onnx.data").write_bytes(bytes(64) + data)
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    described = {"location": "m.onnx.data", "offset": "64", "length": str(len(data))} | changes
    for key, value in described.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return saved(made, folder / "m.onnx")


def conv() -> Any:
    return model([node("Conv", ["x", "w"], ["y"])], {"w": W})


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    expected = check(conv(), tmp_path)
    np.testing.assert_array_equal(engine.load(external(conv(), tmp_path)).run(X), expected)


def test_a_model_saved_by_onnx_with_external_data_is_read(tmp_path: Path) -> None:
    expected = check(conv(), tmp_path)
    onnx.save_model(conv(), str(tmp_path / "e.onnx"), save_as_external_data=True, location="e.data", size_threshold=0)
    np.testing.assert_array_equal(engine.load(tmp_path / "e.onnx").run(X), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "../m.onnx.data"}, "which is no plain name"),
        ({"location": "/etc/passwd"}, "which is no plain name"),
        ({"location": ".."}, "which is no plain name"),
        ({"location": ""}, "which is no plain name"),
        ({"location": "sub/m.data"}, "which is no plain name"),
        ({"location": "a\0b"}, "which is no plain name"),
        ({"location": "missing"}, "No such file or directory; keep it beside the model"),
        ({"offset": "128"}, r"720 bytes from 128 on of 'm.onnx.data', which has 784"),
        ({"offset": "-1"}, "'-1' is no number of bytes"),
        ({"offset": "9" * 30}, "is no number of bytes"),
        ({"length": "719"}, r"719 bytes of external data; shape \(5, 4, 3, 3\) needs 720"),
        ({"length": "0x10"}, "'0x10' is no number of bytes"),
    ],
)
def test_external_data_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=f"weight 'w'.*{message}"):
        engine.load(external(conv(), tmp_path, **changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda target, at: os.symlink(target, at), "symbolic links|symlinks"),
        (lambda target, at: os.link(target, at), "a link or no regular file"),
        (lambda target, at: os.mkfifo(at), "a link or no regular file"),
        (lambda target, at: os.mkdir(at), "a link or no regular file"),
    ],
    ids=["symbolic link", "hard link", "pipe", "folder"],
)
def test_external_data_in_anything_but_a_plain_file_are_refused(
    tmp_path: Path, make: Callable[[Path, Path], None], message: str
) -> None:
    path = external(conv(), tmp_path)
    (tmp_path / "m.onnx.data").rename(tmp_path / "other")
    make(tmp_path / "other", tmp_path / "m.onnx.data")
    with pytest.raises(ModelError, match=message):
        engine.load(path)


def test_a_small_file_that_declares_terabytes_elsewhere_is_refused_at_once(tmp_path: Path) -> None:
    made = conv()
    made.graph.initializer[0].dims[:] = [1 << 20, 1 << 20, 3, 3]
    path = external(made, tmp_path, length=str(36 << 40))
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ModelError, match="weights of more than"):
        engine.load(path)
    assert time.process_time() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
