"""Builds the object net on 32x32 colour images: 3x3 convolutions at four sizes, residual if the channels stay."""

from __future__ import annotations

from engine.graph import Graph
from engine.nets.layers import NetBuilder

# By stage: its channels, and the number of residual layers after its first. Between stages the side is halved before
# the channels grow: so a stage's first layer costs a quarter, and the memory-bound large sizes have few channels.
STAGES = ((32, 0), (32, 0), (64, 1), (128, 2), (224, 1))
POOLED = (False, True, True, True, False)  # by stage: a pool follows


def objects(classes: int = 10) -> Graph:
    """Build the net 3x32x32 -> logits; 59.4 million multiply-adds, 1.15 million parameters."""
    net = NetBuilder("objects", (3, 32, 32))
    x, inputs, layer = net.input, 3, 0
    for (channels, residuals), pooled in zip(STAGES, POOLED, strict=True):
        layer += 1
        x = net.conv_norm_relu(x, f"conv{layer}", inputs, channels)
        for _ in range(residuals):
            layer += 1
            x = net.add(x, net.conv_norm_relu(x, f"conv{layer}", channels, channels))
        if pooled:
            x = net.max_pool(x, 2)
        inputs = channels
    return net.graph(net.linear(net.flatten(net.global_average_pool(x)), "fc", inputs, classes), (classes,))
