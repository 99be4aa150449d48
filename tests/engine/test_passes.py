"""Passes: the optimised graph gives the same numbers with fewer nodes, and stays as it is where it must."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from engine.graph import Array, Graph, Value
from engine.nets.layers import NetBuilder
from engine.passes import optimise
from engine.planner import make_plan
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
    graph, x = net_cases.build(name).bind(net_cases.weights(name)), net_cases.pictures(name)
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
