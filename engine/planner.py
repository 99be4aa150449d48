"""The planner: shapes and layouts of all values, a kernel for every node, and the Plan made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.choices import Choices
from engine.graph import Array, Graph, ModelError, Node, Shape, UnsupportedOperator
from engine.kernels import KERNELS
from engine.kernels.step import Layout, Operand, Step
from engine.layout import MemoryPlan
from engine.passes import fuse_residuals
from engine.plan import Plan

# A net with fewer multiply-adds than this is bound by the number of calls, not by arithmetic: planar needs fewer.
PLANAR_MACS = 2_000_000


@dataclass(frozen=True)
class Chosen:
    """A node's step and the name of the kernel that offered it."""

    node: Node
    kernel: str
    step: Step


@dataclass
class Prepared:
    """What plans of one model share.

    Attributes:
        packed: parameters in the arrangements that kernels want, by 'name|label'.
        pins: names of kernels by names of nodes' outputs.
        shapes: of parameters that are at hand only in `packed`.
    """

    packed: dict[str, Array] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)


def choose_steps(
    graph: Graph,
    input_shapes: Sequence[Shape],
    choices: Choices | None = None,
    prepared: Prepared | None = None,
) -> list[Chosen]:
    """The kernel of each node for these input shapes, in the nodes' order.

    Raises:
        ModelError: shapes that do not fit the graph, or a graph that does not fit together.
        UnsupportedOperator: no kernel for a node.
    """
    choices, prepared = choices or Choices(), prepared or Prepared()
    planar = _choose(graph, input_shapes, Layout.PLANAR, Choices(), Prepared(shapes=prepared.shapes))
    layout = choices.layout or preferred_layout(planar, input_shapes)
    if layout is Layout.PLANAR:
        return _choose(graph, input_shapes, layout, choices, prepared)
    shapes = {each.node.outputs[0]: each.step.shape for each in planar}
    return _choose(fuse_residuals(graph, shapes), input_shapes, Layout.LAST, choices, prepared)


def make_plan(
    graph: Graph,
    input_shapes: Sequence[Shape],
    choices: Choices | None = None,
    prepared: Prepared | None = None,
) -> Plan:
    """A plan of the graph for inputs of just these shapes.

    Args:
        graph: optimised or not.
        input_shapes: (N, C, ...) each.
        choices: who picks among the kernels of a node; by default the fixed rule.
        prepared: what was made for earlier plans of this graph; added to.

    Raises:
        ModelError, UnsupportedOperator: as `choose_steps`.
    """
    prepared = prepared or Prepared()
    chosen = choose_steps(graph, input_shapes, choices, prepared)
    prepared.pins |= {each.node.outputs[0]: each.kernel for each in chosen}
    graph = replace(graph, nodes=tuple(each.node for each in chosen))
    memory = MemoryPlan(graph, [each.step for each in chosen], input_shapes, prepared.packed)
    return Plan(memory.bind, memory.input_shapes, memory.output_shapes, memory.arena.nbytes)


def preferred_layout(chosen: Sequence[Chosen], input_shapes: Sequence[Shape]) -> Layout:
    """Channels last, unless the net is so small that the number of calls decides; the same for every batch size."""
    batch = input_shapes[0][0] if input_shapes and input_shapes[0] else 1
    return Layout.PLANAR if sum(each.step.macs for each in chosen) < PLANAR_MACS * batch else Layout.LAST


def _choose(
    graph: Graph, input_shapes: Sequence[Shape], preferred: Layout, choices: Choices, prepared: Prepared
) -> list[Chosen]:
    operands = _input_operands(graph, input_shapes, prepared)
    layouts: dict[str, Layout] = {}
    found = []
    for node in graph.nodes:
        if node.op_type not in KERNELS:
            raise UnsupportedOperator(
                f"operator {node.op_type} ('{node.name}') is not supported; known are {', '.join(KERNELS)}"
            )
        missing = [name for name in node.inputs if name not in operands]
        if missing:
            raise ModelError(f"{node.op_type} '{node.name}' reads '{missing[0]}', which nothing before it makes")
        inputs = [operands[name] for name in node.inputs]
        offers = _offers(node, inputs, preferred)
        kernel = prepared.pins.get(node.outputs[0], "")
        if kernel not in offers:
            kernel = choices.pick(node, inputs, offers)
        step = offers[kernel]
        if step.layout is Layout.ANY:
            before = (layouts.get(name, Layout.PLANAR) for name in node.inputs if not operands[name].is_parameter)
            step = replace(step, layout=next(before, Layout.PLANAR))
        layouts[node.outputs[0]] = step.layout
        operands[node.outputs[0]] = Operand(step.shape)
        found.append(Chosen(node, kernel, step))
    for value in graph.outputs:
        if value.name not in operands:
            raise ModelError(f"net '{graph.name}': nothing makes its output '{value.name}'")
    return found


def _offers(node: Node, inputs: Sequence[Operand], preferred: Layout) -> dict[str, Step]:
    """What the kernels offer by name, in the preferred layout if any does so."""
    offers = {kernel.__name__: step for kernel in KERNELS[node.op_type] if (step := kernel(node, inputs)) is not None}
    suiting = {name: step for name, step in offers.items() if step.layout in (preferred, Layout.ANY)}
    return suiting or offers


def _input_operands(graph: Graph, shapes: Sequence[Shape], prepared: Prepared) -> dict[str, Operand]:
    if len(shapes) != len(graph.inputs):
        raise ModelError(f"net '{graph.name}' takes {len(graph.inputs)} inputs, {len(shapes)} shapes are given")
    for value, shape in zip(graph.inputs, shapes, strict=True):
        fits = len(shape) == len(value.shape) and all(
            want in (0, have) and have > 0 for want, have in zip(value.shape, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(str(size or "N") for size in value.shape)
            raise ModelError(f"net '{graph.name}': input '{value.name}' is ({expected}), found {tuple(shape)}")
    operands = {name: Operand(tuple(shape), None, True) for name, shape in prepared.shapes.items()}
    operands |= {name: Operand(array.shape, array, True) for name, array in graph.initializers.items()}
    return operands | {value.name: Operand(tuple(shape)) for value, shape in zip(graph.inputs, shapes, strict=True)}
