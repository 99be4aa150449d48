"""Builds MobileNetV2, the same as torchvision's; arxiv.org/abs/1801.04381."""

from __future__ import annotations

from engine.graph import Graph
from engine.nets.layers import NetBuilder

# Expansion, outputs, blocks, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(classes: int = 1000) -> Graph:
    """Build the net 3x224x224 -> logits."""
    net = NetBuilder("mobilenet_v2", (3, 224, 224))
    x, inputs, index = _conv(net, net.input, "features.0", 3, 32, 3, stride=2), 32, 1
    for expansion, outputs, blocks, first_stride in _STAGES:
        for block in range(blocks):
            stride = 1 if block else first_stride
            y = _inverted_residual(net, x, f"features.{index}.conv", inputs, outputs, expansion, stride)
            x = net.add(x, y) if stride == 1 and inputs == outputs else y
            inputs, index = outputs, index + 1
    x = _conv(net, x, f"features.{index}", inputs, 1280, 1)
    x = net.dropout(net.flatten(net.global_average_pool(x)), 0.2)
    return net.graph(net.linear(x, "classifier.1", 1280, classes), (classes,))


def _inverted_residual(net: NetBuilder, x: str, at: str, inputs: int, outputs: int, expansion: int, stride: int) -> str:
    """Add a 1x1 expansion, a depthwise 3x3, and a 1x1 projection without an activation."""
    hidden, place = inputs * expansion, 0
    if expansion != 1:
        x, place = _conv(net, x, f"{at}.0", inputs, hidden, 1), 1
    x = _conv(net, x, f"{at}.{place}", hidden, hidden, 3, stride=stride, groups=hidden)
    x = net.conv(x, f"{at}.{place + 1}", hidden, outputs, 1, bias=False)
    return net.batch_norm(x, f"{at}.{place + 2}", outputs)


def _conv(
    net: NetBuilder, x: str, at: str, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> str:
    x = net.conv(x, f"{at}.0", inputs, outputs, kernel, stride=stride, pad=kernel // 2, groups=groups, bias=False)
    return net.relu6(net.batch_norm(x, f"{at}.1", outputs))
