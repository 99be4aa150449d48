"""Makes plans: shapes and layouts of all values, a kernel for every node, and the Plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod

from engine.compiler.bias_deferral import defer_biases
from engine.compiler.fusion import (
    Reading,
    fuse_beside,
    fuse_blocks,
    fuse_focus,
    fuse_pools,
    fuse_residuals,
    fuse_shuffles,
)
from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.memory_plan import MemoryPlan
from engine.graph import Array, Graph, ModelError, Node, Shape, UnsupportedOperator
from engine.kernels import FUSED, KERNELS, blas
from engine.kernels.step import Layout, Operand, Step
from engine.lazy_weights import own
from engine.plan import Plan

# A net with fewer multiply-adds is bound by the number of calls, not by arithmetic: planar layout needs fewer calls. A
# call is worth 17,000 multiply-adds on x86, 8,000 on a Pi, where 1 million would do; no shipped net lies between.
PLANAR_MACS = 2_000_000
# A run with fewer multiply-adds takes 100 us and gains less by small buffers than switching costs: cifar10 takes 0.97
# of the time without. On a Cortex-A72, 1 million would change the instructions of digits and cifar10 by 0 to 2 %.
LARGE_MACS = 5_000_000


@dataclass(frozen=True)
class KernelChoice:
    """Holds a node's step and the name of the kernel that offered it."""

    node: Node
    kernel: str
    step: Step


@dataclass
class PreparedGraph:
    """Holds what plans of one model share: they run the same kernels on the same packed parameters.

    Attributes:
        items: input shapes without the batch, which it was made for.
        batches: the batch of each input, if the graph was folded for these only; () if any will do.
        graph: after all passes; without the parameters that are only needed as in `packed`.
        layout: preferred by its nodes.
        packed: parameters in the arrangements that kernels want, by 'name|label'.
        pins: names of kernels by names of nodes' outputs.
        shapes: of the parameters that `graph` lacks.
        final: it cannot be made again, because it came from another process.
        pixels: the first input is uint8 (N, H, W, C).
    """

    items: tuple[Shape, ...] = ()
    batches: tuple[Shape, ...] = ()
    graph: Graph | None = None
    layout: Layout = Layout.PLANAR
    packed: dict[str, Array] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    final: bool = False
    pixels: bool = False

    def fits(self, input_shapes: Sequence[Shape]) -> bool:
        """Return whether it was made for inputs of these shapes."""
        batches = tuple(tuple(shape[:1]) for shape in input_shapes)
        items = tuple(tuple(shape[1:]) for shape in input_shapes)
        return self.graph is not None and self.items == items and self.batches in ((), batches)

    def pack(self, chosen: Sequence[KernelChoice]) -> None:
        """Keep the selected kernels, and make the arrangements of parameters that they want.

        A parameter that is only needed rearranged is released at once, so that memory never holds all of them twice.
        """
        assert self.graph is not None
        self.pins |= {each.node.outputs[0]: each.kernel for each in chosen}
        arrays = dict(self.graph.initializers)
        self.graph = replace(self.graph, initializers=arrays)
        readings = [
            (name, each.step.packs.get(at))
            for each in chosen
            for at, name in enumerate(each.node.inputs)
            if name in arrays
        ]
        left = Counter(name for name, _ in readings)
        plain = {name for name, pack in readings if pack is None} | {value.name for value in self.graph.outputs}
        for name, pack in readings:
            if pack is not None and pack.key(name) not in self.packed:
                self.packed[pack.key(name)] = pack.make(arrays[name])
            left[name] -= 1
            if not left[name] and name not in plain:
                self.shapes[name] = arrays.pop(name).shape


def prepare(graph: Graph, input_shapes: Sequence[Shape], selector: KernelSelector) -> PreparedGraph:
    """Run the passes that need shapes, and choose the layout; errors as for `choose_steps`."""
    blas.check()
    planar = choose(graph, input_shapes, KernelSelector(), PreparedGraph())
    layout = selector.layout or preferred_layout(planar, input_shapes)
    shapes = {value.name: tuple(shape) for value, shape in zip(graph.inputs, input_shapes, strict=True)}
    shapes |= {each.node.outputs[0]: each.step.shape for each in planar}
    graph = fuse_shuffles(fuse_focus(graph, shapes), shapes)
    quicker = partial(_is_fused_faster, selector)
    if layout is Layout.LAST:
        graph = fuse_blocks(fuse_residuals(graph, shapes), shapes, quicker)
    graph = fuse_pools(defer_biases(graph), shapes, quicker)
    if layout is Layout.LAST:
        graph = fuse_beside(fuse_residuals(graph, shapes, late=True), shapes, quicker)
    items = tuple(tuple(shape[1:]) for shape in input_shapes)
    batches = (
        () if graph.parameters else tuple(tuple(shape[:1]) for shape in input_shapes)
    )  # see engine.compiler.constant_folding.fold
    graph = replace(graph, initializers={name: own(array) for name, array in graph.initializers.items()})
    return PreparedGraph(items, batches, graph, layout)


def _is_fused_faster(selector: KernelSelector, fused: Reading, separate: Sequence[Reading]) -> bool:
    """Return whether a fused node, channels last, can run and is faster than the separate ones."""
    one, *others = ((*each, _offers(*each, Layout.LAST)) for each in (fused, *separate))
    return bool(one[2]) and selector.prefers_fused(one, others)


def preferred_layout(chosen: Sequence[KernelChoice], input_shapes: Sequence[Shape]) -> Layout:
    """Return channels last, or planar for a net so small that the number of calls decides; the batch has no effect."""
    batch = input_shapes[0][0] if input_shapes and input_shapes[0] else 1
    return Layout.PLANAR if sum(each.step.macs for each in chosen) < PLANAR_MACS * batch else Layout.LAST


def choose_steps(
    graph: Graph, input_shapes: Sequence[Shape], selector: KernelSelector | None = None
) -> list[KernelChoice]:
    """Return the kernel of each node, after all passes, for these input shapes, in the order in which they run.

    Raises:
        ModelError: shapes that do not fit the graph, an inconsistent graph, or a BLAS that computes wrong.
        UnsupportedOperator: no kernel for a node.
    """
    selector = selector or KernelSelector()
    prepared = prepare(graph, input_shapes, selector)
    assert prepared.graph is not None
    return choose(prepared.graph, input_shapes, selector, prepared)


def make_plan(graph: Graph, input_shapes: Sequence[Shape], selector: KernelSelector | None = None) -> Plan:
    """Return a plan of the graph, optimised or not, for inputs of shapes (N, C, ...); errors as for `choose_steps`."""
    selector = selector or KernelSelector()
    return plan_prepared(prepare(graph, input_shapes, selector), input_shapes, selector)


def plan_prepared(prepared: PreparedGraph, input_shapes: Sequence[Shape], selector: KernelSelector) -> Plan:
    """Return a plan of a prepared graph; later plans share what it packs; errors as for `choose_steps`."""
    assert prepared.graph is not None
    chosen = choose(prepared.graph, input_shapes, selector, prepared)
    prepared.pack(chosen)
    steps = [each.step for each in chosen]
    memory = MemoryPlan(prepared.graph, steps, input_shapes, prepared.packed, prepared.pixels)
    inputs = tuple(zip(memory.input_shapes, (value.computed for value in prepared.graph.inputs), strict=True))
    outputs = tuple(zip(memory.output_shapes, memory.output_dtypes, strict=True))
    large = sum(step.macs for step in steps) >= LARGE_MACS
    return Plan(memory.bind, inputs, outputs, memory.arena.nbytes, prepared.pixels, large)


def choose(
    graph: Graph, input_shapes: Sequence[Shape], selector: KernelSelector, prepared: PreparedGraph
) -> list[KernelChoice]:
    """Return the kernel of each node, without further passes; errors as for `choose_steps`."""
    operands = _input_operands(graph, input_shapes, prepared)
    layouts: dict[str, Layout] = {}
    found = []
    for node in graph.nodes:
        if node.op_type not in KERNELS and node.op_type not in FUSED:
            raise UnsupportedOperator(
                f"operator {node.op_type} ('{node.name}') is not supported; known are {', '.join(KERNELS)}"
            )
        missing = [name for name in node.inputs if name not in operands]
        if missing:
            raise ModelError(f"{node.op_type} '{node.name}' reads '{missing[0]}', which nothing before it makes")
        inputs = [operands[name] for name in node.inputs]
        offers = _offers(node, inputs, prepared.layout)
        if _takes_either(node, inputs):
            offers = _offers(node, inputs, layouts.get(node.inputs[0], prepared.layout))
        kernel = prepared.pins.get(node.outputs[0], "")
        if kernel not in offers:
            kernel = selector.pick(node, inputs, offers)
        step = offers[kernel]
        if step.layout is Layout.ANY:
            before = (layouts.get(name, Layout.PLANAR) for name in node.inputs if not operands[name].is_parameter)
            step = replace(step, layout=next(before, Layout.PLANAR))
        layouts[node.outputs[0]] = step.layout
        operands[node.outputs[0]] = Operand(step.shape, dtype=step.dtype_for(inputs))
        found.append(KernelChoice(node, kernel, step))
    for value in graph.outputs:
        if value.name not in operands:
            raise ModelError(f"net '{graph.name}': no node makes its output '{value.name}'")
    return found


def _takes_either(node: Node, inputs: Sequence[Operand]) -> bool:
    """Return whether a node runs well in the layout of its input: that costs more to copy than its output."""
    if node.op_type == "Conv":
        outputs, channels, *kernel = inputs[1].shape
        return prod(kernel) == 1 and outputs <= channels
    return node.op_type == "GlobalAveragePool"


def _offers(node: Node, inputs: Sequence[Operand], preferred: Layout) -> dict[str, Step]:
    """Return the kernels' steps by name: those in the preferred layout if there are any, else all."""
    kernels = KERNELS.get(node.op_type) or FUSED[node.op_type]
    offers = {kernel.__name__: step for kernel in kernels if (step := kernel(node, inputs)) is not None}
    suiting = {name: step for name, step in offers.items() if step.layout in (preferred, Layout.ANY)}
    return suiting or offers


def _input_operands(graph: Graph, shapes: Sequence[Shape], prepared: PreparedGraph) -> dict[str, Operand]:
    if len(shapes) != len(graph.inputs):
        raise ModelError(f"net '{graph.name}' takes {len(graph.inputs)} inputs, {len(shapes)} shapes are given")
    for value, shape in zip(graph.inputs, shapes, strict=True):
        fits = len(shape) == len(value.shape) and all(
            want in (0, have) and have > 0 for want, have in zip(value.shape, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(str(size or "N") for size in value.shape)
            hint = "; export it with a free batch" if tuple(shape[1:]) == tuple(value.shape[1:]) else ""
            raise ModelError(f"net '{graph.name}': input '{value.name}' is ({expected}), found {tuple(shape)}{hint}")
    operands = {name: Operand(tuple(shape), None, True) for name, shape in prepared.shapes.items()}
    operands |= {name: Operand.of(array) for name, array in graph.initializers.items()}
    return operands | {
        value.name: Operand(tuple(shape), dtype=value.computed)
        for value, shape in zip(graph.inputs, shapes, strict=True)
    }
