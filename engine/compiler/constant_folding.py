"""Constant folding: turns a graph from a file, for given input shapes, into one that a plan can hold.

Constants are computed (weights made by nodes, the arithmetic on shapes that exporters write), settings given as inputs
become attributes, and operators with a simpler equivalent are replaced by it. The nodes that remain have one output
each, and kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from engine.attributes import NotPlannable as NotPlannable
from engine.attributes import inputs_to_attributes
from engine.compiler.constant_evaluation import FUNCTIONS, MAX_NUMBERS, evaluate
from engine.compiler.planner import make_plan
from engine.graph import FLOAT32, Array, Graph, ModelError, Node, Shape, UnsupportedOperator, Value, reads
from engine.kernels import FUSED, KERNELS, KINDS
from engine.kernels.elementwise import BRAIN_HALF, CAST_TYPES, HALF
from engine.kernels.selection import INDICES
from engine.kernels.step import Layout, Operand, Step
from engine.shapes import positive


@dataclass(frozen=True)
class Folded:
    """Holds a graph of which a plan computes a part.

    Attributes:
        graph: for the plan; its outputs are those that do not depend on `late`, and what `late` reads.
        late: the nodes to run afterwards, on values of known arrays; their shapes or settings follow from data.
    """

    graph: Graph
    late: tuple[Node, ...]


def fold(graph: Graph, input_shapes: Sequence[Shape]) -> Graph:
    """Return the graph for inputs of these shapes; its outputs keep names and values, some perhaps as initializers.

    A net from `engine.nets` needs no folding and is returned unchanged.

    Raises:
        ModelError: shapes that do not fit, or settings that are computed from data.
        UnsupportedOperator: an operator, or an attribute's value, that the engine does not run.
    """
    return graph if graph.parameters else _Folder(graph, input_shapes).run().graph


def fold_early(graph: Graph, input_shapes: Sequence[Shape]) -> Folded:
    """Return what a plan can compute of the graph, and the nodes that only `run_late` can; errors as for `fold`."""
    return _Folder(graph, input_shapes, postpones=True).run()


def run_late(graph: Graph, nodes: Sequence[Node], values: Mapping[str, Array]) -> Mapping[str, Array]:
    """Run nodes of a graph on the values that they read, and return all that are known then; errors as for `fold`."""
    arrays = {**graph.initializers, **values}
    folder = _Folder(replace(graph, inputs=(), nodes=tuple(nodes), initializers=arrays), [])
    folder.run()
    return folder.constants


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

    def __init__(self, graph: Graph, input_shapes: Sequence[Shape], *, postpones: bool = False) -> None:
        self.graph = graph
        self.postpones = postpones
        self.constants: dict[str, Array] = dict(graph.initializers)
        self.shapes = {value.name: tuple(shape) for value, shape in zip(graph.inputs, input_shapes, strict=True)}
        self.dtypes = {value.name: value.computed for value in graph.inputs}
        self.nodes: list[Node] = []
        self.late: list[Node] = []
        self.unknown: set[str] = set()  # outputs of `late`
        self.left = MAX_NUMBERS  # budget of elements in computed constants
        self.wanted = {value.name for value in graph.outputs} | {name for node in graph.nodes for name in reads(node)}

    def run(self) -> Folded:
        for node in self.graph.nodes:
            if self.unknown.intersection(reads(node)):
                self._postpone(node)
                continue
            try:
                self.fold(node)
            except NotPlannable:
                if not self.postpones:
                    raise
                self._postpone(node)
            except INVALID as error:
                raise ModelError(
                    f"{node.op_type} '{node.name}' is invalid: {type(error).__name__}: {error!s:.80}"
                ) from error
        outputs = {value.name: value for value in self.graph.outputs if value.name not in self.unknown}
        if self.late:
            names = {name for node in self.late for name in reads(node)} & {*self.shapes, *self.constants}
            outputs |= {name: Value(name, ()) for name in sorted(names - outputs.keys() - self.unknown)}
        else:
            outputs = {str(index): value for index, value in enumerate(self.graph.outputs)}
        folded = replace(
            self.graph, outputs=tuple(outputs.values()), nodes=tuple(self.nodes), initializers=self.constants
        )
        return Folded(folded, tuple(self.late))

    def _postpone(self, node: Node) -> None:
        check_supported([node])
        self.late.append(node)
        self.unknown |= set(node.outputs)

    def shape(self, name: str) -> Shape:
        return self.constants[name].shape if name in self.constants else self.shapes[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.constants[name].dtype if name in self.constants else self.dtypes[name]

    def fold(self, node: Node) -> None:
        node = inputs_to_attributes(node, self.constants)
        rewrite = _REWRITES.get(node.op_type)
        if "axis" in node.attributes and node.op_type in _ALIGNED:
            rewrite = _aligned
        elif node.op_type in KERNELS and not KINDS.get(node.op_type) and self._are_double(node):
            rewrite = _single
        elif node.op_type in _SELECTING and len(node.outputs) == 1 and self.dtype(node.inputs[0]).name in _SMALL:
            rewrite = _small
        if rewrite is not None:
            for simpler in rewrite(self, node):
                self.fold(simpler)
        elif all(name in self.constants for name in node.inputs):
            self._compute(node)
        else:
            self._keep(node)

    def _are_double(self, node: Node) -> bool:
        dtypes = [self.dtype(name) for name in node.inputs]
        return all(dtype.kind == "f" for dtype in dtypes) and any(dtype != FLOAT32 for dtype in dtypes)

    def _compute(self, node: Node) -> None:
        """Compute a node with constant inputs."""
        arrays = [self.constants[name] for name in node.inputs]
        several = any(name in self.wanted for name in node.outputs[1:])
        if node.op_type in FUNCTIONS:
            found: tuple[Array, ...] = (evaluate(node, *arrays),)
        else:
            found = _by_loops(node, arrays) if several else self._by_kernel(node, arrays)
        for name, made in zip(node.outputs, found, strict=False):
            if made.base is None and not any(made is array for array in arrays):  # neither a view nor an input
                self.left -= made.size
            if self.left < 0:
                raise ModelError(
                    f"{node.op_type} '{node.name}': with {made.shape} the file's nodes make too many elements"
                )
            self.constants[name] = made

    def _by_kernel(self, node: Node, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run a node by the kernel that a plan has for it; a data type that kernels lack by the plain loops."""
        try:
            step = self._check(node)
        except NotPlannable:
            return _by_loops(node, arrays)
        if step.layout is not Layout.LAST and not step.packs and step.border is None and step.input_layout is None:
            return (_run_alone(step, arrays),)
        constants = dict(zip(node.inputs, arrays, strict=True))
        alone = Graph(node.name, (), (Value(node.outputs[0], ()),), (node,), initializers=constants)
        return (np.array(make_plan(alone, []).run()),)

    def _keep(self, node: Node) -> None:
        if more := [name for name in node.outputs[1:] if name in self.wanted]:
            raise NotPlannable(
                f"{node.op_type} '{node.name}': its further output '{more[0]}' is not supported in plans"
            )
        node = replace(node, outputs=node.outputs[:1])
        step = self._check(node)
        self.shapes[node.outputs[0]] = step.shape
        self.dtypes[node.outputs[0]] = step.dtype_for(self._operands(node))
        self.nodes.append(self._for_any_batch(node))

    def _check_kinds(self, node: Node) -> None:
        """Refuse data types that no kernel of the node takes."""
        kinds = KINDS.get(node.op_type, "")
        for name in node.inputs:
            dtype = self.dtype(name)
            if dtype.kind not in kinds if kinds else dtype != FLOAT32:
                looped = node.op_type in _LOOPED and dtype.kind in "iu"
                refusal = NotPlannable if looped else UnsupportedOperator
                raise refusal(f"{node.op_type} '{node.name}': no kernel for '{name}' of {dtype.name}")

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

    def _operands(self, node: Node) -> list[Operand]:
        return [
            Operand.of(self.constants[name])
            if name in self.constants
            else Operand(self.shapes[name], dtype=self.dtypes[name])
            for name in node.inputs
        ]

    def _check(self, node: Node) -> Step:
        """Return the step of a kernel for the node; refuse a node that no kernel runs."""
        if node.op_type in FUNCTIONS and node.op_type not in KERNELS:
            raise NotPlannable(f"{node.op_type} '{node.name}': the shape of its output depends on data")
        if node.op_type not in KERNELS and node.op_type not in FUSED:
            check_supported([node])
        self._check_kinds(node)
        operands = self._operands(node)
        _check_padding(node, operands[0].shape if operands else ())
        kernels = KERNELS.get(node.op_type) or FUSED[node.op_type]
        step = next(step for kernel in kernels if (step := kernel(node, operands)) is not None)
        for shape in (step.shape, *(scratch.shape for scratch in step.scratch)):
            if prod(shape) > MAX_NUMBERS:
                raise ModelError(f"{node.op_type} '{node.name}': it takes an array of shape {shape!r:.60}; too large")
        return step

    def add_constant(self, name: str, array: Array) -> str:
        self.constants[name] = array
        return name


def _by_loops(node: Node, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Return the outputs by the plain loops, which are correct but slow."""
    from engine.reference import run_outputs  # lazy: workers, which only run plans, do not load it

    return run_outputs(node, *arrays)


def _run_alone(step: Step, arrays: Sequence[Array]) -> Array:
    """Return the output of a planar step on arrays."""
    sources = [np.ascontiguousarray(array).reshape(array.shape) for array in arrays]
    if step.bind is None:
        return sources[0].reshape(step.shape)
    out = np.empty(step.shape, step.dtype_for([Operand.of(array) for array in arrays]))
    for call in step.bind(sources, out, [np.empty(room.shape, room.dtype) for room in step.scratch]):
        call()
    return out


def check_supported(nodes: Iterable[Node]) -> None:
    """Refuse nodes of operators that the engine lacks; the message names all of them.

    Raises:
        UnsupportedOperator: there are any.
    """
    lacking: dict[str, list[str]] = {}
    for node in nodes:
        if node.op_type not in KERNELS and node.op_type not in FUNCTIONS and node.op_type not in _REWRITES:
            lacking.setdefault(node.op_type, []).append(node.name)
    if lacking:
        named = [
            f"{op} ('{names[0]}'{f' and {len(names) - 1} more' * (len(names) > 1)})" for op, names in lacking.items()
        ]
        plural = "s" if len(lacking) > 1 else ""
        raise UnsupportedOperator(f"operator{plural} {', '.join(named)} {'are' if plural else 'is'} not supported")


# Operators that ONNX defines for whole numbers too, and that only the plain loops run on these.
_LOOPED = ("Gemm", "MatMul", "MaxPool", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean")


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
    to, (name,) = node.attributes.get("to"), node.inputs
    if to not in CAST_TYPES:
        raise UnsupportedOperator(f"Cast '{node.name}': to={to!r:.20}; supported are {', '.join(map(str, CAST_TYPES))}")
    if to in _PLAIN_TYPES and folder.dtype(name) == CAST_TYPES[to]:
        return [replace(node, op_type="Identity", attributes={})]
    if name in folder.constants:
        folder._compute(node)
    else:
        folder._keep(node)
    return []


_PLAIN_TYPES = CAST_TYPES.keys() - {HALF, BRAIN_HALF}


def _single(folder: _Folder, node: Node) -> list[Node]:
    """Compute a node of float64 in float32, which is all that its kernels take; the error is 1e-7 of its numbers."""
    nodes, names = [], list(node.inputs)
    for at, name in enumerate(node.inputs):
        if folder.dtype(name) != FLOAT32:
            names[at] = f"{node.outputs[0]}/single {at}"
            nodes.append(Node("Cast", (name,), (names[at],), {"to": 1}, node.name))
    made = f"{node.outputs[0]}/single"
    nodes.append(replace(node, inputs=tuple(names), outputs=(made, *node.outputs[1:])))
    return [*nodes, Node("Cast", (made,), node.outputs[:1], {"to": 11}, node.name)]


_SELECTING = ("GlobalMaxPool", "MaxPool")
_SMALL = ("int8", "uint8", "int16", "uint16")


def _small(folder: _Folder, node: Node) -> list[Node]:
    """Take the largest of small whole numbers in float32, which holds them exactly."""
    dtype, y = folder.dtype(node.inputs[0]), node.outputs[0]
    code = next(code for code in _PLAIN_TYPES if CAST_TYPES[code] == dtype)
    return [
        Node("Cast", node.inputs, (f"{y}/single 0",), {"to": 1}, node.name),
        replace(node, inputs=(f"{y}/single 0",), outputs=(f"{y}/single",)),
        Node("Cast", (f"{y}/single",), node.outputs, {"to": code}, node.name),
    ]


def _cast_like(folder: _Folder, node: Node) -> list[Node]:
    wanted = folder.dtype(node.inputs[1])
    code = next(code for code in sorted(_PLAIN_TYPES) if CAST_TYPES[code] == wanted)
    return [replace(node, op_type="Cast", inputs=node.inputs[:1], attributes={"to": code})]


def _limited(folder: _Folder, node: Node) -> list[Node]:
    """Replace Relu and Clip of whole numbers by Max and Min."""
    dtype, limits = folder.dtype(node.inputs[0]), {"min": 0} if node.op_type == "Relu" else node.attributes
    if dtype.kind == "f":
        folder._compute(node) if node.inputs[0] in folder.constants else folder._keep(node)
        return []
    nodes, x = [], node.inputs[0]
    for name, op_type in (("min", "Max"), ("max", "Min")):
        if name in limits:
            limit = folder.add_constant(f"{node.outputs[0]}/{name}", np.array(limits[name]).astype(dtype))
            nodes.append(Node(op_type, (x, limit), (f"{node.outputs[0]}/by {op_type}",), {}, node.name))
            x = nodes[-1].outputs[0]
    return [*nodes, Node("Identity", (x,), node.outputs, {}, node.name)]


def _top_k(folder: _Folder, node: Node) -> list[Node]:
    """Replace TopK by the search for the indices and a copy of the numbers there."""
    indices = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1] else f"{node.outputs[0]}/indices"
    axis = node.attributes.get("axis", -1)
    nodes = [replace(node, op_type=INDICES, outputs=(indices,))]
    if node.outputs[0] in folder.wanted:
        nodes.append(Node("GatherElements", (node.inputs[0], indices), node.outputs[:1], {"axis": axis}, node.name))
    return nodes


def _if(folder: _Folder, node: Node) -> list[Node]:
    """Replace If by the nodes of the branch that a constant condition selects."""
    if node.inputs[0] not in folder.constants:
        raise NotPlannable(f"If '{node.name}': its condition '{node.inputs[0]}' is computed from data")
    condition = folder.constants[node.inputs[0]]
    if condition.size != 1:
        raise ModelError(f"If '{node.name}': a condition of shape {condition.shape}")
    branch: Graph = node.attributes["then_branch" if condition.item() else "else_branch"]
    ends = zip(branch.outputs, node.outputs, strict=True)
    return [*branch.nodes, *(Node("Identity", (value.name,), (name,), {}, node.name) for value, name in ends)]


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
    "CastLike": _cast_like,
    "Clip": _limited,
    "Dropout": _dropout,
    "If": _if,
    "Relu": _limited,
    "Shape": _shape,
    "Split": _split,
    "Sum": _sum,
    "TopK": _top_k,
}
_ALIGNED = ("Add", "Sub", "Mul", "Div", "PRelu")
