"""Passes: the optimised graph gives the same numbers with fewer nodes, and stays as it is where it must."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from engine.compiler.bias_deferral import MAX_OFFSET, defer_biases
from engine.compiler.fusion import fuse_residuals, optimise
from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.planner import choose_steps, make_plan
from engine.graph import Array, Graph, ModelError, Value
from engine.kernels.step import FLOOR, Layout
from engine.nets.layers import NetBuilder
from engine.reference import run_graph
from tests.engine import net_cases


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def outputs(graph: Graph, x: Array) -> tuple[Array, ...]:
    found = make_plan(graph, [x.shape]).run(x)
    return found if isinstance(found, tuple) else (found,)


def seeded(graph: Graph) -> Graph:
    state = np.random.RandomState(3)
    return graph.bind({name: state.uniform(0.2, 1, shape) for name, shape in graph.parameters.items()})


@pytest.mark.parametrize("name", net_cases.NETS)
def test_optimised_graph_gives_the_same_logits(name: str) -> None:
    graph, x = net_cases.build(name).bind(net_cases.weights(name)), net_cases.images(name)
    np.testing.assert_allclose(outputs(optimise(graph), x)[0], outputs(graph, x)[0], rtol=1e-5, atol=1e-6)


def test_residual_net_loses_its_norms_and_relus() -> None:
    graph = optimise(net_cases.residual().bind(net_cases.weights("residual")))
    assert operators(graph) == {"Conv": 5, "Add": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert not any("running" in name for name in graph.initializers)


def test_cifar10_loses_its_dropouts() -> None:
    graph = optimise(net_cases.build("cifar10").bind(net_cases.weights("cifar10")))
    assert operators(graph) == {"Conv": 3, "MaxPool": 3, "Flatten": 1, "Gemm": 2}


def test_twice_is_the_same_as_once() -> None:
    once = optimise(net_cases.residual().bind(net_cases.weights("residual")))
    assert optimise(once).nodes == once.nodes


def test_norm_stays_where_another_node_reads_the_convolution() -> None:
    net = NetBuilder("shared", (2, 5, 5))
    convolved = net.conv(net.input, "conv", 2, 3, 3)
    graph = seeded(net.graph(net.add(net.batch_norm(convolved, "bn", 3), convolved), (3, 3, 3)))
    assert operators(optimise(graph)) == {"Conv": 1, "BatchNormalization": 1, "Add": 1}


def test_relu_stays_where_the_value_before_it_is_an_output() -> None:
    net = NetBuilder("two outputs", (4,))
    logits = net.linear(net.input, "fc", 4, 3)
    graph = seeded(net.graph(net.relu(logits), (3,)))
    graph = replace(graph, outputs=(*graph.outputs, Value(logits, (0, 3))))
    assert operators(optimise(graph)) == {"Gemm": 1, "Relu": 1}
    x = np.array([[-1, -2, -3, -4]], np.float32)
    after, before = outputs(optimise(graph), x)
    assert (before < 0).all()
    assert (after == 0).all()


def test_dropout_at_the_end_still_names_the_output() -> None:
    net = NetBuilder("drops last", (4,))
    graph = seeded(net.graph(net.dropout(net.linear(net.input, "fc", 4, 3), 0.5), (3,)))
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(outputs(optimise(graph), x)[0], outputs(graph, x)[0])


def test_relu_after_dropout_is_fused_into_the_convolution() -> None:
    net = NetBuilder("drops between", (1, 4, 4))
    x = net.relu(net.dropout(net.conv(net.input, "conv", 1, 2, 3), 0.5))
    optimised = optimise(seeded(net.graph(x, (2, 2, 2))))
    assert [(node.op_type, node.attributes["activation"]) for node in optimised.nodes] == [("Conv", "Relu")]


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", ["hard_swish", "hard_sigmoid", "silu"])
def test_hard_activations_become_part_of_a_layer(name: str, linear: bool) -> None:
    net = NetBuilder("hard", (4,) if linear else (4, 6, 5))
    x = net.linear(net.input, "fc", 4, 6) if linear else net.conv(net.input, "conv", 4, 6, 3, pad=1)
    graph = net.graph(getattr(net, name)(x), (6,) if linear else (6, 6, 5))
    state = np.random.RandomState(8)
    graph = graph.bind({key: state.uniform(-2, 2, shape) for key, shape in graph.parameters.items()})
    optimised = optimise(graph)
    assert len(optimised.nodes) == 1
    x = state.uniform(-2, 2, (2, *graph.inputs[0].shape[1:])).astype(np.float32)
    (expected,) = run_graph(graph, x)
    np.testing.assert_allclose(run_graph(optimised, x)[0], expected, rtol=1e-5, atol=1e-5)
    for layout in Layout.PLANAR, Layout.LAST:
        found = make_plan(optimised, [x.shape], KernelSelector(layout=layout)).run(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_silu_stays_where_another_node_reads_a_part_of_it() -> None:
    net = NetBuilder("gate", (2, 5, 5))
    x = net.conv(net.input, "conv", 2, 3, 3)
    gate = net.node("Sigmoid", (x,))
    graph = seeded(net.graph(net.add(net.multiply(gate, x), gate), (3, 3, 3)))
    assert operators(optimise(graph)) == {"Conv": 1, "Sigmoid": 1, "Mul": 1, "Add": 1}
    net = NetBuilder("squared", (2, 5, 5))
    x = net.conv(net.input, "conv", 2, 3, 3)
    gate = net.node("Sigmoid", (x,))
    graph = seeded(net.graph(net.multiply(gate, gate), (3, 3, 3)))
    assert operators(optimise(graph)) == {"Conv": 1, "Sigmoid": 1, "Mul": 1}


def test_a_silu_of_large_numbers_is_exact() -> None:
    net = NetBuilder("wide", (1, 1, 8))
    graph = net.graph(net.silu(net.conv(net.input, "conv", 1, 1, 1, bias=False)), (1, 1, 8))
    graph = optimise(graph.bind({"conv.weight": np.ones((1, 1, 1, 1), np.float32)}))
    x = np.array([-1e30, -100, -20, -1e-3, 0, 1e-3, 90, 1e30], np.float32).reshape(1, 1, 1, 8)
    expected = x.astype(np.float64) / (1 + np.exp(-np.maximum(x.astype(np.float64), -700)))
    np.testing.assert_allclose(outputs(graph, x)[0], expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("name", ["hard_swish", "silu"])
def test_a_pool_does_not_take_over_an_activation_that_falls_and_rises(name: str) -> None:
    net = NetBuilder("falls and rises", (1, 4, 4))
    activate = getattr(net, name)
    graph = seeded(net.graph(net.max_pool(activate(net.conv(net.input, "conv", 1, 2, 1)), 2), (2, 2, 2)))
    x = np.linspace(-9, 3, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(outputs(optimise(graph), x)[0], run_graph(graph, x)[0], rtol=1e-5, atol=1e-6)


def relu_chain(pad: int, groups: int = 1) -> Graph:
    """Two convolutions with a Relu between and a pool, a Flatten and a linear layer after."""
    net = NetBuilder("chain", (4, 6, 6))
    x = net.relu(net.conv(net.input, "conv1", 4, 8, 3, pad=1))
    x = net.max_pool(net.relu(net.conv(x, "conv2", 8, 4, 3, pad=pad, groups=groups)), 2)
    x = net.linear(net.flatten(x), "fc", 4 * ((4 + 2 * pad) // 2) ** 2, 3)
    state = np.random.RandomState(8)
    graph = net.graph(x, (3,))
    return graph.bind({name: state.uniform(-1, 1, shape) for name, shape in graph.parameters.items()})


@pytest.mark.parametrize(("pad", "groups"), [(0, 1), (1, 1), (1, 2), (1, 4)])
def test_deferred_biases_give_the_same_numbers(pad: int, groups: int) -> None:
    graph = relu_chain(pad, groups)
    deferred = defer_biases(optimise(graph))
    assert any(node.attributes.get("activation") == FLOOR for node in deferred.nodes)
    x = np.random.RandomState(2).uniform(-1, 1, (2, 4, 6, 6)).astype(np.float32)
    (expected,) = run_graph(graph, x)
    np.testing.assert_allclose(run_graph(deferred, x)[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs(graph, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_value_that_is_an_output_lacks_nothing() -> None:
    graph = relu_chain(1)
    first = graph.nodes[1].outputs[0]
    graph = replace(graph, outputs=(*graph.outputs, Value(first, (0, 8, 6, 6))))
    x = np.random.RandomState(2).uniform(-1, 1, (1, 4, 6, 6)).astype(np.float32)
    for found, expected in zip(run_graph(defer_biases(optimise(graph)), x), run_graph(graph, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_offsets_never_grow_along_a_deep_net() -> None:
    net = NetBuilder("deep", (4, 5, 5))
    x = net.input
    for index in range(30):
        x = net.relu(net.conv(x, f"conv{index}", 4, 4, 3, pad=1))
    graph = net.graph(x, (4, 5, 5))
    state = np.random.RandomState(1)
    arrays = {
        key: state.uniform(0.1, 0.5, shape) if len(shape) > 1 else np.ones(shape)
        for key, shape in graph.parameters.items()
    }
    deferred = defer_biases(optimise(graph.bind(arrays)))
    floors = [
        deferred.initializers[node.inputs[2]] for node in deferred.nodes if node.attributes.get("activation") == FLOOR
    ]
    assert floors
    assert max(np.abs(floor).max() for floor in floors) <= MAX_OFFSET


def test_an_add_that_repeats_an_axis_is_not_fused() -> None:
    net = NetBuilder("gate", (4, 5, 5))
    x = net.conv(net.input, "conv", 4, 4, 1)
    graph = seeded(net.graph(net.add(x, net.global_average_pool(net.input)), (4, 5, 5)))
    shapes = {node.outputs[0]: (1, 4, 5, 5) for node in graph.nodes} | {graph.nodes[1].outputs[0]: (1, 4, 1, 1)}
    assert operators(fuse_residuals(graph, shapes))["Add"] == 1


@pytest.mark.parametrize("activation", ["", "relu", "relu6", "hard_swish"])
def test_an_add_after_an_activation_becomes_a_late_residual(activation: str) -> None:
    net = NetBuilder("late", (16, 9, 9))
    x = net.relu(net.conv(net.input, "first", 16, 16, 3, pad=1))
    for index in range(3):
        y = net.conv(x, f"conv{index}", 16, 16, 3, pad=1)
        x = net.add(x, getattr(net, activation)(y) if activation else y)
    graph = optimise(seeded(net.graph(net.conv(x, "head", 16, 3, 1), (3, 9, 9))))
    chosen = choose_steps(graph, [(2, 16, 9, 9)], KernelSelector(layout=Layout.LAST))
    left = sum(each.node.op_type == "Add" for each in chosen)
    assert left == (3 if activation == "hard_swish" else 0)
    data = np.random.RandomState(3).uniform(-1, 1, (2, 16, 9, 9)).astype(np.float32)
    (expected,) = run_graph(graph, data)
    found = make_plan(graph, [data.shape], KernelSelector(layout=Layout.LAST)).run(data)
    assert isinstance(found, np.ndarray)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_pool_takes_over_bias_and_relu_bit_by_bit() -> None:
    graph = relu_chain(1)
    node = next(node for node in optimise(graph).nodes if node.op_type == "MaxPool")
    assert node.inputs[1:] == ("conv2.bias",)
    assert node.attributes["activation"] == "Relu"


def test_a_clip_to_six_is_fused_and_any_other_stays() -> None:
    for limit, left in ((6.0, 0), (5.0, 1)):
        net = NetBuilder("clipped", (1, 4, 4))
        x = net.node("Clip", (net.conv(net.input, "conv", 1, 2, 3),), {"min": 0.0, "max": limit})
        graph = seeded(net.graph(x, (2, 2, 2)))
        assert operators(optimise(graph))["Clip"] == left
        image = np.linspace(-9, 9, 16, dtype=np.float32).reshape(1, 1, 4, 4)
        (expected,) = run_graph(graph, image)
        assert expected.max() == limit
        np.testing.assert_allclose(outputs(optimise(graph), image)[0], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(run_graph(optimise(graph), image)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("joined", ["add", "concat"])
def test_sums_and_concatenations_hand_late_biases_on(joined: str) -> None:
    net = NetBuilder("joined", (4, 6, 6))
    a, b = (net.relu(net.conv(net.input, name, 4, 8, 3, pad=1)) for name in ("a", "b"))
    x = net.conv(getattr(net, joined)(a, b), "last", 8 if joined == "add" else 16, 4, 3, pad=1)
    state = np.random.RandomState(8)
    graph = net.graph(x, (4, 6, 6))
    graph = graph.bind({name: state.uniform(-1, 1, shape) for name, shape in graph.parameters.items()})
    deferred = defer_biases(optimise(graph))
    assert [node.attributes.get("activation") for node in deferred.nodes if node.op_type == "Conv"][:2] == [FLOOR] * 2
    x = state.uniform(-1, 1, (2, 4, 6, 6)).astype(np.float32)
    (expected,) = run_graph(graph, x)
    np.testing.assert_allclose(run_graph(deferred, x)[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs(graph, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_concatenation_of_something_else_takes_no_late_bias() -> None:
    net = NetBuilder("half known", (4, 6, 6))
    x = net.concat(net.relu(net.conv(net.input, "a", 4, 8, 3, pad=1)), net.input)
    graph = seeded(net.graph(net.conv(x, "last", 12, 4, 3), (4, 4, 4)))
    x = np.random.RandomState(8).uniform(-1, 1, (1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(outputs(optimise(graph), x)[0], run_graph(graph, x)[0], rtol=1e-4, atol=1e-4)


def test_a_long_chain_of_sums_of_a_value_with_itself_is_soon_looked_through() -> None:
    net = NetBuilder("doubled", (2, 4, 4))
    x = net.relu(net.conv(net.input, "a", 2, 2, 1))
    for _ in range(1500):
        x = net.add(x, x)
    defer_biases(optimise(seeded(net.graph(net.conv(x, "last", 2, 2, 1), (2, 4, 4)))))


def focus(side: int, starts: tuple[tuple[int, int], ...], *, twice: bool = False) -> Graph:
    """Every second pixel four times, joined and convolved; with `twice` rows and columns by separate Slices."""
    net = NetBuilder("focus", (3, side, side))
    parts = []
    for row, column in starts:
        x = net.input
        for axes, at in (((2,), (row,)), ((3,), (column,))) if twice else (((2, 3), (row, column)),):
            attributes = {"starts": at, "ends": (2**31,) * len(at), "axes": axes, "steps": (2,) * len(at)}
            x = net.node("Slice", (x,), attributes)
        parts.append(x)
    x = net.silu(net.conv(net.concat(*parts), "conv", 12, 4, 3, pad=1))
    graph = net.graph(x, (4, side // 2, side // 2))
    state = np.random.RandomState(8)
    return graph.bind({key: state.uniform(-1, 1, shape) for key, shape in graph.parameters.items()})


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    ("starts", "fused"),
    [
        (((0, 0), (1, 0), (0, 1), (1, 1)), True),
        (((1, 1), (0, 1), (0, 0), (1, 0)), True),
        (((0, 0), (0, 0), (1, 1), (0, 1)), True),
        (((0, 0), (1, 0), (0, 1), (2, 1)), False),
    ],
)
def test_every_second_pixel_four_times_is_a_convolution_with_a_stride(
    starts: tuple[tuple[int, int], ...], fused: bool, twice: bool
) -> None:
    graph = optimise(focus(8, starts, twice=twice))
    x = np.random.RandomState(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    if not fused:
        with pytest.raises(ModelError):
            make_plan(graph, [x.shape])
        return
    shapes = {node.outputs[0]: each.step.shape for each in choose_steps(graph, [x.shape]) for node in [each.node]}
    assert list(shapes) == [graph.outputs[0].name]
    np.testing.assert_allclose(outputs(graph, x)[0], run_graph(graph, x)[0], rtol=1e-5, atol=1e-5)


def test_slices_of_an_odd_image_do_not_become_a_convolution() -> None:
    graph = optimise(focus(9, ((0, 0),) * 4))
    x = np.random.RandomState(1).standard_normal((1, 3, 9, 9)).astype(np.float32)
    assert operators(graph)["Slice"] == 4
    found = [each.node.op_type for each in choose_steps(graph, [x.shape])]
    assert found.count("Slice") == 4
    np.testing.assert_allclose(outputs(graph, x)[0], run_graph(graph, x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [Layout.PLANAR, Layout.LAST])
@pytest.mark.parametrize("group", [2, 3])
@pytest.mark.parametrize("joined", [False, True])
def test_a_shuffle_of_channels_is_one_copy(joined: bool, group: int, layout: Layout) -> None:
    net = NetBuilder("shuffle", (6, 4, 5))
    parts = [net.conv(net.input, f"conv{part}", 6, 6 // group, 1) for part in range(group)] if joined else []
    x = net.concat(*parts) if joined else net.conv(net.input, "conv", 6, 6, 1)
    x = net.node("Reshape", (x,), {"shape": (0, group, 6 // group, 4, 5)})
    x = net.node("Reshape", (net.node("Transpose", (x,), {"perm": (0, 2, 1, 3, 4)}),), {"shape": (0, 6, 4, 5)})
    left = net.node("Slice", (x,), {"starts": (0,), "ends": (3,), "axes": (1,)})
    right = net.node("Slice", (x,), {"starts": (3,), "ends": (6,), "axes": (1,)})
    graph = seeded(net.graph(net.concat(net.conv(right, "last", 3, 3, 3, pad=1), left), (6, 4, 5)))
    data = np.random.RandomState(1).standard_normal((2, 6, 4, 5)).astype(np.float32)
    found = [each.node.op_type for each in choose_steps(graph, [data.shape], KernelSelector(layout=layout))]
    assert found.count("ChannelShuffle") == 1
    assert not {"Reshape", "Transpose"} & set(found)
    assert found.count("Concat") == 1
    plan = make_plan(graph, [data.shape], KernelSelector(layout=layout))
    np.testing.assert_allclose(plan.run(data), run_graph(graph, data)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("slope", [0.1, 1.0, 0.0, -0.5, 2.0])
def test_a_leaky_relu_is_fused_if_it_is_a_maximum(slope: float) -> None:
    net = NetBuilder("leaky", (3, 6, 6))
    x = net.node("LeakyRelu", (net.conv(net.input, "conv", 3, 4, 3, pad=1),), {"alpha": slope})
    graph = optimise(seeded(net.graph(net.conv(x, "second", 4, 4, 3, pad=1, groups=4), (4, 6, 6))))
    assert (len(graph.nodes) == 2) == (0 < slope <= 1)
    x = np.random.RandomState(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    for layout in Layout.PLANAR, Layout.LAST:
        found = make_plan(graph, [x.shape], KernelSelector(layout=layout)).run(x)
        np.testing.assert_allclose(found, run_graph(graph, x)[0], rtol=1e-5, atol=1e-5)
