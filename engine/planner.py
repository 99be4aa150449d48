"""The planner: picks a kernel for every node, places every buffer in one arena by its lifetime, and makes the Plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from engine.graph import Array, Graph, ModelError, Shape, UnsupportedOperator
from engine.kernels import KERNELS
from engine.kernels.step import Call, Operand, Scratch, Step
from engine.plan import Plan

ALIGNMENT = 64  # bytes: a cache line, and more than any vector register


def choose_steps(graph: Graph, input_shapes: Sequence[Shape]) -> list[Step]:
    """The kernel of each node for these input shapes, in the nodes' order.

    Raises:
        ModelError: shapes that do not fit the graph, or a graph that does not fit together.
        UnsupportedOperator: no kernel for a node.
    """
    operands = _input_operands(graph, input_shapes)
    steps = []
    for node in graph.nodes:
        if node.op_type not in KERNELS:
            raise UnsupportedOperator(
                f"operator {node.op_type} ('{node.name}') is not supported; known are {', '.join(KERNELS)}"
            )
        missing = [name for name in node.inputs if name not in operands]
        if missing:
            raise ModelError(f"{node.op_type} '{node.name}' reads '{missing[0]}', which nothing before it makes")
        inputs = [operands[name] for name in node.inputs]
        step = next(step for kernel in KERNELS[node.op_type] if (step := kernel(node, inputs)) is not None)
        operands[node.outputs[0]] = Operand(step.shape)
        steps.append(step)
    for value in graph.outputs:
        if value.name not in operands:
            raise ModelError(f"net '{graph.name}': nothing makes its output '{value.name}'")
    return steps


def make_plan(graph: Graph, input_shapes: Sequence[Shape]) -> Plan:
    """A plan of the graph for inputs of just these shapes.

    Raises:
        ModelError, UnsupportedOperator: as `choose_steps`.
    """
    layout = _Layout(graph, choose_steps(graph, input_shapes), input_shapes)
    return Plan(layout.bind, layout.input_shapes, layout.output_shapes, layout.arena.nbytes)


def _input_operands(graph: Graph, shapes: Sequence[Shape]) -> dict[str, Operand]:
    if len(shapes) != len(graph.inputs):
        raise ModelError(f"net '{graph.name}' takes {len(graph.inputs)} inputs, {len(shapes)} shapes are given")
    for value, shape in zip(graph.inputs, shapes, strict=True):
        fits = len(shape) == len(value.shape) and all(
            want in (0, have) and have > 0 for want, have in zip(value.shape, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(str(size or "N") for size in value.shape)
            raise ModelError(f"net '{graph.name}': input '{value.name}' is ({expected}), found {tuple(shape)}")
    operands = {name: Operand(array.shape, array) for name, array in graph.initializers.items()}
    return operands | {value.name: Operand(tuple(shape)) for value, shape in zip(graph.inputs, shapes, strict=True)}


@dataclass
class _Buffer:
    """float32 numbers that live from step `first` to step `last`, both included."""

    shape: Shape
    first: int
    last: int
    fill: float | None = None
    offset: int = 0

    @property
    def nbytes(self) -> int:
        return -(-4 * prod(self.shape) // ALIGNMENT) * ALIGNMENT

    def view(self, arena: Array) -> Array:
        return arena[self.offset : self.offset + 4 * prod(self.shape)].view(np.float32).reshape(self.shape)


class _Layout:
    """Where everything lies: the arena and, for each value, the buffer that holds it."""

    def __init__(self, graph: Graph, steps: list[Step], input_shapes: Sequence[Shape]) -> None:
        self.graph = graph
        self.steps = steps
        self.input_shapes = tuple(tuple(shape) for shape in input_shapes)
        self._shapes = dict(zip((value.name for value in graph.inputs), self.input_shapes, strict=True))
        self._shapes |= {name: array.shape for name, array in graph.initializers.items()}
        self._root = {name: name for name in self._shapes}  # value -> the value whose memory it is a view of
        for node, step in zip(graph.nodes, steps, strict=True):
            name = node.outputs[0]
            self._shapes[name] = step.shape
            self._root[name] = self._root[node.inputs[0]] if step.bind is None else name
        self.output_shapes = tuple(self._shapes[value.name] for value in graph.outputs)
        # An output is computed in the caller's array, unless it is a view of something else: then it is copied.
        made = {node.outputs[0] for node, step in zip(graph.nodes, steps, strict=True) if step.bind is not None}
        self._direct = {value.name: index for index, value in enumerate(graph.outputs) if value.name in made}
        self._values = self._value_buffers(made - self._direct.keys())
        self._scratch = [
            [_scratch_buffer(scratch, at, len(steps)) for scratch in step.scratch] for at, step in enumerate(steps)
        ]
        buffers = [*self._values.values(), *(buffer for row in self._scratch for buffer in row)]
        self.arena = _aligned_bytes(_place(buffers))
        for buffer in buffers:
            if buffer.fill is not None:
                buffer.view(self.arena).fill(buffer.fill)

    def _value_buffers(self, made: set[str]) -> dict[str, _Buffer]:
        born = {node.outputs[0]: at for at, node in enumerate(self.graph.nodes)}
        buffers = {name: _Buffer(self._shapes[name], born[name], born[name]) for name in born if name in made}
        for at, node in enumerate(self.graph.nodes):
            for name in node.inputs:
                if self._root[name] in buffers:
                    buffers[self._root[name]].last = at
        for value in self.graph.outputs:
            if self._root[value.name] in buffers:
                buffers[self._root[value.name]].last = len(self.graph.nodes)
        return buffers

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> list[Call]:
        """The calls that compute `outputs` from `inputs` in this arena."""
        arrays = dict(self.graph.initializers)
        arrays |= {value.name: array for value, array in zip(self.graph.inputs, inputs, strict=True)}
        arrays |= {name: buffer.view(self.arena) for name, buffer in self._values.items()}
        arrays |= {name: outputs[index] for name, index in self._direct.items()}
        calls: list[Call] = []
        for node, step, scratch in zip(self.graph.nodes, self.steps, self._scratch, strict=True):
            sources = [arrays[name] for name in node.inputs]
            if step.bind is None:
                arrays[node.outputs[0]] = sources[0].reshape(step.shape)
            else:
                calls += step.bind(sources, arrays[node.outputs[0]], [buffer.view(self.arena) for buffer in scratch])
        for value, target in zip(self.graph.outputs, outputs, strict=True):
            if arrays[value.name] is not target:
                calls.append(_copy(target, arrays[value.name]))
        return calls


def _copy(target: Array, source: Array) -> Call:
    return lambda: np.copyto(target, source)


def _scratch_buffer(scratch: Scratch, at: int, steps: int) -> _Buffer:
    if scratch.fill is None:
        return _Buffer(scratch.shape, at, at)
    return _Buffer(scratch.shape, 0, steps, scratch.fill)


def _place(buffers: Sequence[_Buffer]) -> int:
    """Give each buffer the lowest offset free for its whole life, the largest first; returns the arena's size."""
    placed: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda item: -item.nbytes):
        rivals = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
        buffer.offset = 0
        for other in sorted(rivals, key=lambda item: item.offset):
            if buffer.offset + buffer.nbytes <= other.offset:
                break
            buffer.offset = max(buffer.offset, other.offset + other.nbytes)
        placed.append(buffer)
    return max((buffer.offset + buffer.nbytes for buffer in placed), default=0)


def _aligned_bytes(size: int) -> Array:
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
