"""Drops nodes and parameters that compute nothing, and finds nodes that only one other node reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from engine.graph import Graph, Node, reads


def drop_identities(graph: Graph) -> Graph:
    """Return the graph without Identity and Dropout nodes, except those that make an output of the graph."""
    outputs = {value.name for value in graph.outputs}
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        plain = node.op_type == "Identity" or (
            node.op_type == "Dropout" and len(node.inputs) < 3 and len(node.outputs) == 1
        )
        if plain and node.outputs[0] not in outputs:
            renamed[node.outputs[0]] = node.inputs[0]
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def drop_unused(graph: Graph) -> Graph:
    """Return the graph without initializers that no node reads."""
    used = {name for node in graph.nodes for name in node.inputs}
    return replace(graph, initializers={name: array for name, array in graph.initializers.items() if name in used})


def drop_dead(graph: Graph) -> Graph:
    """Return the graph without nodes that no output depends on."""
    wanted, kept = {value.name for value in graph.outputs}, []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted |= set(reads(node))
    return replace(graph, nodes=tuple(reversed(kept)))


def sole_followers(graph: Graph, first: tuple[str, ...], second: str, at: int = 0) -> list[tuple[Node, Node]]:
    """Return pairs of nodes: a `first`, and the `second` that alone reads its output, as input `at`."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers.update(value.name for value in graph.outputs)
    makers = {node.outputs[0]: node for node in graph.nodes if node.op_type in first and len(node.outputs) == 1}
    return [
        (makers[node.inputs[at]], node)
        for node in graph.nodes
        if node.op_type == second
        and len(node.outputs) == 1
        and len(node.inputs) > at
        and node.inputs[at] in makers
        and readers[node.inputs[at]] == 1
    ]
