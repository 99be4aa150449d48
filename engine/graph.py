"""Defines Graph, Node and the errors: ONNX operator names and semantics, in NCHW, without extensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
FLOAT32 = np.dtype(np.float32)


class ModelError(Exception):
    """Signals a model that cannot be used; the message names what, where, what was expected and what was found."""


class UnsupportedOperator(ModelError):
    """Signals an operator, or a value of one of its attributes, that this engine does not run."""


@dataclass(frozen=True)
class Node:
    """Holds one ONNX operator.

    Attributes:
        op_type: ONNX name, such as 'Conv'.
        inputs: names of values; '' stands for an optional one left out.
        outputs: names of values.
        attributes: as ONNX names them: ints, floats, strings, tuples of these, or arrays.
        name: for messages; usually the PyTorch module's name ('layer1.0.conv1').
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


def reads(node: Node) -> tuple[str, ...]:
    """Return the names of all values that a node reads: its inputs, and those that its subgraphs take from outside."""
    names = dict.fromkeys(name for name in node.inputs if name)
    for branch in node.attributes.values():
        if isinstance(branch, Graph):
            own = {name for inner in branch.nodes for name in inner.outputs}
            used = [name for inner in branch.nodes for name in reads(inner)] + [value.name for value in branch.outputs]
            names |= dict.fromkeys(name for name in used if name not in own)
    return tuple(names)


def every_node(graph: Graph) -> Iterator[Node]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.nodes:
        yield node
        for branch in node.attributes.values():
            if isinstance(branch, Graph):
                yield from every_node(branch)


@dataclass(frozen=True)
class Value:
    """Describes a graph input or output. A dimension of 0 is free (the batch).

    `dtype` is the declared one; values declared in half precision are computed in float32.
    """

    name: str
    shape: Shape
    dtype: str = "float32"

    @property
    def computed(self) -> np.dtype[Any]:
        """The data type that the engine computes with."""
        return FLOAT32 if self.dtype == "float16" else np.dtype(self.dtype)


@dataclass(frozen=True)
class Graph:
    """Holds the nodes of a net in an order in which they can run.

    Attributes:
        name: the net's.
        inputs: the arguments of `run`.
        outputs: the results of `run`.
        nodes: topologically sorted.
        parameters: PyTorch `state_dict` names and shapes that `initializers` must hold, declared by a net's builder.
        initializers: arrays by name; empty until `bind`.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    parameters: Mapping[str, Shape] = field(default_factory=dict)
    initializers: Mapping[str, Array] = field(default_factory=dict)

    def bind(self, arrays: Mapping[str, Array]) -> Graph:
        """Return the same graph with its parameters' values, float32.

        Names of training statistics (`is_statistic`) are ignored.

        Raises:
            ModelError: a name is missing, unknown, or has another shape or kind.
        """
        extra = [name for name in arrays if name not in self.parameters and not is_statistic(name)]
        missing = [name for name in self.parameters if name not in arrays]
        if missing or extra:
            raise ModelError(
                f"parameters do not fit net '{self.name}': missing {_some(missing)}; not known {_some(extra)}"
            )
        bound: dict[str, Array] = {}
        for name, shape in self.parameters.items():
            array = np.asarray(arrays[name])
            if array.shape != tuple(shape):
                raise ModelError(
                    f"parameter '{name}' of net '{self.name}': expected shape {shape}, found {array.shape}"
                )
            if array.dtype.kind not in "fiu":
                raise ModelError(
                    f"parameter '{name}' of net '{self.name}': expected numbers, found dtype {array.dtype}"
                )
            bound[name] = np.ascontiguousarray(array, dtype=np.float32)
        return replace(self, initializers=bound)


def is_statistic(name: str) -> bool:
    """Return whether a name in a state_dict is no parameter, but a count of batches, or thop's of operations."""
    return name.rpartition(".")[2] in ("num_batches_tracked", "total_ops", "total_params")


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
