"""Computes axes and shapes of the operators that only rearrange their input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from engine.graph import ModelError, Node, Shape


def broadcasts(shape: Shape, target: Shape) -> bool:
    """Return whether an array of this shape can be broadcast to the target."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def reshaped(node: Node, shape: Shape) -> Shape:
    """Return the output shape of a Reshape, Squeeze, Unsqueeze or Flatten with its settings as attributes.

    Raises:
        ModelError: it has another number of elements, or there are no such axes.
    """
    found = _RESHAPERS[node.op_type](node, shape)
    if prod(found) != prod(shape) or any(size < 0 for size in found):
        raise ModelError(f"{node.op_type} '{node.name}': an input of shape {shape} does not fit {found}")
    return found


def slices(node: Node, shape: Shape) -> tuple[slice, ...]:
    """Return Python's slice of each axis for a Slice with its settings as attributes.

    Raises:
        ModelError: settings that do not fit together or the input.
    """
    starts, ends = node.attributes.get("starts"), node.attributes.get("ends")
    if starts is None or ends is None or len(starts) != len(ends):
        raise ModelError(f"Slice '{node.name}': starts {starts!r:.60} and ends {ends!r:.60} do not fit")
    axes = node.attributes.get("axes", tuple(range(len(starts))))
    steps = node.attributes.get("steps", (1,) * len(starts))
    if len(axes) != len(starts) or len(steps) != len(starts) or 0 in steps:
        raise ModelError(f"Slice '{node.name}': axes {axes!r:.60} or steps {steps!r:.60} do not fit {starts!r:.60}")
    taken = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = positive(node, axis, len(shape))
        first, last = _ends(start, end, step, shape[place])
        taken[place] = slice(first, None if last < 0 else last, step)
        if len(range(first, last, step)) == 0:
            taken[place] = slice(0, 0)
    return tuple(taken)


def _ends(start: int, end: int, step: int, size: int) -> tuple[int, int]:
    """Return where a slice starts and ends; unlike in Python, a backward one from before the axis takes its first."""
    start, end = (place + size if place < 0 else place for place in (start, end))
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size)
    return min(max(start, 0), size - 1), min(max(end, -1), size - 1)


def positive(node: Node, axis: int, rank: int) -> int:
    """Return an axis counted from the front; raises ModelError if there is no such axis."""
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise ModelError(f"{node.op_type} '{node.name}': axis {axis!r:.20}, but its input has {rank} axes")
    return axis % rank


def _reshape(node: Node, shape: Shape) -> Shape:
    wanted = list(node.attributes["shape"])
    for place, size in enumerate(wanted):
        if size == 0 and not node.attributes.get("allowzero"):
            if place >= len(shape):
                raise ModelError(f"Reshape '{node.name}': {tuple(wanted)} keeps an axis that {shape} lacks")
            wanted[place] = shape[place]
    if wanted.count(-1) == 1:
        known = -prod(wanted)
        wanted[wanted.index(-1)] = prod(shape) // known if known else 0
    return tuple(wanted)


def _squeeze(node: Node, shape: Shape) -> Shape:
    if not node.attributes.get("axes"):  # none or an empty list: all of length 1
        return tuple(size for size in shape if size != 1)
    gone = {positive(node, axis, len(shape)) for axis in node.attributes["axes"]}
    if any(shape[axis] != 1 for axis in gone):
        raise ModelError(f"Squeeze '{node.name}': axes {sorted(gone)} of {shape} are not all of length 1")
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _unsqueeze(node: Node, shape: Shape) -> Shape:
    axes = node.attributes.get("axes", ())
    rank = len(shape) + len(axes)
    places = {positive(node, axis, rank) for axis in axes}
    if len(places) != len(axes):
        raise ModelError(f"Unsqueeze '{node.name}': axes {axes!r:.60} name one twice")
    rest = iter(shape)
    return tuple(1 if axis in places else next(rest) for axis in range(rank))


def _flatten(node: Node, shape: Shape) -> Shape:
    axis = node.attributes.get("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise ModelError(f"Flatten '{node.name}': axis {axis}, but its input has {len(shape)} axes")
    return prod(shape[:axis]), prod(shape[axis:])


_RESHAPERS: Mapping[str, Callable[[Node, Shape], Shape]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
