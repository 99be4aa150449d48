"""A Conv, the depthwise Conv after it and perhaps a third as one node, against the plain loops of each."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import KernelSelector, Offered
from engine.compiler.planner import choose_steps, make_plan
from engine.graph import Array, Graph, Node, Shape, Value
from engine.kernels import products
from engine.kernels.block import BLOCK, PAIR
from engine.kernels.step import Layout
from engine.nets.layers import NetBuilder
from engine.plan import BUFFER
from engine.reference import run_graph


class Together(KernelSelector):
    """Fuses all nodes that a kernel can run as one, at any cost."""

    def prefers_fused(self, fused: Offered, separate: Sequence[Offered]) -> bool:
        return True


CHOICES = Together(layout=Layout.LAST)


def seeded(graph: Graph) -> Graph:
    state = np.random.RandomState(4)
    return graph.bind({name: state.uniform(-0.7, 0.8, shape) for name, shape in graph.parameters.items()})


def images(*shape: int) -> Array:
    return np.random.RandomState(5).uniform(-1, 1, shape).astype(np.float32)


def operators(graph: Graph, x: Array) -> list[str]:
    return [each.node.op_type for each in choose_steps(optimise(graph), [x.shape], CHOICES)]


def check(graph: Graph, x: Array) -> None:
    (expected,) = run_graph(graph, x)
    plan = make_plan(optimise(graph), [x.shape], CHOICES)
    for _ in range(2):  # the second run finds in its scratch what the first left there
        found = np.asarray(plan.run(x))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("activation", ["", "relu", "relu6", "hard_swish", "silu"])
@pytest.mark.parametrize(
    ("first", "kernel", "stride", "size"),
    [
        ((1, 1), 3, 1, 14),
        ((1, 1), 3, 2, 14),
        ((1, 1), 5, 1, 9),
        ((1, 1), 5, 2, 17),
        ((3, 2), 3, 1, 28),
        ((5, 3), 3, 2, 41),
    ],
)
def test_pair_agrees_with_plain_loops(
    activation: str, first: tuple[int, int], kernel: int, stride: int, size: int
) -> None:
    net = NetBuilder("pair", (3, size, size))
    x = net.conv(net.input, "first", 3, 8, first[0], stride=first[1], pad=first[0] // 2)
    x = getattr(net, activation)(x) if activation else x
    x = net.conv(x, "second", 8, 8, kernel, stride=stride, pad=kernel // 2, groups=8, bias=stride == 1)
    x = getattr(net, activation)(x) if activation else x
    graph = seeded(net.graph(x, (8, 1, 1)))
    assert operators(graph, images(2, 3, size, size)) == [PAIR]
    check(graph, images(2, 3, size, size))


@pytest.mark.parametrize("activation", ["", "relu6", "hard_swish", "silu"])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 14), (3, 1, 19), (3, 2, 18), (5, 1, 10), (5, 2, 15)])
def test_block_agrees_with_plain_loops(activation: str, kernel: int, stride: int, size: int) -> None:
    net = NetBuilder("block", (5, size, size))
    x = net.conv(net.input, "first", 5, 12, 1)
    x = getattr(net, activation)(x) if activation else x
    x = net.conv(x, "second", 12, 12, kernel, stride=stride, pad=kernel // 2, groups=12)
    x = getattr(net, activation)(x) if activation else x
    x = net.conv(x, "third", 12, 5, 1, bias=stride == 1)
    x = net.relu(net.add(x, net.input) if stride == 1 else x)
    graph = seeded(net.graph(x, (5, 1, 1)))
    assert operators(graph, images(2, 5, size, size)) == [BLOCK]
    check(graph, images(2, 5, size, size))


@pytest.mark.parametrize(
    ("kernel", "pads", "strides"), [((3, 5), (0, 0, 0, 0), (1, 1)), ((4, 2), (1, 0, 2, 1), (2, 1))]
)
def test_windows_of_any_form(kernel: Shape, pads: Shape, strides: Shape) -> None:
    attributes = {"group": 6, "pads": pads, "strides": strides}
    arrays = {"w": images(6, 2, 1, 1), "b": images(6), "v": images(6, 1, *kernel)}
    nodes = (
        Node("Conv", ("x", "w", "b"), ("y",), {"activation": "Relu"}, "first"),
        Node("Conv", ("y", "v"), ("z",), attributes, "second"),
    )
    graph = Graph("windows", (Value("x", (0, 2, 19, 26)),), (Value("z", (0, 6, 0, 0)),), nodes, {}, arrays)
    assert operators(graph, images(1, 2, 19, 26)) == [PAIR]
    check(graph, images(1, 2, 19, 26))


def test_blocks_in_a_row_keep_their_late_biases_and_residuals() -> None:
    net = NetBuilder("blocks", (3, 16, 16))
    x, inputs = net.conv(net.input, "stem", 3, 4, 1), 4
    for index in range(3):
        y = net.relu6(net.conv(x, f"up{index}", inputs, 12, 1))
        y = net.relu(net.conv(y, f"wide{index}", 12, 12, 3, pad=1, groups=12))
        x = net.add(x, net.conv(y, f"down{index}", 12, 4, 1))
    graph = seeded(net.graph(net.flatten(net.global_average_pool(x)), (4,)))
    assert operators(graph, images(1, 3, 16, 16)).count(BLOCK) == 3
    check(graph, images(1, 3, 16, 16))


def test_excitation_after_a_pair() -> None:
    net = NetBuilder("excited", (4, 14, 14))
    x = net.hard_swish(net.conv(net.input, "up", 4, 16, 1))
    x = net.hard_swish(net.conv(x, "wide", 16, 16, 5, pad=2, groups=16))
    y = net.relu(net.conv(net.global_average_pool(x), "squeeze", 16, 4, 1))
    x = net.multiply(x, net.hard_sigmoid(net.conv(y, "excite", 4, 16, 1)))
    check(seeded(net.graph(net.conv(x, "down", 16, 4, 1), (4, 14, 14))), images(2, 4, 14, 14))


@pytest.mark.parametrize("size", [14, 40])  # by the rule apart, and together
def test_pins_decide_what_is_together(size: int) -> None:
    net = NetBuilder("pinned", (3, size, size))
    x = net.relu(net.conv(net.conv(net.input, "up", 3, 8, 1), "wide", 8, 8, 3, pad=1, groups=8))
    graph = optimise(seeded(net.graph(net.conv(x, "down", 8, 3, 1), (3, size, size))))

    def kinds(pins: dict[str, str]) -> list[str]:
        chosen = choose_steps(graph, [(1, 3, size, size)], KernelSelector(pins, Layout.LAST))
        return [each.node.op_type for each in chosen]

    assert kinds({}) == ([BLOCK] if size == 40 else ["Conv"] * 3)
    assert kinds({"wide": "tiled"}) == kinds({BLOCK: "tiled"}) == [BLOCK]
    assert kinds({PAIR: "tiled", "down": "rows_whole"}) == [PAIR, "Conv"]
    assert kinds({"wide": "depthwise"}) == ["Conv"] * 3


def test_a_value_that_others_read_stays_apart() -> None:
    net = NetBuilder("read twice", (3, 14, 14))
    x = net.relu(net.conv(net.input, "first", 3, 8, 1))
    graph = seeded(net.graph(net.add(x, net.conv(x, "second", 8, 8, 3, pad=1, groups=8)), (8, 14, 14)))
    assert PAIR not in operators(graph, images(1, 3, 14, 14))
    check(graph, images(1, 3, 14, 14))


@pytest.mark.parametrize("columns", [100, 700, 1024])
def test_wide_products_by_parts(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products.blas, "has_small_products", lambda: True)
    monkeypatch.setattr(products, "SMALL_PRODUCT", 8 * 6 * 256)
    a, b = images(8, 6), images(6, columns)
    out = np.zeros((8, columns), np.float32)
    for call in products.product_by_columns(a, b, out):
        call()
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-6)


def test_a_hard_swish_before_a_framed_layer_allocates_nothing() -> None:
    net = NetBuilder("framed", (4, 20, 20))
    x = net.hard_swish(net.conv(net.input, "up", 4, 24, 1))
    graph = seeded(net.graph(net.conv(x, "wide", 24, 24, 5, pad=2, groups=24), (24, 20, 20)))
    plan = make_plan(optimise(graph), [(1, 4, 20, 20)], KernelSelector(layout=Layout.LAST))
    assert "HardSwish" not in operators(graph, images(1, 4, 20, 20))
    size = np.setbufsize(16)
    tracemalloc.start()
    try:
        for _ in range(20):
            plan.run()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        plan.run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        np.setbufsize(size)
    # NumPy 1.24's einsum makes its three buffers whether it needs them or not.
    einsum = 0 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 3 * 8192 * 4
    assert peak - before < 2500 + 20 * BUFFER + einsum
