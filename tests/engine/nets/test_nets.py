"""The nets with seeded weights: whole plans against PyTorch's stored and live logits, and against the plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import nets
from engine.graph import ModelError
from engine.model import Model, ModelCard
from engine.reference import run_graph
from tests.engine import net_cases

GOLDEN = Path(__file__).parents[1] / "golden" / "nets.npz"


def model(name: str) -> Model:
    graph = net_cases.build(name)
    card = nets.default_card(name) if name in nets.REGISTRY else ModelCard(name, input_shape=graph.inputs[0].shape[1:])
    return Model(card, graph.bind(net_cases.weights(name)))


@pytest.mark.parametrize("name", net_cases.NETS)
def test_logits_are_those_stored_from_torch(name: str) -> None:
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(model(name).run(net_cases.images(name)), golden[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", net_cases.NETS)
def test_logits_are_those_of_live_torch(name: str) -> None:
    pytest.importorskip("torch")
    images = net_cases.images(name, 5)[2:]
    expected = net_cases.run_in_torch(name, net_cases.weights(name), images)
    np.testing.assert_allclose(model(name).run(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mnist", "residual"])
def test_logits_are_those_of_the_plain_loops(name: str) -> None:
    image = net_cases.images(name, 1)
    (expected,) = run_graph(model(name).graph, image)
    np.testing.assert_allclose(model(name).run(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", net_cases.NETS)
def test_a_batch_gives_what_its_items_give_alone(name: str) -> None:
    net, images = model(name), net_cases.images(name, 3)
    alone = np.concatenate([np.asarray(net.run(image[None])) for image in images])
    np.testing.assert_allclose(net.run(images), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", nets.REGISTRY)
def test_default_card_fits_its_net(name: str) -> None:
    graph, card = nets.build(name), nets.default_card(name)
    assert card.net == graph.name == name
    assert graph.inputs[0].shape == (0, *card.input_shape)
    assert not card.labels or graph.outputs[0].shape == (0, len(card.labels))


def test_mnist_has_the_published_size_and_no_relu_at_its_end() -> None:
    graph = nets.build("mnist")
    assert dict(graph.parameters) == {
        "conv1.weight": (10, 1, 5, 5),
        "conv1.bias": (10,),
        "fc.weight": (10, 1440),
        "fc.bias": (10,),
    }
    assert graph.nodes[-1].name == "fc"
    assert (np.asarray(model("mnist").run(net_cases.images("mnist"))) < 0).any()


def test_cifar10_keeps_its_dropouts_for_training() -> None:
    ratios = [node.attributes["ratio"] for node in nets.build("cifar10").nodes if node.op_type == "Dropout"]
    assert ratios == [0.3, 0.3]


def test_unknown_net_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match="unknown net 'vgg'; known are mnist, digits, lenet, cifar_small, cifar10, objects, track"
    ):
        nets.build("vgg")


@pytest.mark.parametrize("name", nets.REGISTRY)
def test_nets_are_recognised_by_their_parameters(name: str) -> None:
    shapes = nets.build(name).parameters
    assert nets.recognise({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}) == name
