"""Where ONNX Runtime, PyTorch and the text of ONNX differ: what the engine does, and with whom it agrees."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from engine.formats.onnx import serialise_onnx
from engine.graph import Array, Graph, Node, Value
from engine.interpreter import Interpreter
from engine.model import Model
from engine.model_card import ModelCard
from engine.runtime.shared_model import attach_shared, write_shared

CARD = ModelCard("g", "other", (1,), colour="")


def graph_of(x: Array, op_type: str, **attributes: Any) -> Graph:
    node = Node(op_type, ("x",), ("y",), attributes, "n")
    return Graph("g", (Value("x", x.shape, x.dtype.name),), (Value("y", (), ""),), (node,))


def computed(x: Array, op_type: str, **attributes: Any) -> Array:
    return Interpreter(graph_of(x, op_type, **attributes), [x]).run([x])[0]


def by_onnxruntime(x: Array, op_type: str, **attributes: Any) -> Array:
    runtime = pytest.importorskip("onnxruntime")
    data = serialise_onnx(graph_of(x, op_type, **attributes), CARD)
    return np.asarray(runtime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


def by_onnx(x: Array, op_type: str, **attributes: Any) -> Array:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(serialise_onnx(graph_of(x, op_type, **attributes), CARD))
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])


def test_max_pool_keeps_nan_as_pytorch_does() -> None:
    torch = pytest.importorskip("torch")
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    x[0, 0, 0, 0] = np.nan
    windows = {"kernel_shape": (2, 2), "strides": (2, 2)}
    found = computed(x, "MaxPool", **windows)
    np.testing.assert_array_equal(found, torch.nn.functional.max_pool2d(torch.from_numpy(x), 2).numpy())
    assert not np.isnan(by_onnxruntime(x, "MaxPool", **windows)).any()  # the day it differs, this note is outdated


def test_a_backward_slice_that_ends_after_the_axis_is_empty_as_onnx_defines() -> None:
    x = np.arange(3, dtype=np.float32)
    backwards = {"starts": (-5,), "ends": (1 << 31,), "axes": (0,), "steps": (-1,)}
    np.testing.assert_array_equal(computed(x, "Slice", **backwards), by_onnx(x, "Slice", **backwards))


def test_a_region_of_resize_counts_even_if_the_size_stays() -> None:
    x = np.random.RandomState(1).uniform(-1, 1, (1, 1, 6)).astype(np.float32)
    cropped = {
        "mode": "linear",
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "roi": (0.0, 0.0, 0.2, 1.0, 1.0, 0.7),
        "sizes": (1, 1, 6),
    }
    found = computed(x, "Resize", **cropped)
    np.testing.assert_allclose(found, by_onnx(x, "Resize", **cropped), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found, x)


def test_scales_of_nearest_count_even_if_the_size_stays_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    found = computed(x, "Resize", mode="nearest", scales=(1.0, 1.0, 1.15), **floor)
    np.testing.assert_array_equal(found, torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=1.15))
    np.testing.assert_array_equal(by_onnxruntime(x, "Resize", mode="nearest", scales=(1.0, 1.0, 1.15), **floor), x)


def test_whole_numbers_reach_callers_that_have_only_float32() -> None:
    x = np.random.RandomState(2).uniform(-1, 1, (1, 5, 4, 4)).astype(np.float32)
    model = Model(ModelCard("g", "other", (5, 4, 4), colour=""), graph_of(x, "ArgMax", axis=1))
    plan = model.plan(x.shape)
    assert plan.outputs[0].dtype == np.int64
    file = io.BytesIO()
    write_shared(model, file)
    for each in (plan, attach_shared(file.getvalue()).plan(x.shape)):
        mine, out = np.zeros(x.shape, np.float32), np.zeros((1, 1, 4, 4), np.float32)
        run = each.bind([mine], [out])
        mine[...] = x
        run()
        np.testing.assert_array_equal(out, x.argmax(axis=1)[:, None])


def test_an_input_of_pixels_may_be_given_as_float32() -> None:
    x = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    cast, pool = Node("Cast", ("x",), ("f",), {"to": 1}, "c"), Node("GlobalAveragePool", ("f",), ("y",), {}, "p")
    graph = Graph("g", (Value("x", x.shape, "uint8"),), (Value("y", ()),), (cast, pool))
    model = Model(ModelCard("g", "other", (1, 4, 4), colour=""), graph)
    assert float(np.asarray(model.run(x)).ravel()[0]) == 7.5
    mine, out = x.astype(np.float32), np.zeros((1, 1, 1, 1), np.float32)
    model.plan(x.shape).bind([mine], [out])()
    assert out.ravel()[0] == 7.5
