"""Runs graphs from files on given arrays, which may be data, shapes or weights; `Model.run` uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.attributes import wanted_by_value
from engine.compiler.cleanup import drop_dead
from engine.compiler.constant_folding import fold_early, run_late
from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import standard
from engine.compiler.planner import plan_prepared, prepare
from engine.graph import Array, Graph, ModelError, Value
from engine.lazy_weights import release
from engine.plan import Plan


class Interpreter:
    """Holds a graph prepared for inputs of fixed shapes and, if it depends on them, fixed values.

    Inputs that are shapes, settings or parameters of nodes, or empty, become constants; all that follows from them is
    computed once. Nodes that no plan can hold, because shapes or settings follow from data, run after the plan one by
    one.

    Args:
        graph: with its values.
        inputs: one array for each of its inputs, of the declared data types.

    Raises:
        ModelError, UnsupportedOperator: as `engine.compiler.constant_folding.fold` and `make_plan`.
        ValueError: an array of another data type than its input's.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Array]) -> None:
        _check(graph, inputs)
        self._outputs, self._inputs = graph.outputs, graph.inputs
        self._shapes = {value.name: array.shape for value, array in zip(graph.inputs, inputs, strict=True)}
        fixed = wanted_by_value(graph)
        self._values = {
            value.name: np.array(array, value.computed)
            for value, array in zip(graph.inputs, inputs, strict=True)
            if value.name in fixed or array.size == 0 or not graph.nodes
        }
        free = tuple(value for value in graph.inputs if value.name not in self._values)
        rest = replace(graph, inputs=free, initializers={**graph.initializers, **self._values})
        folded = fold_early(rest, [self._shapes[value.name] for value in free])
        self._late, made = folded.late, folded.graph
        needed = {value.name for value in made.outputs}
        self._known = {name: made.initializers[name] for name in needed & made.initializers.keys()}
        self._computed = sorted(needed - self._known.keys() - self._shapes.keys())
        made = drop_dead(replace(made, outputs=tuple(Value(name, ()) for name in self._computed)))
        # Inputs of which only the shape matters are not read.
        used = {name for node in made.nodes for name in node.inputs}
        made = replace(made, inputs=tuple(value for value in made.inputs if value.name in used))
        self._read = [value.name for value in made.inputs]
        self._plan: Plan | None = None
        if self._computed:
            shapes = [self._shapes[name] for name in self._read]
            prepared = prepare(optimise(made), shapes, standard())
            del rest, folded, made  # they hold the original parameters, as large as the plan's
            release(graph)
            self._plan = plan_prepared(prepared, shapes, standard())

    def fits(self, inputs: Sequence[Array]) -> bool:
        """Return whether it was prepared for inputs of these shapes and values."""
        return all(
            array.shape == self._shapes[value.name]
            and (value.name not in self._values or np.array_equal(self._values[value.name], array))
            for value, array in zip(self._inputs, inputs, strict=True)
        )

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return all outputs, new arrays of the declared data types."""
        values = dict(self._known)
        for value, array in zip(self._inputs, inputs, strict=True):
            values[value.name] = np.asarray(array, value.computed)
        if self._plan is not None:
            found = self._plan.run(*(values[name] for name in self._read))
            values |= dict(zip(self._computed, found if isinstance(found, tuple) else (found,), strict=True))
        if self._late:
            wanted = Graph("late", (), self._outputs, ())
            values |= run_late(wanted, self._late, values)
        with np.errstate(over="ignore"):  # of half precision, to infinity
            return tuple(np.array(values[value.name], _declared(value, values)) for value in self._outputs)


def run_empty(graph: Graph, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """Return the outputs for a batch of no items, which kernels do not take: of two items, without them.

    Raises:
        ModelError: an output does not have one entry for each item.
    """
    pair = [np.zeros((2, *array.shape[1:]), array.dtype) for array in inputs]
    found = Interpreter(graph, pair).run(pair)
    if any(array.shape[:1] != (2,) for array in found):
        raise ModelError(f"net '{graph.name}' cannot run an empty batch: its outputs do not follow the batch")
    return tuple(array[:0] for array in found)


def _declared(value: Value, values: Mapping[str, Array]) -> np.dtype[Any]:
    """Return the data type of an output: that of its numbers, but floats are as declared."""
    found = values[value.name].dtype
    both = value.dtype and found.kind == np.dtype(value.dtype).kind == "f"
    return np.dtype(value.dtype) if both else found


def _check(graph: Graph, inputs: Sequence[Array]) -> None:
    if len(inputs) != len(graph.inputs):
        raise ModelError(f"net '{graph.name}' takes {len(graph.inputs)} inputs, {len(inputs)} are given")
    for value, array in zip(graph.inputs, inputs, strict=True):
        if array.dtype.name not in (value.dtype, value.computed.name):
            raise ValueError(f"input '{value.name}': expected {value.dtype}, found {array.dtype}")
        if len(value.shape) != array.ndim or any(
            want not in (0, have) for want, have in zip(value.shape, array.shape, strict=True)
        ):
            raise ModelError(f"net '{graph.name}': input '{value.name}' is {value.shape}, found {array.shape}")
