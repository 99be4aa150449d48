"""Builds SqueezeNet 1.1, the same as torchvision's; arxiv.org/abs/1602.07360 and the 1.1 note in its repository."""

from __future__ import annotations

from engine.graph import Graph
from engine.nets.layers import NetBuilder

# Index among the features -> channels after the squeeze, and of each expansion; None: a pooling.
_FEATURES = {
    2: None,
    3: (16, 64),
    4: (16, 64),
    5: None,
    6: (32, 128),
    7: (32, 128),
    8: None,
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}


def squeezenet1_1(classes: int = 1000) -> Graph:
    """Build the net 3x224x224 -> logits, each the mean of a map of 13x13."""
    net = NetBuilder("squeezenet1_1", (3, 224, 224))
    x, channels = net.relu(net.conv(net.input, "features.0", 3, 64, 3, stride=2)), 64
    for index, fire in _FEATURES.items():
        if fire is None:
            x = net.max_pool(x, 3, stride=2, ceil=True)
            continue
        squeezed, expanded = fire
        x = net.relu(net.conv(x, f"features.{index}.squeeze", channels, squeezed, 1))
        narrow = net.relu(net.conv(x, f"features.{index}.expand1x1", squeezed, expanded, 1))
        wide = net.relu(net.conv(x, f"features.{index}.expand3x3", squeezed, expanded, 3, pad=1))
        x, channels = net.concat(narrow, wide), 2 * expanded
    x = net.relu(net.conv(net.dropout(x, 0.5), "classifier.1", channels, classes, 1))
    return net.graph(net.flatten(net.global_average_pool(x)), (classes,))
