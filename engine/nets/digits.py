"""Builds the application's default digit net: 3x3 convolutions on 28x28 grey images at three sizes."""

from __future__ import annotations

from engine.graph import Graph
from engine.nets.layers import NetBuilder


def digits() -> Graph:
    """Build the net 1x28x28 -> 10 logits; 4.1 million multiply-adds, 75,000 parameters."""
    net = NetBuilder("digits", (1, 28, 28))
    x = net.max_pool(net.conv_norm_relu(net.input, "conv1", 1, 16), 2)
    x = net.conv_norm_relu(x, "conv2", 16, 32)
    x = net.max_pool(net.add(x, net.conv_norm_relu(x, "conv3", 32, 32)), 2)
    x = net.max_pool(net.conv_norm_relu(x, "conv4", 32, 64), 2)
    x = net.add(x, net.conv_norm_relu(x, "conv5", 64, 64))
    return net.graph(net.linear(net.flatten(x), "fc", 64 * 3 * 3, 10), (10,))
