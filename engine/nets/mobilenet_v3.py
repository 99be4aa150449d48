"""Builds MobileNetV3 small and large: in 2-D the same as torchvision's, in 1-D after S1; arxiv.org/abs/1905.02244.

S1's nets differ in more than the axes: every convolution has a bias, every block expands, squeeze-and-excitation does
not squeeze, the last convolution of a block has an activation, and layers of length 1 have no batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from engine.graph import Graph
from engine.nets.layers import NetBuilder


class Row(NamedTuple):
    """Describes one block; `excites`: it has squeeze-and-excitation."""

    inputs: int
    kernel: int
    expanded: int
    outputs: int
    excites: bool
    activation: str
    stride: int


SMALL = (
    Row(16, 3, 16, 16, True, "relu", 2),
    Row(16, 3, 72, 24, False, "relu", 2),
    Row(24, 3, 88, 24, False, "relu", 1),
    Row(24, 5, 96, 40, True, "hard_swish", 2),
    Row(40, 5, 240, 40, True, "hard_swish", 1),
    Row(40, 5, 240, 40, True, "hard_swish", 1),
    Row(40, 5, 120, 48, True, "hard_swish", 1),
    Row(48, 5, 144, 48, True, "hard_swish", 1),
    Row(48, 5, 288, 96, True, "hard_swish", 2),
    Row(96, 5, 576, 96, True, "hard_swish", 1),
    Row(96, 5, 576, 96, True, "hard_swish", 1),
)
LARGE = (
    Row(16, 3, 16, 16, False, "relu", 1),
    Row(16, 3, 64, 24, False, "relu", 2),
    Row(24, 3, 72, 24, False, "relu", 1),
    Row(24, 5, 72, 40, True, "relu", 2),
    Row(40, 5, 120, 40, True, "relu", 1),
    Row(40, 5, 120, 40, True, "relu", 1),
    Row(40, 3, 240, 80, False, "hard_swish", 2),
    Row(80, 3, 200, 80, False, "hard_swish", 1),
    Row(80, 3, 184, 80, False, "hard_swish", 1),
    Row(80, 3, 184, 80, False, "hard_swish", 1),
    Row(80, 3, 480, 112, True, "hard_swish", 1),
    Row(112, 3, 672, 112, True, "hard_swish", 1),
    Row(112, 5, 672, 160, True, "hard_swish", 2),
    Row(160, 5, 960, 160, True, "hard_swish", 1),
    Row(160, 5, 960, 160, True, "hard_swish", 1),
)
# As published: the small net's fourth block has no excitation, the large one's last two blocks have stride 2.
SMALL_1D = (*SMALL[:3], SMALL[3]._replace(excites=False), *SMALL[4:])
LARGE_1D = (*LARGE[:13], LARGE[13]._replace(stride=2), LARGE[14]._replace(stride=2))
# The published files' spelling of module names -> the engine's.
NAMES_1D = {"fearures": "features", "bath": "norm", "attenton": "attention"}


def mobilenet_v3(name: str, rows: Sequence[Row], hidden: int, classes: int = 1000) -> Graph:
    """Build the net 3x224x224 -> logits; `hidden`: features before the last layer."""
    net = NetBuilder(name, (3, 224, 224))
    x = _conv(net, net.input, "features.0", 3, 16, 3, "hard_swish", stride=2)
    for index, row in enumerate(rows, start=1):
        y = _block(net, x, f"features.{index}.block", row)
        x = net.add(x, y) if row.stride == 1 and row.inputs == row.outputs else y
    outputs, last = rows[-1].outputs, 6 * rows[-1].outputs
    x = _conv(net, x, f"features.{len(rows) + 1}", outputs, last, 1, "hard_swish")
    x = net.hard_swish(net.linear(net.flatten(net.global_average_pool(x)), "classifier.0", last, hidden))
    return net.graph(net.linear(net.dropout(x, 0.2), "classifier.3", hidden, classes), (classes,))


mobilenet_v3_small = partial(mobilenet_v3, "mobilenet_v3_small", SMALL, 1024)
mobilenet_v3_large = partial(mobilenet_v3, "mobilenet_v3_large", LARGE, 1280)


def _block(net: NetBuilder, x: str, at: str, row: Row) -> str:
    inputs, kernel, expanded, outputs, excites, activation, stride = row
    place = 0
    if expanded != inputs:
        x, place = _conv(net, x, f"{at}.0", inputs, expanded, 1, activation), 1
    x = _conv(net, x, f"{at}.{place}", expanded, expanded, kernel, activation, stride=stride, groups=expanded)
    if excites:
        place += 1
        squeezed = _divisible(expanded // 4)
        y = net.relu(net.conv(net.global_average_pool(x), f"{at}.{place}.fc1", expanded, squeezed, 1))
        x = net.multiply(x, net.hard_sigmoid(net.conv(y, f"{at}.{place}.fc2", squeezed, expanded, 1)))
    return _conv(net, x, f"{at}.{place + 1}", expanded, outputs, 1)


def _divisible(channels: int, by: int = 8) -> int:
    """Return the nearest multiple, but never less than 0.9 of the channels."""
    found = max(by, (channels + by // 2) // by * by)
    return found + by if found < 0.9 * channels else found


def _conv(
    net: NetBuilder,
    x: str,
    at: str,
    inputs: int,
    outputs: int,
    kernel: int,
    activation: str = "",
    *,
    stride: int = 1,
    groups: int = 1,
) -> str:
    x = net.conv(x, f"{at}.0", inputs, outputs, kernel, stride=stride, pad=kernel // 2, groups=groups, bias=False)
    return _activate(net, net.batch_norm(x, f"{at}.1", outputs, eps=1e-3), activation)


def _activate(net: NetBuilder, x: str, activation: str) -> str:
    functions = {"relu": net.relu, "relu6": net.relu6, "hard_swish": net.hard_swish}
    return functions[activation](x) if activation else x


def mobilenet_v3_1d(
    name: str, rows: Sequence[Row], hidden: int, classes: int = 2, channels: int = 3, length: int = 224
) -> Graph:
    """Build the net channels x length -> logits; "relu" in the rows means ReLU6."""
    net = _Net1d(name, channels, length)
    x = net.conv(net.builder.input, "features.0", channels, 16, 3, "hard_swish", stride=2)
    for index, row in enumerate(rows, start=1):
        y = net.block(x, f"features.{index}", row)
        x = net.builder.add(x, y) if row.stride == 1 and row.inputs == row.outputs else y
    outputs, last = rows[-1].outputs, 6 * rows[-1].outputs
    x = net.conv(x, f"features.{len(rows) + 1}", outputs, last, 1, "hard_swish")
    x, net.length = net.builder.global_average_pool(x), 1
    x = net.conv(x, "classifier.0", last, hidden, 1, "hard_swish")
    x = net.conv(x, "classifier.1", hidden, classes, 1, "hard_swish")
    return net.builder.graph(net.builder.flatten(x), (classes,))


mobilenet_v3_1d_small = partial(mobilenet_v3_1d, "mobilenet_v3_1d_small", SMALL_1D, 1024)
mobilenet_v3_1d_large = partial(mobilenet_v3_1d, "mobilenet_v3_1d_large", LARGE_1D, 1280)


class _Net1d:
    """Builds a 1-D net and tracks the length of its values."""

    def __init__(self, name: str, channels: int, length: int) -> None:
        self.builder = NetBuilder(name, (channels, length))
        self.length = length

    def conv(
        self,
        x: str,
        at: str,
        inputs: int,
        outputs: int,
        kernel: int,
        activation: str,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> str:
        net, pad = self.builder, kernel // 2
        x = net.conv(x, f"{at}.conv", inputs, outputs, kernel, stride=stride, pad=pad, groups=groups)
        self.length = (self.length + 2 * pad - kernel) // stride + 1
        if self.length == 1:
            net.batch_norm_parameters(f"{at}.norm", outputs)
        else:
            x = net.batch_norm(x, f"{at}.norm", outputs)
        return _activate(net, x, activation.replace("relu", "relu6"))

    def block(self, x: str, at: str, row: Row) -> str:
        inputs, kernel, expanded, outputs, excites, activation, stride = row
        net = self.builder
        x = self.conv(x, f"{at}.conv", inputs, expanded, 1, activation)
        x = self.conv(x, f"{at}.conv1", expanded, expanded, kernel, activation, stride=stride, groups=expanded)
        if excites:
            y = net.flatten(net.global_average_pool(x))
            y = net.relu(net.linear(y, f"{at}.attention.linear1", expanded, expanded))
            y = net.hard_sigmoid(net.linear(y, f"{at}.attention.linear2", expanded, expanded))
            x = net.multiply(x, net.unsqueeze(y))
        return self.conv(x, f"{at}.conv2", expanded, outputs, 1, activation)
