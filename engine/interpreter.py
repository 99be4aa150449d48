"""Runs graphs from files on given arrays, which may be data, shapes or weights; `Model.run` uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.attributes import check_kinds, wanted_by_value
from engine.compiler.constant_folding import INVALID, NotPlannable, fold
from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import standard
from engine.compiler.planner import plan_prepared, prepare
from engine.graph import Array, Graph, ModelError
from engine.lazy_weights import release
from engine.plan import Plan
from engine.reference import run_graph


class Interpreter:
    """Holds a graph prepared for inputs of fixed shapes and, if it depends on them, fixed values.

    Inputs that are shapes, settings or parameters of nodes, or empty, become constants; all that follows from them is
    computed once. A graph that computes anything but float32 from data (the indices of MaxPool) runs by the plain
    loops of `engine.reference`, which are correct but slow.

    Args:
        graph: with its values.
        inputs: one array for each of its inputs, of the declared data types.

    Raises:
        ModelError, UnsupportedOperator: as `engine.compiler.constant_folding.fold` and `make_plan`.
        ValueError: an array of another data type than its input's.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Array]) -> None:
        _check(graph, inputs)
        fixed = wanted_by_value(graph)
        given = {value.name: array for value, array in zip(graph.inputs, inputs, strict=True)}
        self._values = {
            name: np.array(array)
            for name, array in given.items()
            if name in fixed or array.size == 0 or not graph.nodes
        }
        self._open = [index for index, value in enumerate(graph.inputs) if value.name not in self._values]
        self._shapes = [array.shape for array in inputs]
        self._names = [value.name for value in graph.inputs]
        rest = replace(
            graph,
            inputs=tuple(graph.inputs[index] for index in self._open),
            initializers={**graph.initializers, **self._values},
        )
        self._graph: Graph | None = None
        try:
            folded = fold(rest, [self._shapes[index] for index in self._open])
        except NotPlannable:
            for node in graph.nodes:
                check_kinds(node)
            self._graph = graph
            return
        self._constant = {
            index: folded.initializers[value.name]
            for index, value in enumerate(folded.outputs)
            if value.name in folded.initializers
        }
        outputs = tuple(value for index, value in enumerate(folded.outputs) if index not in self._constant)
        # Inputs of which only the shape matters are not read.
        used = {name for node in folded.nodes for name in node.inputs} | {value.name for value in outputs}
        self._open = [index for index in self._open if self._names[index] in used]
        folded = replace(folded, outputs=outputs, inputs=tuple(value for value in folded.inputs if value.name in used))
        shapes = [self._shapes[index] for index in self._open]
        self._plan: Plan | None = None
        if outputs:
            prepared = prepare(optimise(folded), shapes, standard())
            del rest, folded  # they hold the original parameters, as large as the plan's
            release(graph)
            self._plan = plan_prepared(prepared, shapes, standard())

    def fits(self, inputs: Sequence[Array]) -> bool:
        """Return whether it was prepared for inputs of these shapes and values."""
        return [array.shape for array in inputs] == self._shapes and all(
            np.array_equal(self._values[name], array)
            for name, array in zip(self._names, inputs, strict=True)
            if name in self._values
        )

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return all outputs, new arrays."""
        if self._graph is not None:
            try:
                return run_graph(self._graph, *inputs)
            except INVALID as error:
                name = self._graph.name
                raise ModelError(f"net '{name}' is invalid: {type(error).__name__}: {error!s:.80}") from error
        found: tuple[Array, ...] = ()
        if self._plan is not None:
            made = self._plan.run(*(np.asarray(inputs[index], np.float32) for index in self._open))
            found = made if isinstance(made, tuple) else (made,)
        rest = iter(found)
        return tuple(
            self._constant[index].copy() if index in self._constant else next(rest).copy()
            for index in range(len(self._constant) + len(found))
        )


def _check(graph: Graph, inputs: Sequence[Array]) -> None:
    if len(inputs) != len(graph.inputs):
        raise ModelError(f"net '{graph.name}' takes {len(graph.inputs)} inputs, {len(inputs)} are given")
    for value, array in zip(graph.inputs, inputs, strict=True):
        if array.dtype.name != value.dtype:
            raise ValueError(f"input '{value.name}': expected {value.dtype}, found {array.dtype}")
        if len(value.shape) != array.ndim or any(
            want not in (0, have) for want, have in zip(value.shape, array.shape, strict=True)
        ):
            raise ModelError(f"net '{graph.name}': input '{value.name}' is {value.shape}, found {array.shape}")
