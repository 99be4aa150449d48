"""Builds nets of the kinds that public detectors have, for benchmarks and tests; with random weights.

They have the layers and sizes of the published nets: depthwise convolutions, SiLU and leaky ReLU, channel shuffles,
slices and concatenations, and several heads that become one output (N, boxes, numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engine.graph import Array, Graph
from engine.model_card import ModelCard
from engine.nets.layers import NetBuilder

_CLASSES = 80


class DetectorBuilder(NetBuilder):
    """Adds the layers of detectors, and knows each value's channels and side.

    `act` names the activation of `unit`: an operator, or 'Silu' for x * sigmoid(x).
    """

    def __init__(self, name: str, side: int, act: str) -> None:
        super().__init__(name, (3, side, side))
        self.act = act
        self.shapes: dict[str, tuple[int, int]] = {self.input: (3, side)}
        self._count = 0

    def keep(self, x: str, channels: int, side: int) -> str:
        """Note the channels and the side of a value."""
        self.shapes[x] = channels, side
        return x

    def activate(self, x: str, act: str) -> str:
        """Add an activation; '' adds none."""
        if not act:
            return x
        attributes = {"alpha": 0.1} if act == "LeakyRelu" else {}
        return self.keep(self.silu(x) if act == "Silu" else self.node(act, (x,), attributes), *self.shapes[x])

    def unit(
        self, x: str, outputs: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False, act: str | None = None
    ) -> str:
        """Add a convolution, its batch norm and an activation."""
        self._count += 1
        (inputs, side), name = self.shapes[x], f"conv{self._count}"
        groups = inputs if depthwise else 1
        y = self.conv(
            x, name, inputs, outputs, kernel, stride=stride, pad=kernel // 2, groups=groups, bias=False
        )  # fmt: skip
        y = self.keep(self.batch_norm(y, f"{name}.bn", outputs), outputs, (side - 1) // stride + 1)
        return self.activate(y, self.act if act is None else act)

    def separable(self, x: str, outputs: int, kernel: int = 3, stride: int = 1) -> str:
        """Add a depthwise unit and a pointwise one."""
        return self.unit(self.unit(x, self.shapes[x][0], kernel, stride, depthwise=True), outputs)

    def head(self, x: str, outputs: int, act: str = "") -> str:
        """Add a pointwise convolution with a bias."""
        self._count += 1
        inputs, side = self.shapes[x]
        y = self.keep(self.conv(x, f"head{self._count}", inputs, outputs, 1), outputs, side)
        y = self.node(act, (y,)) if act else y
        return self.keep(y, outputs, side)

    def join(self, *parts: str) -> str:
        """Add a concatenation along the channels."""
        return self.keep(self.concat(*parts), sum(self.shapes[x][0] for x in parts), self.shapes[parts[0]][1])

    def split(self, x: str, sizes: Sequence[int]) -> list[str]:
        """Add slices along the channels."""
        found, start, side = [], 0, self.shapes[x][1]
        for size in sizes:
            attributes = {"starts": (start,), "ends": (start + size,), "axes": (1,)}
            found.append(self.keep(self.node("Slice", (x,), attributes), size, side))
            start += size
        return found

    def plus(self, a: str, b: str) -> str:
        """Add a sum."""
        return self.keep(self.add(a, b), *self.shapes[a])

    def pool(self, x: str, size: int, stride: int) -> str:
        """Add a max pool with padding that keeps the side, divided by the stride."""
        channels, side = self.shapes[x]
        pad = size // 2 if size % 2 else 0
        return self.keep(self.max_pool(x, size, stride=stride, pad=pad), channels, side // stride)

    def upsample(self, x: str, mode: str = "nearest") -> str:
        """Add a Resize to twice the side."""
        channels, side = self.shapes[x]
        kind = {"nearest_mode": "floor"} if mode == "nearest" else {}
        where = "asymmetric" if mode == "nearest" else "half_pixel"
        attributes = {"mode": mode, "coordinate_transformation_mode": where, "scales": (1.0, 1.0, 2.0, 2.0), **kind}
        return self.keep(self.node("Resize", (x,), attributes), channels, 2 * side)

    def shuffle(self, x: str) -> str:
        """Add a shuffle of the channels in two groups."""
        channels, side = self.shapes[x]
        y = self.node("Reshape", (x,), {"shape": (0, 2, channels // 2, side, side)})
        y = self.node("Transpose", (y,), {"perm": (0, 2, 1, 3, 4)})
        return self.keep(self.node("Reshape", (y,), {"shape": (0, channels, side, side)}), channels, side)

    def boxes(self, parts: Sequence[str]) -> Graph:
        """Return the graph with one output (N, boxes, numbers) of all the levels."""
        numbers = self.shapes[parts[0]][0]
        flattened = [self.node("Reshape", (x,), {"shape": (0, numbers, self.shapes[x][1] ** 2)}) for x in parts]
        joined = self.node("Concat", tuple(flattened), {"axis": 2})
        count = sum(self.shapes[x][1] ** 2 for x in parts)
        return self.graph(self.node("Transpose", (joined,), {"perm": (0, 2, 1)}), (count, numbers))


def _csp(net: DetectorBuilder, x: str, outputs: int, count: int, shortcut: bool = True) -> str:
    """Add YOLOX's CSP layer with depthwise bottlenecks."""
    half = outputs // 2
    y, other = net.unit(x, half), net.unit(x, half)
    for _ in range(count):
        made = net.separable(net.unit(y, half), half)
        y = net.plus(made, y) if shortcut else made
    return net.unit(net.join(y, other), outputs)


def _focus(net: DetectorBuilder) -> str:
    side = net.shapes[net.input][1] // 2
    places = ((0, 0), (1, 0), (0, 1), (1, 1))
    parts = [
        net.node("Slice", (net.input,), {"starts": at, "ends": (2**31, 2**31), "axes": (2, 3), "steps": (2, 2)})
        for at in places
    ]
    return net.join(*(net.keep(part, 3, side) for part in parts))


def yolox_nano(side: int = 416) -> Graph:
    """Build YOLOX-nano: depth 0.33, width 0.25, depthwise."""
    net = DetectorBuilder("yolox_nano", side, "Silu")
    x = net.unit(_focus(net), 16, 3)
    x = _csp(net, net.separable(x, 32, 3, 2), 32, 1)
    small = x = _csp(net, net.separable(x, 64, 3, 2), 64, 3)
    middle = x = _csp(net, net.separable(x, 128, 3, 2), 128, 3)
    x = net.unit(net.separable(x, 256, 3, 2), 128)
    x = net.unit(net.join(x, *(net.pool(x, size, 1) for size in (5, 9, 13))), 256)
    x = _csp(net, x, 256, 1, shortcut=False)
    low = net.unit(x, 128)
    x = _csp(net, net.join(net.upsample(low), middle), 128, 1, shortcut=False)
    reduced = net.unit(x, 64)
    third = _csp(net, net.join(net.upsample(reduced), small), 64, 1, shortcut=False)
    fourth = _csp(net, net.join(net.separable(third, 64, 3, 2), reduced), 128, 1, shortcut=False)
    fifth = _csp(net, net.join(net.separable(fourth, 128, 3, 2), low), 256, 1, shortcut=False)
    parts = []
    for level in (third, fourth, fifth):
        stem = net.unit(level, 64)
        classes = net.separable(net.separable(stem, 64), 64)
        boxes = net.separable(net.separable(stem, 64), 64)
        found = net.head(boxes, 4), net.head(boxes, 1, "Sigmoid"), net.head(classes, _CLASSES, "Sigmoid")
        parts.append(net.join(*found))
    return net.boxes(parts)


def _shuffle_net(net: DetectorBuilder, stages: Sequence[tuple[int, int]]) -> list[str]:
    """Add ShuffleNetV2 and return its stages' outputs."""
    x = net.pool(net.unit(net.input, 24, 3, 2), 3, 2)
    found = []
    for channels, repeats in stages:
        half = channels // 2
        left = net.unit(net.unit(x, net.shapes[x][0], 3, 2, depthwise=True, act=""), half)
        right = net.unit(net.unit(net.unit(x, half), half, 3, 2, depthwise=True, act=""), half)
        x = net.shuffle(net.join(left, right))
        for _ in range(repeats - 1):
            left, right = net.split(x, (half, half))
            right = net.unit(net.unit(net.unit(right, half), half, 3, depthwise=True, act=""), half)
            x = net.shuffle(net.join(left, right))
        found.append(x)
    return found


def nanodet_m(side: int = 320) -> Graph:
    """Build NanoDet-m: ShuffleNetV2 1.0x, a PAN of sums, depthwise heads."""
    net = DetectorBuilder("nanodet_m", side, "LeakyRelu")
    stages = _shuffle_net(net, ((116, 4), (232, 8), (464, 4)))
    first, second, third = (net.unit(x, 96, act="") for x in stages)
    second = net.plus(second, net.upsample(third, "linear"))
    first = net.plus(first, net.upsample(second, "linear"))
    down = [net.keep(net.max_pool(x, 2), 96, net.shapes[x][1] // 2) for x in (first,)]
    second = net.plus(second, down[0])
    third = net.plus(third, net.keep(net.max_pool(second, 2), 96, net.shapes[third][1]))
    heads = []
    for level in (first, second, third):
        x = net.separable(net.separable(level, 96), 96)
        heads.append(net.head(x, _CLASSES + 32))
    return net.boxes(heads)


def yunet(side: int = 320) -> Graph:
    """Build YuNet, a detector of faces: pointwise convolutions without an activation before depthwise ones."""
    net = DetectorBuilder("yunet", side, "Relu")

    def pair(x: str, outputs: int, act: str = "Relu") -> str:
        return net.unit(net.head(x, outputs), outputs, 3, depthwise=True, act=act)

    x = pair(net.unit(net.input, 16, 3, 2), 16)
    x = net.pool(x, 2, 2)
    x = pair(pair(x, 16), 64)
    x = pair(pair(x, 64), 64)
    first = pair(pair(net.pool(x, 2, 2), 64), 64)
    second = pair(pair(net.pool(first, 2, 2), 64), 64)
    third = pair(pair(net.pool(second, 2, 2), 64), 64)
    third = pair(third, 64)
    second = pair(net.plus(second, net.upsample(third)), 64)
    first = pair(net.plus(first, net.upsample(second)), 64)
    levels = []
    for level in (first, second, third):
        x = pair(level, 64)
        scores = [net.keep(net.node("Sigmoid", (pair(x, 1, ""),)), 1, net.shapes[x][1]) for _ in range(2)]
        levels.append(net.join(scores[0], pair(x, 4, ""), scores[1], pair(x, 10, "")))
    return net.boxes(levels)


def fastest_det(side: int = 352) -> Graph:
    """Build a net like FastestDet: ShuffleNetV2 0.5x, and one head with depthwise 5x5 convolutions."""
    net = DetectorBuilder("fastest_det", side, "Relu")
    first, second, third = _shuffle_net(net, ((48, 4), (96, 8), (192, 4)))
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    down = net.keep(net.node("AveragePool", (first,), attributes), 48, net.shapes[second][1])
    x = net.unit(net.join(down, second, net.upsample(third)), 96)
    branches, y = [], x
    for count in (1, 2, 3):
        y = x
        for _ in range(count):
            y = net.unit(y, 96, 5, depthwise=True)
        branches.append(y)
    x = net.unit(net.join(*branches), 96, act="")
    x = net.activate(x, "Relu")

    def head(outputs: int, act: str) -> str:
        y = net.head(net.unit(x, 96, 5, depthwise=True), outputs)
        if act == "Softmax":
            return net.keep(net.node("Softmax", (y,), {"axis": 1}), outputs, net.shapes[y][1])
        return net.keep(net.node(act, (y,)), outputs, net.shapes[y][1])

    return net.boxes([net.join(head(1, "Sigmoid"), head(4, "Tanh"), head(_CLASSES, "Softmax"))])


def yolov8n(side: int = 320) -> Graph:
    """Build YOLOv8n up to the distances of its boxes as distributions."""
    net = DetectorBuilder("yolov8n", side, "Silu")

    def c2f(x: str, outputs: int, count: int, shortcut: bool = True) -> str:
        half = outputs // 2
        parts = net.split(net.unit(x, outputs), (half, half))
        for _ in range(count):
            made = net.unit(net.unit(parts[-1], half, 3), half, 3)
            parts.append(net.plus(parts[-1], made) if shortcut else made)
        return net.unit(net.join(*parts), outputs)

    x = c2f(net.unit(net.unit(net.input, 16, 3, 2), 32, 3, 2), 32, 1)
    small = c2f(net.unit(x, 64, 3, 2), 64, 2)
    middle = c2f(net.unit(small, 128, 3, 2), 128, 2)
    x = net.unit(c2f(net.unit(middle, 256, 3, 2), 256, 1), 128)
    pools = [x]
    for _ in range(3):
        pools.append(net.pool(pools[-1], 5, 1))
    low = net.unit(net.join(*pools), 256)
    second = c2f(net.join(net.upsample(low), middle), 128, 1, shortcut=False)
    third = c2f(net.join(net.upsample(second), small), 64, 1, shortcut=False)
    fourth = c2f(net.join(net.unit(third, 64, 3, 2), second), 128, 1, shortcut=False)
    fifth = c2f(net.join(net.unit(fourth, 128, 3, 2), low), 256, 1, shortcut=False)
    parts = []
    for level in (third, fourth, fifth):
        boxes = net.head(net.unit(net.unit(level, 64, 3), 64, 3), 64)
        parts.append(
            net.join(boxes, net.head(net.unit(net.unit(level, _CLASSES, 3), _CLASSES, 3), _CLASSES, "Sigmoid"))
        )
    return net.boxes(parts)


DETECTORS: Mapping[str, Callable[..., Graph]] = {
    build.__name__: build for build in (yolox_nano, nanodet_m, yunet, fastest_det, yolov8n)
}


def card_of(graph: Graph) -> ModelCard:
    """Return a card for a net that is not in the engine's registry."""
    return ModelCard(net=graph.name, input_shape=graph.inputs[0].shape[1:], colour="")


def with_weights(graph: Graph) -> Graph:
    """Bind seeded weights, scaled so that values keep their magnitude through the net."""
    state = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for key, shape in graph.parameters.items():
        fan_in = float(np.prod(shape[1:])) if len(shape) > 1 else 100.0
        arrays[key] = state.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        if f"{key.rpartition('.')[0]}.running_var" in graph.parameters and key.endswith((".weight", "running_var")):
            arrays[key] = state.uniform(0.5, 1, shape).astype(np.float32)
    return graph.bind(arrays)
