"""Plans for images of bytes give what plans for normalised images give, frame and all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine import nets
from engine.compiler.kernel_selection import KernelSelector
from engine.graph import Array, Graph, ModelError, Node, Value
from engine.kernels.step import Layout
from engine.model import Model, with_card
from engine.model_card import ModelCard
from tests.engine import net_cases
from tests.engine.nets.test_nets import model

UNEVEN = {"mean": (0.485, 0.1, 0.9), "std": (0.229, 0.5, 0.31)}


def normalised(pixels: Array, card: ModelCard) -> Array:
    numbers = (pixels / 255 - np.array(card.mean)) / np.array(card.std)
    return np.ascontiguousarray(numbers.transpose(0, 3, 1, 2), np.float32)


def images(card: ModelCard, count: int) -> Array:
    channels, height, width = card.input_shape
    return np.random.RandomState(5).randint(0, 256, (count, height, width, channels)).astype(np.uint8)


def check(found: Model, batch: int, layout: Layout | None = None) -> None:
    pixels, shape = images(found.card, batch), (batch, *found.card.input_shape)
    plan = found.plan(shape, input="uint8_nhwc", selector=KernelSelector(layout=layout))
    assert plan.inputs[0].dtype == np.uint8
    expected = np.array(found.plan(shape, selector=KernelSelector(layout=layout)).run(normalised(pixels, found.card)))
    result = np.array(plan.run(pixels))
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    out = np.zeros(result.shape, np.float32)
    plan.bind([pixels], [out])()
    np.testing.assert_array_equal(out, result)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", net_cases.NETS)
def test_nets_take_pixels(name: str, batch: int) -> None:
    found = model(name)
    check(with_card(found, **UNEVEN) if found.card.input_shape[0] == 3 else found, batch)


@pytest.mark.parametrize("layout", [Layout.PLANAR, Layout.LAST])
@pytest.mark.parametrize("group", [1, 3])
def test_the_frame_around_the_pixels_is_nothing_to_the_network(layout: Layout, group: int) -> None:
    state = np.random.RandomState(6)
    weight = state.uniform(-1, 1, (6, 3 // group, 5, 3)).astype(np.float32)
    conv = Node("Conv", ("x", "w"), ("y",), {"pads": (3, 1, 2, 0), "strides": (2, 1), "group": group}, "conv")
    graph = Graph("one", (Value("x", (0, 3, 9, 8)),), (Value("y", ()),), (conv,), initializers={"w": weight})
    check(Model(ModelCard("one", "other", (3, 9, 8), **UNEVEN), graph), 2, layout)  # type: ignore[arg-type]


def test_a_net_that_begins_otherwise_has_its_image_normalised_first() -> None:
    weight = np.random.RandomState(6).uniform(-1, 1, (4, 3, 1, 1)).astype(np.float32)
    nodes = (
        Node("MaxPool", ("x",), ("p",), {"kernel_shape": (2, 2), "strides": (2, 2)}, "pool"),
        Node("Conv", ("x", "w"), ("c",), {"strides": (2, 2)}, "conv"),
        Node("Conv", ("p", "w"), ("d",), {}, "after"),
        Node("Add", ("c", "d"), ("y",), {}, "add"),
    )
    graph = Graph("two", (Value("x", (0, 3, 8, 8)),), (Value("y", ()),), nodes, initializers={"w": weight})
    check(Model(ModelCard("two", "other", (3, 8, 8), **UNEVEN), graph), 2)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "track"])
def test_large_nets_take_pixels(name: str) -> None:
    torch = pytest.importorskip("torch")
    from tests.engine import torch_nets

    if name == "track":
        graph = nets.build(name).bind(net_cases.weights(name))
    else:
        state = torch_nets.seeded(torch_nets.NETS[name]()).state_dict()
        graph = nets.fit(name, {key: tensor.numpy() for key, tensor in state.items()})[0]
    assert torch
    check(Model(replace(nets.default_card(name), **UNEVEN), graph), 1)


def test_what_takes_no_images_or_another_input_is_refused() -> None:
    weight = {"w": np.ones((3, 2), np.float32)}
    graph = Graph(
        "gemm", (Value("x", (0, 3)),), (Value("y", (0, 2)),), (Node("Gemm", ("x", "w"), ("y",)),), initializers=weight
    )
    with pytest.raises(ModelError, match=r"net 'gemm' takes \(3,\), no image"):
        Model(ModelCard("gemm", "other", (3,), colour=""), graph).plan(input="uint8_nhwc")
    with pytest.raises(ValueError, match="input='uint8' is not one of float32, uint8_nhwc"):
        model("mnist").plan(input="uint8")
    plan = model("mnist").plan(input="uint8_nhwc")
    with pytest.raises(ValueError, match=r"input 0: expected uint8 of shape \(1, 28, 28, 1\), found float32"):
        plan.run(np.zeros((1, 28, 28, 1), np.float32))
