"""ONNX files against the onnx package and ONNX Runtime, and what their reader refuses."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ModelError, nets
from engine.formats import read
from engine.formats.protobuf import bytes_field, int_field
from engine.graph import Array
from engine.runtime.convert import convert, save
from tests.engine import net_cases
from tests.engine.nets.test_nets import model

# ONNX


def test_onnx_that_we_write_passes_the_checker_and_runs_in_onnxruntime(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    for name in net_cases.NETS:
        path = tmp_path / f"{name}.onnx"
        save(model(name), path)
        onnx.checker.check_model(str(path), full_check=True)
        images = net_cases.images(name)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: images})[0]
        np.testing.assert_allclose(found, model(name).run(images), rtol=1e-5, atol=1e-5)


def test_onnx_that_we_write_loads_with_card_graph_and_numbers(tmp_path: Path) -> None:
    save(model("cifar10"), tmp_path / "a.onnx")
    found, images = engine.load(tmp_path / "a.onnx"), net_cases.images("cifar10")
    assert found.card == nets.default_card("cifar10")
    np.testing.assert_array_equal(found.run(images), model("cifar10").run(images))


def onnx_model(nodes: list[Any], inputs: dict[str, list[Any]], initializers: dict[str, Array], **more: Any) -> bytes:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    opset = more.get("opset", 17)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=more.get("ir", 8))
    assert onnx
    return bytes(made.SerializeToString())


def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    pytest.importorskip("onnx")
    from onnx import helper

    return helper.make_node(op_type, inputs, outputs, **attributes)


def test_every_kind_of_tensor_is_read_as_onnx_reads_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    kinds = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT64", "INT32", "INT8", "UINT8", "UINT64", "BOOL")
    tensors = []
    for kind in kinds:
        code = getattr(onnx.TensorProto, kind)
        tensors.append(
            helper.make_tensor(f"{kind}_typed", code, [2, 2], [1, 0, 1, 3] if kind != "BOOL" else [1, 0, 1, 1])
        )
        raw = numpy_helper.to_array(tensors[-1])
        tensors.append(helper.make_tensor(f"{kind}_raw", code, [2, 2], raw.tobytes(), raw=True))
    graph = helper.make_graph(
        [],
        "g",
        [],
        [helper.make_tensor_value_info(each.name, each.data_type, [2, 2]) for each in tensors],
        tensors,
    )
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    found = read(tmp_path / "a.onnx").arrays
    for tensor_ in tensors:
        expected = numpy_helper.to_array(tensor_)
        halves = ("FLOAT16_typed", "FLOAT16_raw", "BFLOAT16_typed", "BFLOAT16_raw")
        expected = expected.astype(np.float32) if tensor_.name in halves else expected
        np.testing.assert_array_equal(found[tensor_.name], expected, err_msg=tensor_.name)
        assert found[tensor_.name].dtype == expected.dtype


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    weights = {"w": np.ones((2, 3), np.float32)}
    data = onnx_model([node("Gemm", ["x", "w"], ["y"])], {"x": [1, 2], "w": [2, 3]}, weights, ir=3, opset=9)
    (tmp_path / "a.onnx").write_bytes(data)
    found = engine.load(tmp_path / "a.onnx")
    assert [value.name for value in found.graph.inputs] == ["x"]
    np.testing.assert_array_equal(found.run(np.array([[1, 2]], np.float32)), [[3, 3, 3]])


def test_external_data_elsewhere_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    made = onnx.load_from_string(
        onnx_model([node("Add", ["x", "w"], ["y"])], {"x": [1, 2]}, {"w": np.ones(2, np.float32)})
    )
    tensor_ = made.graph.initializer[0]
    tensor_.ClearField("raw_data")
    tensor_.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor_.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(
        ModelError, match=r"weight 'w' lies in another file, '../../etc/passwd', which is no plain name"
    ):
        read(tmp_path / "a.onnx")


W = {"w": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no graph with outputs"),
        (b"\x0a\xff", "cut off or damaged"),
        (b"\xff" * 20, "a number that does not end"),
        (b"\x0b\x01", "wire type 3"),
        (int_field(7, 1), "field 'graph' has wire type 0"),
        (bytes_field(7, bytes_field(12, bytes_field(1, b"\xff"))), "is not UTF-8 text"),
        (lambda: onnx_model([node("Relu", ["z"], ["y"])], {"x": [1]}, {}), r"Relu 'y' reads 'z', which does not exist"),
        (lambda: onnx_model([node("Add", ["x", "y"], ["y"])], {"x": [1]}, {}), "reads 'y', made only later .a cycle"),
        (lambda: onnx_model([node("Relu", ["x"], ["x"])], {"x": [1]}, {}), "Relu 'x' makes 'x' a second time"),
        (lambda: onnx_model([node("Relu", ["x"], ["z"])], {"x": [1]}, {}), "no node makes the output 'y'"),
        (lambda: onnx_model([node("Relu", ["x"], ["y"])], {"x": [-3, 2]}, {}), "is not a shape"),
        (
            lambda: onnx_model([node("Relu", ["x"], ["y"], domain="own")], {"x": [1]}, {}),
            "operator Relu of domain 'own' .'y'. is not supported",
        ),
        (lambda: onnx_model([node("Relu", ["x"], ["y"])], {"x": [1]}, {}, opset=99), "operator set 99; known are 1 to"),
        (
            lambda: onnx_model([node("Add", ["x", "w"], ["y"])], {"x": [1, 2]}, {"w": np.array([[np.nan, 1]], "f4")}),
            "holds NaN",
        ),
    ],
)
def test_onnx_that_cannot_be_used_is_refused(tmp_path: Path, data: bytes | Callable[[], bytes], message: str) -> None:
    (tmp_path / "a.onnx").write_bytes(data if isinstance(data, bytes) else data())
    with pytest.raises(ModelError, match=rf"a\.onnx: .*{message}"):
        engine.load(tmp_path / "a.onnx")


@pytest.mark.slow
def test_a_small_file_of_many_fields_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(bytes_field(7, bytes_field(1, b"\x0a\x00" * 3_000_000)))
    tracemalloc.start()
    with pytest.raises(ModelError, match="more than 300000 fields"):
        read(tmp_path / "a.onnx")
    assert tracemalloc.get_traced_memory()[1] < 150 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "nodes",
    [
        [("Split", ["x"], ["y", "z"], {"axis": 1})],
        [("Cast", ["x"], ["h"], {"to": 10}), ("Add", ["h", "half"], ["s"], {}), ("Cast", ["s"], ["y"], {"to": 1})],
        [("Clip", ["x", "low", "high"], ["y"], {})],
    ],
    ids=["split without sizes", "half precision within", "infinite bounds"],
)
def test_operators_of_older_files_are_written_so_that_onnxruntime_runs_them(
    tmp_path: Path, nodes: list[tuple[str, list[str], list[str], dict[str, Any]]]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = [node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes]
    half, low, high = np.full((1, 4), 0.5, np.float16), np.float32(-np.inf), np.float32(1.5)
    constants = {"half": half, "low": np.asarray(low), "high": np.asarray(high)}
    used = {name: array for name, array in constants.items() if any(name in each[1] for each in nodes)}
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    old.write_bytes(onnx_model(made, {"x": [1, 4]}, used, opset=13))
    x = np.array([[-1, 0.5, 1, 2]], np.float32)
    convert(old, new)
    expected = onnxruntime.InferenceSession(old).run(["y"], {"x": x})[0]
    np.testing.assert_array_equal(engine.load(old).run(x), expected)
    np.testing.assert_array_equal(onnxruntime.InferenceSession(new).run(["y"], {"x": x})[0], expected)


def test_an_input_of_one_number_keeps_its_shape(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx_model([node("Relu", ["x"], ["y"])], {"x": []}, {}))
    convert(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert engine.load(tmp_path / "b.onnx").run(np.array(-2, np.float32)) == 0


@pytest.mark.parametrize(("op_type", "value"), [("MatMul", np.inf), ("Add", np.nan), ("Clip", np.nan)])
def test_weights_must_be_finite_and_other_constants_numbers(tmp_path: Path, op_type: str, value: float) -> None:
    data = onnx_model([node(op_type, ["x", "w"], ["y"])], {"x": [2, 1]}, {"w": np.full((1, 1), value, np.float32)})
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="parameter 'w' holds NaN or infinity"):
        engine.load(tmp_path / "a.onnx")


def test_an_attribute_of_half_a_number_is_refused(tmp_path: Path) -> None:
    scales = bytes_field(1, "scales") + bytes_field(7, bytes(6)) + int_field(20, 6)
    upsample = bytes_field(1, "x") + bytes_field(2, "y") + bytes_field(4, "Upsample") + bytes_field(5, scales)
    tensor_type = bytes_field(1, int_field(1, 1) + bytes_field(2, b""))
    x = bytes_field(11, bytes_field(1, "x") + bytes_field(2, tensor_type))
    graph = bytes_field(1, upsample) + x + bytes_field(12, bytes_field(1, "y"))
    (tmp_path / "a.onnx").write_bytes(bytes_field(7, graph) + bytes_field(8, int_field(2, 7)))
    with pytest.raises(ModelError, match=r"Upsample 'y': attribute scales: 6 bytes are no whole number of float32"):
        read(tmp_path / "a.onnx")
