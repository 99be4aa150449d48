"""A 1x1 and a 3x3 Conv side by side and the Concat that reads them, as one node: against plain loops of the three."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.planner import choose_steps, make_plan
from engine.graph import Graph
from engine.kernels.step import Layout
from engine.kernels.winograd import BESIDE
from engine.nets.layers import NetBuilder
from engine.reference import run_graph

LAST = KernelSelector(layout=Layout.LAST)
CHANNELS = 16


def fires(side: int, activation: str, bias: bool = True, narrow: int = 20) -> Graph:
    """Two fire modules, the first with a squeeze before it, and a convolution that reads the last."""
    net = NetBuilder("fires", (8, side, side))
    x, channels = net.input, 8
    for index in range(2):
        x = net.relu(net.conv(x, f"squeeze{index}", channels, CHANNELS, 1))
        parts = [
            net.conv(x, f"narrow{index}", CHANNELS, narrow, 1, bias=bias),
            net.conv(x, f"wide{index}", CHANNELS, 17, 3, pad=1, bias=bias),
        ]
        x = net.concat(*(getattr(net, activation)(part) for part in parts) if activation else parts)
        channels = narrow + 17
    return seeded(net.graph(net.conv(x, "last", channels, 4, 1), (4, side, side)))


def seeded(graph: Graph) -> Graph:
    state = np.random.RandomState(3)
    return graph.bind({name: state.uniform(-1, 1, shape) for name, shape in graph.parameters.items()})


def kernels(graph: Graph, selector: KernelSelector = LAST) -> list[str]:
    chosen = choose_steps(optimise(graph), [(1, *graph.inputs[0].shape[1:])], selector)
    return [each.kernel for each in chosen if each.node.op_type == BESIDE]


def check(graph: Graph, batch: int = 1) -> None:
    x = np.random.RandomState(4).uniform(-1, 1, (batch, *graph.inputs[0].shape[1:])).astype(np.float32)
    (expected,) = run_graph(graph, x)
    plan = make_plan(optimise(graph), [x.shape], LAST)
    plan.run(np.full_like(x, np.nan))  # what an earlier frame left must not matter
    assert np.abs(np.asarray(plan.run(x)) - expected).max() <= 5e-5 * np.abs(expected).max()


@pytest.mark.parametrize("slab", [3000, 768 << 10])
@pytest.mark.parametrize(("activation", "bias"), [("", True), ("relu", True), ("relu", False), ("relu6", True)])
@pytest.mark.parametrize(
    ("side", "kernel"), [(11, "winograd4_beside"), (12, "winograd4_beside"), (13, "winograd5_beside")]
)
def test_one_node_gives_what_three_do(
    side: int, kernel: str, activation: str, bias: bool, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.kernels.winograd.SLAB_BYTES", slab)
    graph = fires(side, activation, bias)
    assert kernels(graph) == [kernel] * 2
    check(graph, batch=2)


@pytest.mark.parametrize("narrow", [1, 3, 200])
def test_the_narrow_part_may_have_any_width(narrow: int) -> None:
    graph = fires(13, "hard_swish", narrow=narrow)
    assert len(kernels(graph)) == 2
    check(graph)


def read_twice(net: NetBuilder, narrow: str, wide: str) -> str:
    return net.add(net.concat(narrow, wide), net.concat(wide, narrow))


OTHERS: dict[str, Callable[[NetBuilder, str, str], str]] = {
    "read by another": read_twice,
    "ends otherwise": lambda net, narrow, wide: net.concat(net.relu(narrow), wide),
    "three parts": lambda net, narrow, wide: net.concat(narrow, wide, net.input),
    "wide first": lambda net, narrow, wide: net.concat(wide, narrow),
    "along rows": lambda net, narrow, wide: net.node("Concat", (narrow, wide), {"axis": 2}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay_apart(name: str) -> None:
    net = NetBuilder("others", (CHANNELS, 12, 12))
    narrow = net.conv(net.input, "narrow", CHANNELS, CHANNELS, 1)
    wide = net.conv(net.input, "wide", CHANNELS, CHANNELS, 3, pad=1)
    graph = seeded(net.graph(OTHERS[name](net, narrow, wide), (1,)))
    assert not kernels(graph)
    check(graph)


def test_pins_decide() -> None:
    graph = fires(12, "relu")
    assert kernels(graph, KernelSelector({"wide0": "winograd4"}, Layout.LAST)) == ["winograd4_beside"]
    assert kernels(graph, KernelSelector({"wide0": "winograd4_beside"}, Layout.LAST)) == ["winograd4_beside"] * 2
    assert kernels(graph, KernelSelector({"narrow0": "rows_whole"}, Layout.LAST)) == ["winograd4_beside"]
