"""Builds VGG, the same as torchvision's without batch norm; arxiv.org/abs/1409.1556."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from engine.graph import Graph
from engine.nets.layers import NetBuilder


def vgg(name: str, stages: Sequence[int], classes: int = 1000) -> Graph:
    """Build the net 3x224x224 -> logits; `stages`: number of 3x3 convolutions before each of the five poolings."""
    net = NetBuilder(name, (3, 224, 224))
    x, inputs, index = net.input, 3, 0
    for stage, count in enumerate(stages):
        outputs = min(64 << stage, 512)
        for _ in range(count):
            x = net.relu(net.conv(x, f"features.{index}", inputs, outputs, 3, pad=1))
            inputs, index = outputs, index + 2
        x, index = net.max_pool(x, 2), index + 1
    x = net.dropout(net.relu(net.linear(net.flatten(x), "classifier.0", 512 * 7 * 7, 4096)), 0.5)
    x = net.dropout(net.relu(net.linear(x, "classifier.3", 4096, 4096)), 0.5)
    return net.graph(net.linear(x, "classifier.6", 4096, classes), (classes,))


vgg11 = partial(vgg, "vgg11", (1, 1, 2, 2, 2))
vgg16 = partial(vgg, "vgg16", (2, 2, 3, 3, 3))
