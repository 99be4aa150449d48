"""Random nets with random plans: values share memory, and none may be overwritten before its last reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import KernelSelector, Offered
from engine.compiler.planner import choose_steps, make_plan
from engine.graph import Array, Graph, Node, Value
from engine.kernels.step import Layout, Operand, Step
from engine.nets.layers import NetBuilder
from engine.reference import run_graph

SEEDS = range(24)
SIDE = 8


@dataclass(frozen=True)
class RandomSelector(KernelSelector):
    """Any kernel that offers itself, any nodes together."""

    state: np.random.RandomState = field(default_factory=np.random.RandomState)
    picked: dict[str, str] = field(default_factory=dict)

    def _prefer(self, node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> str:
        names = sorted(offers)
        return self.picked.setdefault(node.outputs[0], names[self.state.randint(len(names))])

    def prefers_fused(self, fused: Offered, separate: Sequence[Offered]) -> bool:
        return bool(self.state.randint(3))


class Grower:
    """A net that grows by one random node after another, each of which reads any values that fit."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)
        self.net = NetBuilder("random", (3, SIDE, SIDE))
        self.values: list[tuple[str, int, int]] = [(self.net.input, 3, SIDE)]  # name, channels, side

    def any_of(self, *options: object) -> object:
        return options[self.state.randint(len(options))]

    def grow(self) -> None:
        name, channels, side = self.values[self.state.randint(max(0, len(self.values) - 4), len(self.values))]
        alike = [each for each, more, size in self.values if size == side and (more == channels)]
        kind = self.any_of("conv", "conv", "conv", "depthwise", "pool", "add", "concat", "slice", "conv pool", "fire")
        if kind in ("conv", "depthwise", "conv pool"):
            self.conv(name, channels, side, str(kind))
        elif kind == "pool" and side > 3:
            size = int(self.state.randint(2, 4))
            pooled = self.net.max_pool(name, size, stride=2, pad=size // 3)
            self.values.append((pooled, channels, (side + 2 * (size // 3) - size) // 2 + 1))
        elif kind == "add":
            other = alike[self.state.randint(len(alike))]
            self.values.append((self.net.add(name, other), channels, side))
        elif kind == "concat" and channels < 12:
            fitting = [(each, more) for each, more, size in self.values if size == side and more < 12]
            other, more = fitting[self.state.randint(len(fitting))]
            self.values.append((self.net.concat(name, other), channels + more, side))
        elif kind == "fire" and channels < 12:
            self.fire(name, channels, side)
        elif kind == "slice" and channels > 2:
            cut = int(self.state.randint(1, channels))
            ends = ((0, cut), (cut, channels))
            for start, end in ends if self.state.randint(2) else ends[:1]:  # both: what a Split becomes
                part = self.net.node("Slice", (name,), {"starts": (start,), "ends": (end,), "axes": (1,)})
                self.values.append((part, end - start, side))

    def fire(self, x: str, channels: int, side: int) -> None:
        activation, name = self.any_of("", "relu", "relu6"), f"fire{len(self.values)}"
        parts = [self.net.conv(x, f"{name}.{size}", channels, 3, size, pad=size // 2) for size in (1, 3)]
        parts = [getattr(self.net, str(activation))(part) for part in parts] if activation else parts
        self.values.append((self.net.concat(*parts), 6, side))

    def conv(self, x: str, channels: int, side: int, kind: str) -> None:
        kernel, dilation = self.any_of((1, 1), (3, 1), (3, 1), (3, 2))  # type: ignore[misc]
        stride = 1 if kind == "conv pool" or side < 5 else int(self.state.randint(1, 3))
        outputs = channels if kind == "depthwise" else int(self.any_of(3, 4, 5, channels))  # type: ignore[call-overload]
        if kind == "depthwise":
            kernel, dilation = 3, 1
        group = channels if kind == "depthwise" else 1
        pad = dilation * (kernel // 2)
        name = f"conv{len(self.values)}"
        y = self.net.conv(
            x, name, channels, outputs, kernel, stride=stride, pad=pad, dilation=dilation, groups=group, bias=True
        )
        activation = self.any_of("", "relu", "relu", "relu6", "hard_swish")
        y = getattr(self.net, str(activation))(y) if activation else y
        side = (side - 1) // stride + 1
        if kind == "conv pool" and side > 1:
            y, side = self.net.max_pool(y, 2), side // 2
        self.values.append((y, outputs, side))


def grown(seed: int) -> Graph:
    """A graph of about a dozen nodes, of which the last value and one other are outputs."""
    grower = Grower(seed)
    while len(grower.values) < 12:
        grower.grow()
    one = grower.values[grower.state.randint(5, 11)][0]
    graph = grower.net.graph(grower.values[-1][0], (1,))
    outputs = tuple(Value(name, ()) for name in dict.fromkeys((grower.values[-1][0], one)))
    arrays = {key: grower.state.uniform(-0.6, 0.6, shape) for key, shape in graph.parameters.items()}
    return replace(graph, outputs=outputs).bind(arrays)


def layout_of(seed: int) -> Layout:
    return Layout.LAST if seed % 3 else Layout.PLANAR


def assert_right(found: object, expected: Sequence[Array], count: int) -> None:
    arrays = found if isinstance(found, tuple) else (found,)
    assert len(arrays) == len(expected)
    for array, wanted in zip(arrays, expected, strict=True):
        assert array.shape == wanted[:count].shape
        assert np.abs(array - wanted[:count]).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_of_a_random_net_agrees_with_plain_loops_in_every_run(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("conv_last", "winograd"):
        monkeypatch.setattr(f"engine.kernels.{module}.SLAB_BYTES", 1500)
    for module in ("winograd", "winograd_rows"):
        monkeypatch.setattr(f"engine.kernels.{module}.MIN_CHANNELS", 3)
    graph, state = grown(seed), np.random.RandomState(seed)
    batches = [state.uniform(-1, 1, (3, 3, SIDE, SIDE)).astype(np.float32) for _ in range(2)]
    expected = [run_graph(graph, batch) for batch in batches]
    layout = layout_of(seed)
    for count in (1, 3):
        plan = make_plan(optimise(graph), [(count, 3, SIDE, SIDE)], RandomSelector(layout=layout, state=state))
        plan.run(np.full((count, 3, SIDE, SIDE), np.nan, np.float32))  # what an earlier frame left must not matter
        for turn in (0, 1, 0):
            assert_right(plan.run(batches[turn][:count]), expected[turn], count)


def test_random_nets_try_most_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("winograd", "winograd_rows"):
        monkeypatch.setattr(f"engine.kernels.{module}.MIN_CHANNELS", 3)
    kernels = set()
    for seed in SEEDS:
        selector = RandomSelector(layout=layout_of(seed), state=np.random.RandomState(seed))
        steps = choose_steps(optimise(grown(seed)), [(1, 3, SIDE, SIDE)], selector)
        kernels |= {each.kernel for each in steps}
    wanted = {"winograd2", "winograd4", "rows_whole", "rows_from_planes", "im2col", "pointwise", "planes", "bands"}
    wanted |= {"concat", "slice_", "max_pool", "add", "winograd_rows", "winograd_rows_pool"}
    wanted |= {"winograd4_beside"}
    assert sorted(wanted - kernels) == []
