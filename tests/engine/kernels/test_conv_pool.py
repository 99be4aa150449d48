"""A Conv and the 2x2 MaxPool after it as one node, against the plain loops of the two."""

from __future__ import annotations

import numpy as np
import pytest

from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.planner import KernelChoice, choose_steps, make_plan
from engine.graph import Array, Graph
from engine.kernels.conv_pool import CONV_POOL, Bands, Parities, Planes
from engine.kernels.step import Layout
from engine.nets.layers import NetBuilder
from engine.reference import run_graph


def layers(*sizes: tuple[int, int, int, int], side: int = 12, activation: str = "relu") -> Graph:
    """Convolutions (inputs, outputs, kernel, padding), each with an activation and a pool after it."""
    net = NetBuilder("pools", (sizes[0][0], side, side))
    x = net.input
    for index, (inputs, outputs, kernel, pad) in enumerate(sizes):
        x = net.conv(x, f"conv{index}", inputs, outputs, kernel, pad=pad)
        x = net.max_pool(getattr(net, activation)(x) if activation else x, 2)
        side = (side + 2 * pad - kernel + 1) // 2
    graph = net.graph(net.linear(net.flatten(x), "fc", sizes[-1][1] * side**2, 3), (3,))
    state = np.random.RandomState(7)
    return graph.bind({name: state.uniform(-1, 1, shape) for name, shape in graph.parameters.items()})


def images(graph: Graph, count: int) -> Array:
    return np.random.RandomState(5).uniform(-1, 1, (count, *graph.inputs[0].shape[1:])).astype(np.float32)


def fused(graph: Graph, x: Array, layout: Layout) -> list[KernelChoice]:
    chosen = choose_steps(optimise(graph), [x.shape], KernelSelector(layout=layout))
    return [each for each in chosen if each.node.op_type == CONV_POOL]


def check(graph: Graph, x: Array, layout: Layout) -> None:
    (expected,) = run_graph(graph, x)
    plan = make_plan(optimise(graph), [x.shape], KernelSelector(layout=layout))
    for _ in range(2):
        found = np.asarray(plan.run(x))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("layout", [Layout.PLANAR, Layout.LAST])
@pytest.mark.parametrize("activation", ["", "relu", "relu6"])
@pytest.mark.parametrize("side", [12, 13])
def test_pooled_layers_agree_with_plain_loops(side: int, activation: str, layout: Layout) -> None:
    graph = layers((1, 6, 5, 0), (6, 8, 3, 1), side=side, activation=activation)
    x = images(graph, 3)
    assert len(fused(graph, x, layout)) == 2
    check(graph, x, layout)


@pytest.mark.parametrize(("outputs", "kernels"), [(6, ["planes", "bands"]), (16, ["parities", "bands"])])
def test_kernels_are_used_where_they_are_cheap(outputs: int, kernels: list[str]) -> None:
    graph = layers((1, outputs, 5, 0), (outputs, 16, 5, 0), side=32)
    x = images(graph, 2)
    assert [each.kernel for each in fused(graph, x, Layout.PLANAR)] == kernels
    check(graph, x, Layout.PLANAR)
    plan = make_plan(optimise(graph), [x.shape], KernelSelector(layout=Layout.PLANAR))
    assert not any(name.startswith("copy of maxpool_2") for name, _ in plan.sections)  # made as its reader wants it


@pytest.mark.parametrize("activation", ["", "relu", "relu6"])
@pytest.mark.parametrize(("channels", "kernel", "pad"), [(1, 1, 0), (1, 2, 0), (4, 3, 1), (2, 4, 3), (3, 5, 2)])
@pytest.mark.parametrize("side", [9, 12])
def test_places_of_a_row_put_apart_give_the_same(
    side: int, channels: int, kernel: int, pad: int, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parities, "cost", property(lambda way: 0.0))
    graph = layers((channels, 16, kernel, pad), (16, 8, 3, 1), side=side, activation=activation)
    x = images(graph, 2)
    assert fused(graph, x, Layout.LAST)[0].kernel == "parities"
    check(graph, x, Layout.LAST)


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("layout", [Layout.PLANAR, Layout.LAST])
def test_planes_write_what_the_next_layer_wants(layout: Layout, pad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planes, "cost", property(lambda way: way.conv.weight[1]))
    graph = layers((1, 6, 3, 1), (6, 8, 3, pad), (8, 4, 2, pad), side=22)
    x = images(graph, 2)
    check(graph, x, layout)


@pytest.mark.parametrize("places", [0, 1, 2, 3])
def test_windows_of_any_width_give_the_same(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = layers((2, 4, 3, 1), side=12)
    x = images(graph, 2)
    monkeypatch.setattr(Planes, "cost", property(lambda way: 1.0))
    monkeypatch.setattr(Bands, "cost", property(lambda way: float(way.places != places)))
    (only,) = fused(graph, x, Layout.LAST)
    assert only.kernel == "bands"
    check(graph, x, Layout.LAST)


@pytest.mark.parametrize("column_bytes", [120_000, 512 << 10])
@pytest.mark.parametrize(
    ("side", "pad", "activation"),
    [(8, 1, "relu"), (9, 1, ""), (11, 0, "relu6"), (7, 2, "relu"), (6, 0, "relu"), (9, 0, "")],
)
def test_winograd_down_the_rows_gives_the_same(
    side: int, pad: int, activation: str, column_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.kernels.winograd_rows.COLUMN_BYTES", column_bytes)
    graph = optimise(layers((1, 16, 1, 0), (16, 17, 3, pad), side=2 * side, activation=activation))
    x = images(graph, 3)
    selector = KernelSelector(pins={"conv1": "winograd_rows_pool"}, layout=Layout.LAST)
    assert [each.kernel for each in choose_steps(graph, [x.shape], selector)][1] == "winograd_rows_pool"
    (expected,) = run_graph(graph, x)
    plan = make_plan(graph, [x.shape], selector)
    plan.run(np.full_like(x, np.nan))  # what an earlier frame left must not matter
    found = np.asarray(plan.run(x))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_large_batches_go_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kernels.conv_pool.COLUMN_BYTES", 80_000)
    monkeypatch.setattr(Planes, "cost", property(lambda way: 1e9))
    graph = layers((6, 16, 3, 1), side=12)
    x = images(graph, 5)
    assert fused(graph, x, Layout.LAST)
    check(graph, x, Layout.LAST)


def test_a_large_batch_keeps_the_node() -> None:
    graph = layers((1, 6, 5, 0), side=28)
    one, many = (fused(graph, images(graph, count), Layout.PLANAR) for count in (1, 64))
    assert [each.kernel for each in one] == [each.kernel for each in many] == ["planes"]


def test_a_hard_swish_is_not_moved_behind_a_pool() -> None:
    graph = layers((1, 6, 3, 1), activation="hard_swish")
    x = images(graph, 1)
    assert not fused(graph, x, Layout.PLANAR)
    check(graph, x, Layout.PLANAR)
