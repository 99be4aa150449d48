"""Makes plans for uint8 images (N, H, W, C): the card's normalisation becomes part of the first layer.

A network takes (pixel / 255 - mean) / std. A Conv of that is a Conv of the pixels, with weights divided by 255 std and
a bias reduced by the mean's share. Padding is 0 for the network, so the frame of the pixels is filled with 255 mean.
That saves the pass that normalises the image, and the copy from planes to pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import Array, Graph, ModelError, Node
from engine.model_card import ModelCard

INPUTS = ("float32", "uint8_nhwc")


def takes_pixels(graph: Graph, card: ModelCard) -> Graph:
    """Return the graph for pixels 0 to 255 as its first input, in any layout; raises ModelError if that is no image."""
    if not graph.inputs or not card.colour:
        raise ModelError(f"net '{graph.name}' takes {card.input_shape}, no image; only input='float32' will do")
    image = graph.inputs[0].name
    mean, std = np.array(card.mean, np.float64), np.array(card.std, np.float64)
    scale, offset = 1 / (255 * std), -mean / std
    arrays = dict(graph.initializers)
    nodes: list[Node] = []
    plain = f"{image}/normalised"
    others = any(value.name == image for value in graph.outputs)
    for node in graph.nodes:
        if _absorbs(node, image, graph):
            node = _absorb(node, scale, offset, mean, arrays)
        elif image in node.inputs:
            others = True
            node = replace(node, inputs=tuple(plain if name == image else name for name in node.inputs))
        nodes.append(node)
    if others:
        norm = [np.ones(len(mean)), offset, np.zeros(len(mean)), 1 / scale**2]
        names = [f"{plain}/{index}" for index in range(len(norm))]
        arrays |= {name: array.astype(np.float32) for name, array in zip(names, norm, strict=True)}
        nodes.insert(0, Node("BatchNormalization", (image, *names), (plain,), {"epsilon": 0.0}, plain))
        outputs = tuple(replace(value, name=plain) if value.name == image else value for value in graph.outputs)
        graph = replace(graph, outputs=outputs)
    return replace(graph, nodes=tuple(nodes), initializers=arrays)


def _absorbs(node: Node, image: str, graph: Graph) -> bool:
    return (
        node.op_type == "Conv"
        and node.inputs.count(image) == 1
        and node.inputs[0] == image
        and all(name in graph.initializers for name in node.inputs[1:])
        and not {"padding", "residual"} & node.attributes.keys()
    )


def _absorb(node: Node, scale: Array, offset: Array, mean: Array, arrays: dict[str, Array]) -> Node:
    weight = arrays[node.inputs[1]].astype(np.float64)
    outputs, group = len(weight), node.attributes.get("group", 1)
    # The channels that each output reads: those of its group.
    channels = np.arange(weight.shape[1]) + (np.arange(outputs) * group // outputs * weight.shape[1])[:, None]
    taps = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    bias = arrays[node.inputs[2]].astype(np.float64) if len(node.inputs) > 2 else np.zeros(outputs)
    names = (f"{node.outputs[0]}/of pixels/weight", f"{node.outputs[0]}/of pixels/bias")
    by_channel = scale[channels].reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))
    arrays[names[0]] = (weight * by_channel).astype(np.float32)
    arrays[names[1]] = (bias + (taps * offset[channels]).sum(axis=1)).astype(np.float32)
    padding = tuple((255 * mean).astype(np.float32).tolist())
    return replace(node, inputs=(node.inputs[0], *names), attributes={**node.attributes, "padding": padding})
