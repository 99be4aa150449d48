"""Resize by fractional scales, at ties and with NaN: as ONNX Runtime and PyTorch agree; each verdict is a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.formats.onnx import serialise_onnx
from engine.graph import Array, Graph, Node, Value
from engine.interpreter import Interpreter
from engine.model_card import ModelCard
from engine.reference import run_node

SCALES = (0.1, 0.2, 0.3, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.7, 0.8, 0.9, 1.1, 1.3, 1.4, 5 / 3, 2.0, 2.2, 3.3)
FLOOR = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def resized(x: Array, attributes: dict[str, Any]) -> Array:
    """What the engine computes, once the plain loops do the same."""
    node = Node("Resize", ("x",), ("y",), attributes, "r")
    graph = Graph("g", (Value("x", x.shape),), (Value("y", ()),), (node,))
    found = Interpreter(graph, [x]).run([x])[0]
    expected = run_node(node, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    return found


def by_onnxruntime(x: Array, attributes: dict[str, Any]) -> Array:
    runtime = pytest.importorskip("onnxruntime")
    node = Node("Resize", ("x",), ("y",), attributes, "r")
    graph = Graph("g", (Value("x", x.shape),), (Value("y", (), ""),), (node,))
    data = serialise_onnx(graph, ModelCard("g", "other", (1,), colour=""))
    return np.asarray(runtime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


def by_torch(x: Array, scale: float, mode: str, **more: Any) -> Array:
    torch = pytest.importorskip("torch")
    factors = (scale,) * (x.ndim - 2)
    return np.asarray(torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=factors, mode=mode, **more))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("length", [30, 31, 224])
def test_nearest_by_scales_takes_the_pixels_that_others_take(scale: float, length: int) -> None:
    x = np.arange(length, dtype=np.float32).reshape(1, 1, length)
    found = resized(x, {**FLOOR, "scales": (1.0, 1.0, scale)})
    np.testing.assert_array_equal(found, by_onnxruntime(x, {**FLOOR, "scales": (1.0, 1.0, scale)}))
    if (scale, length) not in ((0.3, 224), (0.6, 30), (0.6, 31), (0.6, 224)):  # PyTorch multiplies by 1 / scale
        np.testing.assert_array_equal(found, by_torch(x, scale, "nearest"))


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.7, 0.9, 1.3, 1.4, 1.5, 5 / 3, 1.7, 2.0, 3.3])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("corners", [False, True], ids=["half pixel", "align corners"])
def test_interpolation_by_scales_has_the_size_and_numbers_that_others_have(
    scale: float, mode: str, corners: bool
) -> None:
    x = np.random.RandomState(1).uniform(-1, 1, (1, 1, 9, 31)).astype(np.float32)
    transformation = "align_corners" if corners else "half_pixel"
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation, "scales": (1.0, 1.0, scale, scale)}
    found = resized(x, attributes)
    np.testing.assert_allclose(found, by_onnxruntime(x, attributes), rtol=1e-4, atol=1e-4)
    theirs = by_torch(x, scale, {"linear": "bilinear", "cubic": "bicubic"}[mode], align_corners=corners)
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("transformation", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
def test_ties_of_nearest_go_where_onnxruntime_has_them(rounding: str, transformation: str) -> None:
    attributes = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": transformation}
    for length, size in ((2, 3), (3, 2), (4, 6), (4, 2), (5, 10), (6, 9), (8, 4), (10, 5), (7, 2), (9, 3)):
        x = np.arange(length, dtype=np.float32).reshape(1, 1, length)
        found = resized(x, {**attributes, "sizes": (1, 1, size)})
        theirs = by_onnxruntime(x, {**attributes, "sizes": (1, 1, size)})
        np.testing.assert_array_equal(found, theirs, err_msg=f"{length} to {size}")


def test_tensorflows_half_pixel_for_nearest() -> None:
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    attributes = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor", "mode": "nearest"}
    found = resized(x, {**attributes, "sizes": (1, 1, 8)})
    np.testing.assert_array_equal(found[0, 0], [0, 0, 1, 2, 2, 3, 4, 4])  # floor((i + 0.5) * 5 / 8)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation_to_the_same_size_is_a_copy_whatever_the_scale(mode: str) -> None:
    x = np.random.RandomState(2).uniform(-1, 1, (1, 1, 5)).astype(np.float32)
    x = x[:, :, None].repeat(5, axis=2) if mode == "cubic" else x
    attributes = {"mode": mode, "scales": (1.0, 1.0, *(1.15,) * (x.ndim - 2))}
    np.testing.assert_array_equal(resized(x, attributes), x)
    np.testing.assert_array_equal(by_onnxruntime(x, attributes), x)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_what_is_not_finite_reaches_only_the_outputs_that_read_it(mode: str, number: float) -> None:
    x = np.random.RandomState(3).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    x[0, 0, 8, 8] = number
    attributes = {"mode": mode, "scales": (1.0, 1.0, 3.0, 3.0)}
    found, theirs = resized(x, attributes), by_onnxruntime(x, attributes)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(theirs))
