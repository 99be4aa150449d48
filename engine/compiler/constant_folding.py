"""Constant folding: turns a graph from a file, for given input shapes, into one that a plan can hold.

Constants are computed (weights made by nodes, the arithmetic on shapes that exporters write), settings given as inputs
become attributes, and operators with a simpler equivalent are replaced by it. The nodes that remain have float32 data,
one output each, and kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from engine.attributes import inputs_to_attributes
from engine.compiler.constant_evaluation import FUNCTIONS, MAX_NUMBERS, dtype_of, evaluate
from engine.compiler.planner import make_plan
from engine.graph import Array, Graph, ModelError, Node, Shape, UnsupportedOperator, Value
from engine.kernels import KERNELS
from engine.kernels.step import Operand
from engine.shapes import positive


class NotPlannable(UnsupportedOperator):
    """Signals that something other than float32 is computed from data; `engine.interpreter` runs such graphs."""


def fold(graph: Graph, input_shapes: Sequence[Shape]) -> Graph:
    """Return the graph for inputs of these shapes; its outputs keep names and values, some perhaps as initializers.

    A net from `engine.nets` needs no folding and is returned unchanged.

    Raises:
        ModelError: shapes that do not fit, or settings that are computed from data.
        UnsupportedOperator: an operator, or an attribute's value, that the engine does not run.
    """
    return graph if graph.parameters else _Folder(graph, input_shapes).run()


def holds_for_any_batch(graph: Graph, folded: Graph, input_shapes: Sequence[Shape]) -> bool:
    """Return whether the graph, folded for these shapes, is the same for any other batch size.

    It is folded again for one more item: a constant that depends on the batch (a size, a row of zeros) then differs.
    """
    if graph.parameters:
        return True
    if any(value.shape[:1] != (0,) for value in graph.inputs):
        return False
    try:
        other = fold(graph, [(shape[0] + 1, *shape[1:]) for shape in input_shapes])
    except ModelError:
        return False
    used = {name for node in folded.nodes for name in node.inputs} | {value.name for value in folded.outputs}
    ones, others = folded.initializers, other.initializers
    return (
        len(folded.nodes) == len(other.nodes)
        and all(_equal(*pair) for pair in zip(folded.nodes, other.nodes, strict=True))
        and (used & ones.keys()) == (used & others.keys())
        and all(ones[name] is others[name] or np.array_equal(ones[name], others[name]) for name in used & ones.keys())
    )


def _equal(a: Node, b: Node) -> bool:
    plain = (a.op_type, a.inputs, a.outputs) == (b.op_type, b.inputs, b.outputs)
    same_keys = a.attributes.keys() == b.attributes.keys()
    return plain and same_keys and all(np.array_equal(value, b.attributes[key]) for key, value in a.attributes.items())


# Raised by a kernel whose node has attributes of the wrong kind, or too few inputs.
INVALID = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


class _Folder:
    """Folds the nodes in order and keeps the constants and shapes known so far."""

    def __init__(self, graph: Graph, input_shapes: Sequence[Shape]) -> None:
        self.graph = graph
        self.constants: dict[str, Array] = dict(graph.initializers)
        self.shapes = {value.name: tuple(shape) for value, shape in zip(graph.inputs, input_shapes, strict=True)}
        self.nodes: list[Node] = []
        self.left = MAX_NUMBERS  # budget of elements in computed constants
        self.wanted = {value.name for value in graph.outputs} | {name for node in graph.nodes for name in node.inputs}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            try:
                self.fold(inputs_to_attributes(node, self.constants))
            except INVALID as error:
                raise ModelError(
                    f"{node.op_type} '{node.name}' is invalid: {type(error).__name__}: {error!s:.80}"
                ) from error
        return replace(self.graph, nodes=tuple(self.nodes), initializers=self.constants)

    def shape(self, name: str) -> Shape:
        return self.constants[name].shape if name in self.constants else self.shapes[name]

    def fold(self, node: Node) -> None:
        rewrite = _aligned if "axis" in node.attributes and node.op_type in _ALIGNED else _REWRITES.get(node.op_type)
        known = all(name in self.constants for name in node.inputs)
        if rewrite is not None:
            for simpler in rewrite(self, node):
                self.fold(simpler)
        elif known:
            arrays = [self.constants[name] for name in node.inputs]
            made = evaluate(node, *arrays) if node.op_type in FUNCTIONS else self._by_plan(node)
            if made.base is None and not any(made is array for array in arrays):  # neither a view nor an input
                self.left -= made.size
            if self.left < 0:
                raise ModelError(
                    f"{node.op_type} '{node.name}': with {made.shape} the file's nodes make too many elements"
                )
            self.constants[node.outputs[0]] = made
        else:
            self._keep(node)

    def _by_plan(self, node: Node) -> Array:
        """Run a node with constant inputs by the kernel that a plan has for it."""
        self._check(node)
        arrays = {name: self.constants[name] for name in node.inputs}
        alone = Graph(node.name, (), (Value(node.outputs[0], ()),), (node,), initializers=arrays)
        return np.array(make_plan(alone, []).run())

    def _keep(self, node: Node) -> None:
        shape = self._check(replace(node, outputs=node.outputs[:1]))
        more = [name for name in node.outputs[1:] if name in self.wanted]
        if more:
            raise NotPlannable(
                f"{node.op_type} '{node.name}': its further output '{more[0]}' is not supported in plans"
            )
        self.shapes[node.outputs[0]] = shape
        self.nodes.append(self._for_any_batch(replace(node, outputs=node.outputs[:1])))

    def _for_any_batch(self, node: Node) -> Node:
        """Replace the first axis' length by "keep" if the node keeps it: workers may plan other batches."""
        if node.op_type == "Resize":
            return self._resize_for_any_batch(node)
        wanted, found = node.attributes.get("shape", ()), self.shapes.get(node.inputs[0], ()) if node.inputs else ()
        keeps = wanted and found and wanted[0] == found[0] and 0 not in found and not node.attributes.get("allowzero")
        if node.op_type != "Reshape" or not keeps:
            return node
        return replace(node, attributes={**node.attributes, "shape": (0, *wanted[1:])})

    def _resize_for_any_batch(self, node: Node) -> Node:
        has, shape = node.attributes, self.shapes[node.inputs[0]]
        sizes, plain = has.get("sizes", ()), has.get("keep_aspect_ratio_policy", "stretch") == "stretch"
        if not sizes or sizes[0] != shape[0] or not plain or "axes" in has or "roi" in has:
            return node
        return replace(node, attributes={**has, "sizes": sizes[1:], "axes": tuple(range(1, len(shape)))})

    def _check(self, node: Node) -> Shape:
        """Return the shape of the node's output; refuse a node that no kernel runs."""
        if node.op_type not in KERNELS:
            raise UnsupportedOperator(
                f"operator {node.op_type} ('{node.name}') is not supported; known are {', '.join(KERNELS)}"
            )
        operands = [Operand(self.shape(name), self.constants.get(name), name in self.constants) for name in node.inputs]
        for name, operand in zip(node.inputs, operands, strict=True):
            whole = operand.constant is not None and operand.constant.dtype != np.float32
            if whole and not (node.op_type == "Gather" and name == node.inputs[1]):
                raise NotPlannable(f"{node.op_type} '{node.name}': '{name}' is not float32")
        _check_padding(node, operands[0].shape if operands else ())
        step = next(step for kernel in KERNELS[node.op_type] if (step := kernel(node, operands)) is not None)
        for shape in (step.shape, *(scratch.shape for scratch in step.scratch)):
            if prod(shape) > MAX_NUMBERS:
                raise ModelError(f"{node.op_type} '{node.name}': it takes an array of shape {shape!r:.60}; too large")
        return step.shape

    def add_constant(self, name: str, array: Array) -> str:
        self.constants[name] = array
        return name


def _check_padding(node: Node, shape: Shape) -> None:
    """Refuse windows over more padding than memory holds, before a kernel counts them."""
    pads = node.attributes.get("pads", ())
    half = len(pads) // 2
    sides = zip(shape[-half:] if half else (), pads[:half], pads[half:], strict=False)
    if prod(size + abs(begin) + abs(end) for size, begin, end in sides) > MAX_NUMBERS:
        raise ModelError(f"{node.op_type} '{node.name}': pads={pads!r:.60} around {shape} are too large")


def _shape(folder: _Folder, node: Node) -> list[Node]:
    shape = folder.shape(node.inputs[0])
    taken = shape[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
    folder.add_constant(node.outputs[0], np.array(taken, np.int64))
    return []


def _cast(folder: _Folder, node: Node) -> list[Node]:
    if node.inputs[0] in folder.constants:
        folder.add_constant(node.outputs[0], evaluate(node, folder.constants[node.inputs[0]]))
        return []
    if dtype_of(node) is not np.float32:
        raise NotPlannable(f"Cast '{node.name}': to {dtype_of(node).__name__} of what is computed from data")
    return [replace(node, op_type="Identity", attributes={})]


def _dropout(folder: _Folder, node: Node) -> list[Node]:
    if node.attributes.get("training_mode"):
        raise UnsupportedOperator(f"Dropout '{node.name}': training_mode=True; only inference is supported")
    if len(node.outputs) > 1 and node.outputs[1]:
        folder.add_constant(node.outputs[1], np.ones(folder.shape(node.inputs[0]), bool))
    return [replace(node, op_type="Identity", attributes={}, outputs=node.outputs[:1])]


def _split(folder: _Folder, node: Node) -> list[Node]:
    shape, count = folder.shape(node.inputs[0]), len(node.outputs)
    axis = positive(node, node.attributes.get("axis", 0), len(shape))
    each = -(-shape[axis] // node.attributes.get("num_outputs", count))
    even = [max(0, min(each, shape[axis] - each * index)) for index in range(count)]
    sizes = node.attributes.get("split", even)
    if len(sizes) != count or sum(sizes) != shape[axis] or min(sizes) < 0:
        raise ModelError(f"Split '{node.name}': {shape[axis]} into {tuple(sizes)!r:.60} for {count} outputs")
    ends = np.cumsum(sizes).tolist()
    return [
        Node("Slice", node.inputs, (name,), {"starts": (end - size,), "ends": (end,), "axes": (axis,)}, node.name)
        for name, size, end in zip(node.outputs, sizes, ends, strict=True)
        if name
    ]


def _sum(folder: _Folder, node: Node) -> list[Node]:
    if len(node.inputs) == 1:
        return [replace(node, op_type="Identity")]
    names = [node.inputs[0], *(f"{node.outputs[0]}/{index}" for index in range(2, len(node.inputs))), node.outputs[0]]
    return [
        Node("Add", (names[index], other), (names[index + 1],), node.attributes, node.name)
        for index, other in enumerate(node.inputs[1:])
    ]


def _aligned(folder: _Folder, node: Node) -> list[Node]:
    """Replace `axis` of old operator sets: append axes of length 1 to the second input's shape."""
    x, y = (folder.shape(name) for name in node.inputs[:2])
    attributes = {key: value for key, value in node.attributes.items() if key != "axis"}
    behind = len(x) - positive(node, node.attributes["axis"], len(x)) - len(y) if len(y) else 0
    if behind < 0 or (node.op_type == "PRelu" and y == (1,)):
        behind = 0
    name = f"{node.outputs[0]}/aligned"
    reshape = Node("Reshape", node.inputs[1:2], (name,), {"shape": (*y, *(1,) * behind), "allowzero": 1}, node.name)
    return [reshape, replace(node, inputs=(node.inputs[0], name), attributes=attributes)]


Rewrite = Callable[[_Folder, Node], list[Node]]
_REWRITES: Mapping[str, Rewrite] = {
    "Cast": _cast,
    "Dropout": _dropout,
    "Shape": _shape,
    "Split": _split,
    "Sum": _sum,
}
_ALIGNED = ("Add", "Sub", "Mul", "Div", "PRelu")
