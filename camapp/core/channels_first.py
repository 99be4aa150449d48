"""Turns nets that take images with the channels last, as TensorFlow exports them, into nets with the channels first."""

from __future__ import annotations

from dataclasses import replace

from engine.graph import Node, Value
from engine.model import Model, ModelCard
from engine.model_card import COLOURS

_DEFAULT_SIDE = 224
_NAME = "image/channels_first"


def channels_first(model: Model) -> Model:
    """Return a net of images (N, H, W, C) as one of (N, C, H, W), with its card; any other net as it is."""
    graph, card = model.graph, model.card
    image = graph.inputs[0] if graph.inputs else None
    if card.colour or image is None or len(image.shape) != 4:
        return model
    batch, height, width, channels = image.shape
    colour = {count: name for name, count in COLOURS.items() if name != "BGR"}.get(channels)
    if colour is None or image.shape[1] in COLOURS.values():
        return model
    # The planner joins it with the transposition to (N, C, H, W) with which such a graph usually begins.
    turn = Node("Transpose", (_NAME,), (image.name,), {"perm": (0, 2, 3, 1)}, _NAME)
    inputs = (Value(_NAME, (batch, channels, height, width), image.dtype), *graph.inputs[1:])
    shape = (channels, height or _DEFAULT_SIDE, width or _DEFAULT_SIDE)
    found = ModelCard(card.net, input_shape=shape, colour=colour, labels=card.labels, metadata=card.metadata)
    return Model(found, replace(graph, inputs=inputs, nodes=(turn, *graph.nodes)))
