"""Builds the CIFAR-10 nets on 32x32 colour images: `cifar_small` (LeNet-5 in colour) and `cifar10` (three stages)."""

from __future__ import annotations

from engine.graph import Graph
from engine.nets.layers import NetBuilder
from engine.nets.lenet import lenet5


def cifar_small() -> Graph:
    """Build the net 3x32x32 -> 10 logits."""
    return lenet5("cifar_small", 3)


def cifar10(classes: int = 10) -> Graph:
    """Build the net 3x32x32 -> logits; each stage doubles the channels and halves the side."""
    net = NetBuilder("cifar10", (3, 32, 32))
    x = net.input
    for stage, (inputs, outputs) in enumerate([(3, 16), (16, 32), (32, 64)], start=1):
        x = net.max_pool(net.relu(net.conv(x, f"conv{stage}", inputs, outputs, 3, pad=1)), 2)
    x = net.dropout(net.flatten(x), 0.3)
    x = net.dropout(net.relu(net.linear(x, "fc1", 1024, 500)), 0.3)
    return net.graph(net.linear(x, "fc2", 500, classes), (classes,))
