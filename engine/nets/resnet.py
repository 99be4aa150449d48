"""Builds ResNets, the same as torchvision's (v1.5: stride in the 3x3 conv), and for CIFAR; arxiv.org/abs/1512.03385."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from engine.graph import Graph
from engine.nets.layers import NetBuilder

Block = Callable[[NetBuilder, str, str, int, int, int], str]


def resnet(name: str, block: Block, expansion: int, counts: Sequence[int], classes: int = 1000) -> Graph:
    """Build the net 3x224x224 -> logits, of four stages with these counts of blocks.

    `block(net, x, name, inputs, width, stride)` adds a residual branch and returns its output, of `expansion` times the
    width.
    """
    net = NetBuilder(name, (3, 224, 224))
    x = net.relu(_norm_conv(net, net.input, ("conv1", "bn1"), 3, 64, 7, 2))
    x, inputs = _stages(net, net.max_pool(x, 3, stride=2, pad=1), block, expansion, counts, 64)
    return net.graph(net.linear(net.flatten(net.global_average_pool(x)), "fc", inputs, classes), (classes,))


def resnet_cifar(name: str, count: int, classes: int = 10, padded: int = 0) -> Graph:
    """Build 3x32x32 -> logits: three stages of `count` basic blocks, 16, 32 and 64 wide (section 4.2 of the paper).

    Shortcuts between stages are 1x1 convolutions, and parameters are named as in the larger ResNets. If `padded`, they
    are every second pixel, with channels of zeros before and after (option A of the paper).
    """
    net = NetBuilder(name, (3, 32, 32))
    x = net.relu(_norm_conv(net, net.input, ("conv1", "bn1"), 3, 16, 3))
    x, inputs = _stages(net, x, basic, 1, (count,) * 3, 16, padded=bool(padded))
    return net.graph(net.linear(net.flatten(net.global_average_pool(x)), "fc", inputs, classes), (classes,))


def _stages(
    net: NetBuilder, x: str, block: Block, expansion: int, counts: Sequence[int], width: int, *, padded: bool = False
) -> tuple[str, int]:
    """Add the residual stages, each twice as wide and half as large as the one before; return output and channels."""
    inputs = width
    for stage, count in enumerate(counts):
        for index in range(count):
            at, stride = f"layer{stage + 1}.{index}", 2 if stage and not index else 1
            outputs = (width << stage) * expansion
            shortcut = x
            if padded and inputs != outputs:
                shortcut = _padded(net, x, outputs - inputs)
            elif stride > 1 or inputs != outputs:
                names = (f"{at}.downsample.0", f"{at}.downsample.1")
                shortcut = _norm_conv(net, x, names, inputs, outputs, 1, stride)
            x = net.relu(net.add(block(net, x, at, inputs, width << stage, stride), shortcut))
            inputs = outputs
    return x, inputs


def _padded(net: NetBuilder, x: str, added: int) -> str:
    """Return every second pixel, with half of the added channels before the others, and half after them; all 0."""
    x = net.node("Slice", (x,), {"starts": (0, 0), "ends": (1 << 31, 1 << 31), "axes": (2, 3), "steps": (2, 2)})
    return net.node("Pad", (x,), {"pads": (0, added // 2, 0, 0, 0, added - added // 2, 0, 0)})


def basic(net: NetBuilder, x: str, at: str, inputs: int, width: int, stride: int) -> str:
    """Add two 3x3 convolutions."""
    x = net.relu(_norm_conv(net, x, _names(at, 1), inputs, width, 3, stride))
    return _norm_conv(net, x, _names(at, 2), width, width, 3)


def bottleneck(net: NetBuilder, x: str, at: str, inputs: int, width: int, stride: int) -> str:
    """Add a 1x1 reduction to the width, a 3x3, and a 1x1 expansion to four times the width."""
    x = net.relu(_norm_conv(net, x, _names(at, 1), inputs, width, 1))
    x = net.relu(_norm_conv(net, x, _names(at, 2), width, width, 3, stride))
    return _norm_conv(net, x, _names(at, 3), width, 4 * width, 1)


resnet18 = partial(resnet, "resnet18", basic, 1, (2, 2, 2, 2))
resnet34 = partial(resnet, "resnet34", basic, 1, (3, 4, 6, 3))
resnet50 = partial(resnet, "resnet50", bottleneck, 4, (3, 4, 6, 3))
resnet101 = partial(resnet, "resnet101", bottleneck, 4, (3, 4, 23, 3))
resnet20 = partial(resnet_cifar, "resnet20", 3)
resnet32 = partial(resnet_cifar, "resnet32", 5)
resnet44 = partial(resnet_cifar, "resnet44", 7)
resnet56 = partial(resnet_cifar, "resnet56", 9)


def _names(at: str, index: int) -> tuple[str, str]:
    return f"{at}.conv{index}", f"{at}.bn{index}"


def _norm_conv(
    net: NetBuilder, x: str, names: tuple[str, str], inputs: int, outputs: int, kernel: int, stride: int = 1
) -> str:
    x = net.conv(x, names[0], inputs, outputs, kernel, stride=stride, pad=kernel // 2, bias=False)
    return net.batch_norm(x, names[1], outputs)
