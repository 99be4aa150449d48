"""Builds the digit nets on grey images: `mnist` (one convolution) and `lenet` (LeNet-5 with ReLU and max-pooling)."""

from __future__ import annotations

from engine.graph import Graph
from engine.nets.layers import NetBuilder


def mnist() -> Graph:
    """Build the net 1x28x28 -> 10 logits; 158,400 multiply-adds."""
    net = NetBuilder("mnist", (1, 28, 28))
    x = net.max_pool(net.relu(net.conv(net.input, "conv1", 1, 10, 5)), 2)
    return net.graph(net.linear(net.flatten(x), "fc", 10 * 12 * 12, 10), (10,))


def lenet() -> Graph:
    """Build the net 1x32x32 -> 10 logits."""
    return lenet5("lenet", 1)


def lenet5(name: str, channels: int) -> Graph:
    """Build two 5x5 convolutions and three linear layers on (channels, 32, 32)."""
    net = NetBuilder(name, (channels, 32, 32))
    x = net.max_pool(net.relu(net.conv(net.input, "conv1", channels, 6, 5)), 2)
    x = net.max_pool(net.relu(net.conv(x, "conv2", 6, 16, 5)), 2)
    x = net.relu(net.linear(net.flatten(x), "fc1", 400, 120))
    x = net.relu(net.linear(x, "fc2", 120, 84))
    return net.graph(net.linear(x, "fc3", 84, 10), (10,))
