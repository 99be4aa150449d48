"""Graph in, smaller graph out: folds batch norms into convolutions, drops what does nothing, fuses activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from engine.graph import Graph, Node, Shape
from engine.kernels.elementwise import fold_batch_norm

_CARRIES_ACTIVATION = ("Conv", "Gemm", "Add", "BatchNormalization")


def optimise(graph: Graph) -> Graph:
    """All passes, in their order; the graph's inputs and outputs keep names and values. Twice is the same as once."""
    for each in (drop_identities, fold_batch_norms, fuse_activations, delay_epilogues, drop_unused):
        graph = each(graph)
    return graph


def drop_identities(graph: Graph) -> Graph:
    """Without Identity and Dropout nodes, except where their output is the graph's own."""
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


def fold_batch_norms(graph: Graph) -> Graph:
    """A BatchNormalization that alone follows a Conv becomes part of its weight and bias (computed in float64)."""
    arrays = dict(graph.initializers)
    nodes = list(graph.nodes)
    for conv, norm in _sole_followers(graph, ("Conv",), "BatchNormalization"):
        if not all(name in arrays for name in (*conv.inputs[1:], *norm.inputs[1:])) or "activation" in conv.attributes:
            continue
        factor, offset = fold_batch_norm(
            [arrays[name] for name in norm.inputs[1:5]], norm.attributes.get("epsilon", 1e-5)
        )
        weight = arrays[conv.inputs[1]].astype(np.float64)
        bias = arrays[conv.inputs[2]].astype(np.float64) if len(conv.inputs) > 2 else np.zeros(len(weight))
        names = (f"{norm.outputs[0]}/weight", f"{norm.outputs[0]}/bias")
        arrays[names[0]] = (weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.float32)
        arrays[names[1]] = (bias * factor + offset).astype(np.float32)
        nodes[nodes.index(conv)] = replace(conv, inputs=(conv.inputs[0], *names), outputs=norm.outputs)
        nodes.remove(norm)
    return replace(graph, nodes=tuple(nodes), initializers=arrays)


def fuse_activations(graph: Graph) -> Graph:
    """A Relu that alone follows a node which can carry it becomes that node's attribute `activation`."""
    nodes = list(graph.nodes)
    for node, relu in _sole_followers(graph, _CARRIES_ACTIVATION, "Relu"):
        if "activation" in node.attributes:
            continue
        attributes = {**node.attributes, "activation": "Relu"}
        nodes[nodes.index(node)] = replace(node, attributes=attributes, outputs=relu.outputs)
        nodes.remove(relu)
    return replace(graph, nodes=tuple(nodes))


def delay_epilogues(graph: Graph) -> Graph:
    """A MaxPool that alone follows a Conv and makes its output smaller takes over its bias and activation.

    Adding the same number and Relu keep the order of numbers, rounding included: the result is the same to the bit,
    from a quarter of the additions.
    """
    nodes = list(graph.nodes)
    for conv, pool in _sole_followers(graph, ("Conv",), "MaxPool"):
        shrinks = prod(pool.attributes.get("strides") or (1,)) > 1
        fixed = all(name in graph.initializers for name in conv.inputs[2:])
        if (
            not shrinks
            or not fixed
            or "residual" in conv.attributes
            or len(pool.inputs) > 1
            or ("activation" in pool.attributes)
        ):
            continue
        moved = {name: conv.attributes[name] for name in ("activation",) if name in conv.attributes}
        kept = {name: value for name, value in conv.attributes.items() if name not in moved}
        nodes[nodes.index(conv)] = replace(conv, inputs=conv.inputs[:2], attributes=kept)
        nodes[nodes.index(pool)] = replace(
            pool, inputs=(*pool.inputs, *conv.inputs[2:]), attributes={**pool.attributes, **moved}
        )
    return replace(graph, nodes=tuple(nodes))


def fuse_residuals(graph: Graph, shapes: Mapping[str, Shape]) -> Graph:
    """An Add that alone follows a Conv becomes part of it: the other addend is the Conv's last input (`residual`).

    It needs the values' shapes, because an Add that repeats an axis stays; so it runs in the planner.
    """
    nodes = list(graph.nodes)
    fused: set[str] = set()
    for conv, add in [*_sole_followers(graph, ("Conv",), "Add", at=1), *_sole_followers(graph, ("Conv",), "Add")]:
        other = add.inputs[1] if add.inputs[0] == conv.outputs[0] else add.inputs[0]
        fits = shapes.get(other) == shapes[conv.outputs[0]] == shapes[add.outputs[0]]
        if not fits or add.outputs[0] in fused or {"activation", "residual"} & conv.attributes.keys():
            continue
        fused.add(add.outputs[0])
        nodes[nodes.index(add)] = replace(
            conv,
            inputs=(*conv.inputs, other),
            outputs=add.outputs,
            attributes={**conv.attributes, **add.attributes, "residual": 1},
        )
        nodes.remove(conv)
    return replace(graph, nodes=tuple(nodes))


def drop_unused(graph: Graph) -> Graph:
    """Without initializers that no node reads any more."""
    used = {name for node in graph.nodes for name in node.inputs}
    return replace(graph, initializers={name: array for name, array in graph.initializers.items() if name in used})


def _sole_followers(graph: Graph, first: tuple[str, ...], second: str, at: int = 0) -> list[tuple[Node, Node]]:
    """Pairs of nodes in which input `at` of `second` is the output of a `first` that nobody else reads."""
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
