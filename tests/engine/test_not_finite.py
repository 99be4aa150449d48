"""NaN and infinity pass every kernel as IEEE defines, and have no effect on the next run.

Winograd is an exception, as everywhere: it sums up whole tiles, so that around a number that is not finite a few more
outputs are NaN than must be; none that should be NaN or infinite ever becomes a number. So do band matrices, along a
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import KernelSelector, Offered
from engine.compiler.planner import choose_steps, make_plan
from engine.graph import Array, Graph, Node, Value
from engine.kernels.step import Layout, Operand, Step
from engine.model import Model
from engine.nets.layers import NetBuilder
from engine.reference import run_graph, run_node
from tests.engine import net_cases
from tests.engine.kernels.test_conv import KERNEL_NAMES, SHAPES, net, offer_everywhere
from tests.engine.nets.test_nets import model
from tests.engine.operator_cases import CASES, Case

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

STRANGE = (np.nan, np.inf, -np.inf)
TILES = {"winograd5": 7, "winograd6": 8}  # inputs that one of Winograd's tiles spans
TILE = 6  # likewise, of the other kernels


def spoilt(array: Array, number: float, seed: int = 0) -> Array:
    found = array.copy()
    if found.size:
        found.flat[np.random.RandomState(seed).randint(found.size)] = number
    return found


def assert_same(found: Array, expected: Array) -> None:
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [Layout.PLANAR, Layout.LAST], ids=["planar", "last"])
@pytest.mark.parametrize("number", STRANGE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_pass_them_on_and_forget_them(case: Case, number: float, layout: Layout) -> None:
    inputs, node = case.inputs(), case.node()
    strange = spoilt(inputs[0], number)
    initializers = dict(zip(node.inputs[1:], inputs[1:], strict=True))
    graph = Graph("g", (Value("in0", strange.shape),), (Value("out", ()),), (node,), initializers=initializers)
    plan = make_plan(graph, [strange.shape], KernelSelector(layout=layout))
    before = np.array(plan.run(inputs[0]))
    found, expected = np.array(plan.run(strange)), run_node(node, strange, *inputs[1:])
    assert_same(found, expected)
    np.testing.assert_array_equal(plan.run(inputs[0]), before)


def pinned(graph: Graph, kernel: str) -> KernelSelector | None:
    """Choices in which that kernel runs the graph's Conv; None if it does not suit it."""
    shapes = [value.shape for value in graph.inputs]
    for layout in (Layout.LAST, Layout.PLANAR):
        selector = KernelSelector(pins={"conv": kernel}, layout=layout)
        if kernel in [each.kernel for each in choose_steps(graph, shapes, selector)]:
            return selector
    return None


@cache
def strange_conv(index: int) -> tuple[Graph, Array, Array]:
    """A graph with one Conv, an input with one strange number (each shape has one of them), and what it gives."""
    x, weight, strides, pads, group = SHAPES[index]
    graph = net(x, weight, strides, pads, group, residual=0, wraps=False)
    clean = np.random.RandomState(1).uniform(-1, 1, x).astype(np.float32)
    strange = spoilt(clean, STRANGE[index % len(STRANGE)], 2)
    (expected,) = run_graph(graph, strange)
    return graph, strange, expected


@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_kernels_of_conv_keep_them_where_they_belong(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_everywhere(kernel, monkeypatch)
    taken = 0
    for index in range(len(SHAPES)):
        graph, strange, expected = strange_conv(index)
        selector = pinned(graph, kernel)
        if selector is None:
            continue
        taken += 1
        found = np.array(make_plan(graph, [strange.shape], selector).run(strange))
        if kernel.startswith("winograd"):
            near = np.zeros(found.shape, bool)
            _, _, row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(strange)))
            reach = TILES.get(kernel, TILE)
            near[:, :, max(0, row - reach) : row + reach, max(0, column - reach) : column + reach] = True
            assert not np.isfinite(found[~np.isfinite(expected)]).any()
            assert np.isfinite(found[~near]).all()
            np.testing.assert_allclose(found[~near], expected[~near], rtol=0, atol=1e-4)
        else:
            assert_same(found, expected)
    assert taken >= 2


@dataclass(frozen=True)
class Fused(KernelSelector):
    """All that can be one node is one, and its kernel is the wanted one."""

    wanted: str = ""

    def _prefer(self, node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> str:
        return self.wanted if self.wanted in offers else next(iter(offers))

    def prefers_fused(self, fused: Offered, separate: Sequence[Offered]) -> bool:
        return True


def pooled(channels: int, kernel: int, activation: str, outputs: int = 16) -> Graph:
    """Some layers before, so that biases are deferred; then a Conv and its pool."""
    net = NetBuilder("pooled", (channels, 12, 12))
    x = net.conv(net.input, "first", channels, channels, 1)
    x = net.conv(x, "conv", channels, outputs, kernel, pad=kernel // 2)
    x = net.max_pool(getattr(net, activation)(x) if activation else x, 2)
    return seeded(net.graph(net.conv(x, "last", outputs, 4, 1), (4, 1, 1)))


def paired(activation: str) -> Graph:
    net = NetBuilder("paired", (3, 12, 12))
    x = getattr(net, activation)(net.conv(net.input, "first", 3, 8, 1))
    x = getattr(net, activation)(net.conv(x, "second", 8, 8, 3, pad=1, groups=8))
    return seeded(net.graph(x, (8, 12, 12)))


def block(activation: str) -> Graph:
    net = NetBuilder("block", (8, 12, 12))
    x = getattr(net, activation)(net.conv(net.input, "expand", 8, 16, 1))
    x = getattr(net, activation)(net.conv(x, "depthwise", 16, 16, 3, pad=1, groups=16))
    return seeded(net.graph(net.add(net.input, net.conv(x, "project", 16, 8, 1)), (8, 12, 12)))


def late(activation: str, dilation: int = 2) -> Graph:
    net = NetBuilder("late", (16, 12, 12))
    x = net.relu(net.conv(net.input, "first", 16, 16, 1))
    x = net.add(x, getattr(net, activation)(net.conv(x, "conv", 16, 16, 3, pad=dilation, dilation=dilation)))
    return seeded(net.graph(net.conv(x, "last", 16, 4, 1), (4, 12, 12)))


def fire() -> Graph:
    net = NetBuilder("fire", (16, 12, 12))
    parts = [net.relu(net.conv(net.input, f"{size}x{size}", 16, 16, size, pad=size // 2)) for size in (1, 3)]
    return seeded(net.graph(net.concat(*parts), (32, 12, 12)))


def seeded(graph: Graph) -> Graph:
    state = np.random.RandomState(9)
    return graph.bind({name: state.uniform(-1, 1, shape) for name, shape in graph.parameters.items()})


# graph, its layout, the kernel that it is about, and how far what is not finite may spread: rows, columns, in pixels
FUSED_NETS = {
    "planes": (pooled(3, 5, "relu", 10), Layout.PLANAR, "planes", 6, 6),
    "planes, no activation": (pooled(3, 3, "", 10), Layout.PLANAR, "planes", 6, 6),
    "parities": (pooled(3, 5, "relu"), Layout.LAST, "parities", 6, 6),
    "parities, no activation": (pooled(3, 3, ""), Layout.PLANAR, "parities", 6, 6),
    "bands": (pooled(6, 5, "relu6"), Layout.LAST, "bands", 6, 16),
    "winograd with pool": (pooled(16, 3, "relu"), Layout.LAST, "winograd_rows_pool", 8, 6),
    "winograd with pool, no activation": (pooled(16, 3, ""), Layout.LAST, "winograd_rows_pool", 8, 6),
    "pair": (paired("relu"), Layout.LAST, "tiled", 12, 2),
    "pair with swish": (paired("hard_swish"), Layout.LAST, "tiled", 12, 2),
    "block": (block("relu6"), Layout.LAST, "tiled", 12, 2),
    "fire": (fire(), Layout.LAST, "winograd4_beside", 6, 6),
    "late residual": (late("relu"), Layout.LAST, "rows_whole", 4, 4),
    "late residual, winograd down the rows": (late("relu", dilation=1), Layout.LAST, "winograd_rows", 8, 2),
    "late residual, winograd": (late("relu6"), Layout.LAST, "winograd4", 12, 12),
    "late residual, winograd, deferred": (late("relu"), Layout.LAST, "winograd2", 8, 8),
}


@pytest.mark.parametrize("number", STRANGE)
@pytest.mark.parametrize("name", FUSED_NETS)
def test_fused_nodes_keep_them_where_they_belong_and_forget_them(name: str, number: float) -> None:
    graph, layout, kernel, rows, columns = FUSED_NETS[name]
    selector, x = Fused(layout=layout, wanted=kernel), (1, *graph.inputs[0].shape[1:])
    assert kernel in [each.kernel for each in choose_steps(optimise(graph), [x], selector)]
    clean = np.random.RandomState(1).uniform(-1, 1, x).astype(np.float32)
    plan = make_plan(optimise(graph), [x], selector)
    before = np.array(plan.run(clean))
    for row, column in ((0, 0), (6, 7)):
        strange = clean.copy()
        strange[0, 0, row, column] = number
        found, (expected,) = np.array(plan.run(strange)), run_graph(graph, strange)
        near = np.zeros(x[2:], bool)
        near[max(0, row - rows) : row + rows + 1, max(0, column - columns) : column + columns + 1] = True
        half = x[2] // found.shape[2]
        near = near.reshape(found.shape[2], half, found.shape[3], half).any((1, 3))
        assert (~np.isfinite(expected)).any()
        assert not np.isfinite(found[~np.isfinite(expected)]).any()
        np.testing.assert_allclose(found[..., ~near], expected[..., ~near], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(plan.run(clean), before)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", net_cases.NETS)
def test_a_frame_of_nan_makes_nan_and_leaves_no_trace(name: str, batch: int) -> None:
    found: Model = model(name)
    images = net_cases.images(name, batch)
    plan = found.plan(images.shape)
    before = np.array(plan.run(images))
    for number in STRANGE:
        strange = images.copy()
        strange[0] = number
        after = np.array(plan.run(strange))
        assert np.isnan(after[0]).all() or not np.isfinite(after[0]).all()
        np.testing.assert_array_equal(after[1:], before[1:])  # nor in the other items of the batch
        np.testing.assert_array_equal(plan.run(images), before)
