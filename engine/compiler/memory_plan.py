"""Plans the memory: each value's form (layout and frame), its place in the arena, and the copies between forms.

A value has the form that its readers want, if the node that makes it can write that: then padding costs nothing,
because the last pass of the layer before writes into the inside of a frame whose border was filled when the plan was
made. A reader that wants another form gets a copy, made once and kept until its last reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from engine.compiler.arena import Buffer, allocate
from engine.graph import FLOAT32, Array, Graph, ModelError, Node, Shape
from engine.kernels.step import Border, Call, Layout, Operand, Pack, Step, turn


@dataclass(frozen=True)
class Form:
    """Describes how a value lies in memory."""

    layout: Layout
    border: Border | None = None

    def memory(self, shape: Shape) -> Shape:
        """Return the axes as they follow one another in memory."""
        framed = self.border.framed(shape) if self.border else shape
        return (framed[0], *framed[2:], framed[1]) if self.layout is Layout.LAST else framed

    def view(self, flat: Array, shape: Shape) -> Array:
        """Return the value with its frame, (N, C, ...)."""
        array = flat.reshape(self.memory(shape))
        return np.moveaxis(array, -1, 1) if self.layout is Layout.LAST else array

    def inside(self, framed: Array) -> Array:
        """Return the value without its frame."""
        return self.border.inside(framed) if self.border else framed


def form(shape: Shape, layout: Layout, border: Border | None = None) -> Form:
    """Return a form; the planar one if both layouts are the same memory (one channel, or one pixel)."""
    framed = border.framed(shape) if border else shape
    same = len(shape) < 3 or framed[1] == 1 or prod(framed[2:]) == 1
    return Form(Layout.PLANAR if same else layout, border)


PLAIN = Form(Layout.PLANAR)
SAMPLE: Array = np.random.default_rng(0).standard_normal(4099, FLOAT32)  # a prime: no two rows of an image are alike
PIXELS = Form(Layout.ANY)  # uint8 NHWC input; no kernel reads it in place, so every reader gets a converted copy


@dataclass(eq=False)
class Place:
    """Describes one form of one value: in a buffer, or in a caller's array (`outside`)."""

    shape: Shape
    form: Form
    buffer: Buffer | None = None
    outside: tuple[str, int] | None = None
    dtype: np.dtype[Any] = FLOAT32

    def fits(self, wanted: Form, strided: bool) -> bool:
        """Return whether a reader that wants the form can read this place."""
        if wanted.border is not None:
            return self.form == wanted
        return self.form.layout is wanted.layout and (self.form.border is None or strided)


@dataclass(eq=False)
class _Reading:
    """Describes an input of a step: a place, and whether with its frame; or a parameter's key."""

    place: Place | None = None
    framed: bool = False
    parameter: str = ""


@dataclass(eq=False)
class _Action:
    """Holds a step with its inputs and output, or (step None) a copy from one place to another."""

    label: str
    step: Step | None
    readings: list[_Reading]
    target: Place
    scratch: list[Buffer] = field(default_factory=list)


class MemoryPlan:
    """Holds all that is needed to bind the steps of a plan to memory, any number of times.

    Attributes:
        input_shapes: of the graph's inputs.
        output_shapes: of the graph's outputs.
        output_dtypes: likewise.
        arena: the memory between them.
    """

    def __init__(
        self,
        graph: Graph,
        steps: Sequence[Step],
        input_shapes: Sequence[Shape],
        packed: Mapping[str, Array],
        pixels: bool = False,
    ) -> None:
        """Place all values; `steps` run the graph's nodes, `packed` holds their rearranged parameters by key.

        No step has the layout ANY. With `pixels` the first input will be uint8 (N, H, W, C).
        """
        self.input_shapes = tuple(tuple(shape) for shape in input_shapes)
        self._parameters: dict[str, Array] = {}
        self._actions: list[_Action] = []
        self._places: dict[str, list[Place]] = {}
        for index, (value, shape) in enumerate(zip(graph.inputs, self.input_shapes, strict=True)):
            own = PIXELS if pixels and index == 0 else PLAIN
            self._places[value.name] = [Place(shape, own, outside=("input", index), dtype=value.computed)]
        self._pixels = pixels
        outputs = {value.name: index for index, value in reversed([*enumerate(graph.outputs)])}
        wanted = _wanted_forms(graph, steps)
        for node, step in zip(graph.nodes, steps, strict=True):
            readings = [self._reading(graph, node, step, at, packed) for at in range(len(node.inputs))]
            name = node.outputs[0]
            dtype = self._dtype_of(graph, readings) if step.dtype is None else step.dtype
            if step.bind is None:  # the same memory under another shape
                source = readings[0].place
                if source is None:
                    source = self._constant_place(readings[0].parameter)
                self._places[name] = [Place(step.shape, PLAIN, source.buffer, source.outside, source.dtype)]
                continue
            own = _own_form(step, wanted.get(name, []), name in outputs)
            if name in outputs and own == PLAIN:  # computed in place in the caller's array
                place = Place(step.shape, own, outside=("output", outputs[name]), dtype=dtype)
            else:
                free = _output_form(step, own, wanted.get(name, []), name in outputs)
                place = self._new_place(step.shape, free, dtype)
            self._places[name] = [place]
            rooms = [self._buffer(each.shape, each.dtype) for each in step.scratch]
            self._act(_Action(node.name or name, step, readings, place, rooms))
        ends = [self._end(graph, value.name) for value in graph.outputs]
        self.output_shapes = tuple(place.shape for place in ends)
        self.output_dtypes = tuple(place.dtype for place in ends)
        for index, (value, end) in enumerate(zip(graph.outputs, ends, strict=True)):
            self._copy_out(value.name, end, Place(end.shape, PLAIN, outside=("output", index), dtype=end.dtype))
        self.arena = self._allocate()

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> list[tuple[str, list[Call]]]:
        """Return the calls that compute `outputs` from `inputs` in this arena, with the name of their node."""
        if self._pixels:
            inputs = [np.moveaxis(inputs[0], -1, 1), *inputs[1:]]
        outside = {"input": inputs, "output": outputs, "constant": list(self._parameters.values())}

        def array(place: Place, framed: bool) -> Array:
            if place.outside is not None:
                kind, index = place.outside
                return outside[kind][index].reshape(place.shape)
            assert place.buffer is not None
            view = place.form.view(place.buffer.view(self.arena), place.shape)
            return view if framed else place.form.inside(view)

        calls: list[tuple[str, list[Call]]] = []
        for action in self._actions:
            sources = [
                self._parameters[reading.parameter] if reading.place is None else array(reading.place, reading.framed)
                for reading in action.readings
            ]
            target = array(action.target, framed=False)
            if action.step is None or action.step.bind is None:
                calls.append((action.label, turn(target, sources[0])))
                continue
            scratch = []
            for wanted, buffer in zip(action.step.scratch, action.scratch, strict=True):
                follows = form(wanted.shape, action.step.layout) if wanted.follows else PLAIN
                scratch.append(follows.view(buffer.view(self.arena), wanted.shape))
            calls.append((action.label, action.step.bind(sources, target, scratch)))
        return calls

    def _reading(self, graph: Graph, node: Node, step: Step, at: int, packed: Mapping[str, Array]) -> _Reading:
        name = node.inputs[at]
        if name not in self._places:
            pack = step.packs.get(at)
            return _Reading(parameter=self._parameter(graph, node, name, pack, packed))
        shape, dtype = self._places[name][0].shape, self._places[name][0].dtype
        border = step.border if at == 0 else None
        wanted = form(shape, step.layout_of(at), border)
        found = next((place for place in self._places[name] if place.fits(wanted, step.strided)), None)
        if found is None:
            found = self._new_place(shape, wanted, dtype)
            self._act(_Action(f"copy of {name}", None, [_Reading(self._places[name][0])], found))
            self._places[name].append(found)
        return _Reading(found, framed=border is not None)

    def _parameter(self, graph: Graph, node: Node, name: str, pack: Pack | None, packed: Mapping[str, Array]) -> str:
        key = pack.key(name) if pack else name
        if key not in self._parameters:
            found = packed.get(key) if pack else graph.initializers.get(name)
            if found is None:
                raise ModelError(f"{node.op_type} '{node.name}': parameter '{name}' was shared in another arrangement")
            self._parameters[key] = found
        return key

    def _constant_place(self, key: str) -> Place:
        outside, array = ("constant", list(self._parameters).index(key)), self._parameters[key]
        return Place(array.shape, PLAIN, outside=outside, dtype=array.dtype)

    def _dtype_of(self, graph: Graph, readings: Sequence[_Reading]) -> np.dtype[Any]:
        """Return the data type of the first of the inputs."""
        if not readings:
            return FLOAT32
        first = readings[0]
        return self._parameters[first.parameter].dtype if first.place is None else first.place.dtype

    def _end(self, graph: Graph, name: str) -> Place:
        """Return where a value of the graph lies at the end; a parameter becomes one."""
        if name not in self._places:
            self._parameters[name] = graph.initializers[name]
            self._places[name] = [self._constant_place(name)]
        return self._places[name][0]

    def _copy_out(self, name: str, source: Place, target: Place) -> None:
        """Copy an output to the caller's array, unless it is computed there."""
        if source.outside != target.outside:
            self._act(_Action(f"copy of {name}", None, [_Reading(source)], target))

    def _new_place(self, shape: Shape, wanted: Form, dtype: np.dtype[Any]) -> Place:
        return Place(shape, wanted, self._buffer(wanted.memory(shape), dtype), dtype=dtype)

    def _buffer(self, shape: Shape, dtype: np.dtype[Any]) -> Buffer:
        now = len(self._actions)
        return Buffer(shape, now, now, dtype=dtype)

    def _act(self, action: _Action) -> None:
        """Append an action, and extend the lifetimes of the buffers that it uses."""
        now = len(self._actions)
        for place in [*(reading.place for reading in action.readings), action.target]:
            if place is not None and place.buffer is not None:
                place.buffer.last = now
        self._actions.append(action)

    def _allocate(self) -> Array:
        """Allocate the arena. Frames share memory only with later frames of the same form: so their border stays."""
        plain = [buffer for action in self._actions for buffer in action.scratch]
        frames: dict[tuple[Form, Shape, np.dtype[Any]], list[Buffer]] = {}
        framed: list[tuple[Place, Buffer]] = []
        for action in self._actions:
            place = action.target
            if place.buffer is None:
                continue
            if place.form.border is None:
                plain.append(place.buffer)
                continue
            turns = frames.setdefault((place.form, place.buffer.shape, place.dtype), [])
            shared = next((buffer for buffer in turns if buffer.last < place.buffer.first), None)
            if shared is None:
                shared = Buffer(place.buffer.shape, 0, place.buffer.last, dtype=place.dtype)
                turns.append(shared)
            shared.last = place.buffer.last
            framed.append((place, shared))
        lasting = [buffer for turns in frames.values() for buffer in turns]
        for buffer in lasting:
            buffer.last = len(self._actions)
        arena = allocate([*plain, *lasting])
        for place, buffer in framed:
            assert place.form.border is not None
            place.buffer = buffer
            framed_value = place.form.view(buffer.view(arena), place.shape)
            framed_value[...] = np.reshape(place.form.border.fill, (-1, *(1,) * (len(place.shape) - 2)))
        return arena


def alone(inputs: Sequence[Operand], step: Step) -> tuple[list[Call], Array]:
    """Return the calls of one step on separate memory, for timing and comparing, and the array that they fill.

    Inputs lie in the forms that the step wants, and hold the same numbers for every step; the output is plain.
    """

    def array(shape: Shape, layout: Layout, border: Border | None = None, dtype: np.dtype[Any] = FLOAT32) -> Array:
        found = form(shape, layout, border)
        return found.view(np.ones(found.memory(shape), dtype), shape)

    arrays = []
    for at, operand in enumerate(inputs):
        if operand.constant is not None:
            arrays.append(step.packs[at].make(operand.constant) if at in step.packs else operand.constant)
            continue
        border = step.border if at == 0 else None
        data = array(operand.shape, step.layout_of(at), border, operand.dtype)
        if border is not None:
            data[...] = np.reshape(border.fill, (-1, *(1,) * (len(operand.shape) - 2)))
        inside = border.inside(data) if border is not None else data
        inside[...] = np.resize(SAMPLE, operand.shape).astype(operand.dtype)
        arrays.append(data)
    scratch = [array(s.shape, step.layout if s.follows else Layout.PLANAR, dtype=s.dtype) for s in step.scratch]
    out = array(step.shape, step.layout, dtype=step.dtype_for(inputs))
    return (step.bind(arrays, out, scratch) if step.bind else []), out


def _wanted_forms(graph: Graph, steps: Sequence[Step]) -> Mapping[str, list[tuple[Form, bool]]]:
    """Return for each value the forms that its readers want, and whether they accept a view within a frame."""
    shapes = {node.outputs[0]: step.shape for node, step in zip(graph.nodes, steps, strict=True)}
    wanted: dict[str, list[tuple[Form, bool]]] = {}
    for node, step in zip(graph.nodes, steps, strict=True):
        for at, name in enumerate(node.inputs):
            if name in shapes:
                border = step.border if at == 0 else None
                wanted.setdefault(name, []).append((form(shapes[name], step.layout_of(at), border), step.strided))
    return wanted


def _own_form(step: Step, wanted: Sequence[tuple[Form, bool]], is_output: bool) -> Form:
    """Return the form without a frame: the step's layout, or that of all readers if the step can write either."""
    layouts = {found.layout for found, _ in wanted}
    free = step.either_out and not is_output and len(layouts) == 1
    return form(step.shape, layouts.pop() if free else step.layout)


def _output_form(step: Step, own: Form, wanted: Sequence[tuple[Form, bool]], is_output: bool) -> Form:
    """Return a form with a frame if the step can write it, a reader wants it, and all others can read within it."""
    borders = {found.border for found, _ in wanted if found.border is not None}
    if len(borders) != 1 or is_output or not step.strided_out:
        return own
    framed = form(step.shape, own.layout, borders.pop())
    others = [(found, strided) for found, strided in wanted if found.layout is own.layout and found != framed]
    suits = framed.layout is own.layout and all(strided for _, strided in others)
    return framed if suits and any(found == framed for found, _ in wanted) else own
