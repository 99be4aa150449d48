"""Runs by plain loops what finds and takes elements: ArgMax, TopK, GatherElements, NonMaxSuppression, NonZero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from engine.graph import Array, Node


def _sort_key(number: Any, largest: bool) -> tuple[Any, ...]:
    """Return a key that orders numbers as wanted; NaN counts as the largest."""
    strange = number != number
    return (not strange if largest else strange, 0 if strange else -number if largest else number)


def _along(x: Array, axis: int) -> Array:
    return np.moveaxis(x, axis, -1)


def arg(node: Node, x: Array, *, largest: bool) -> Array:
    """Return the index of the largest or smallest number along an axis, the first or last of equals."""
    axis = node.attributes.get("axis", 0) % x.ndim
    rows = _along(x, axis)
    out = np.zeros(rows.shape[:-1], np.int64)
    for place in np.ndindex(out.shape):
        row = [number.item() for number in rows[place]]
        strange = [at for at, number in enumerate(row) if number != number]
        best = strange or [at for at, number in enumerate(row) if number == (max if largest else min)(row)]
        out[place] = best[-1 if node.attributes.get("select_last_index") else 0]
    return np.expand_dims(out, axis) if node.attributes.get("keepdims", 1) else out


def top_k(node: Node, x: Array) -> tuple[Array, Array]:
    """Return the k best numbers along an axis and their indices, the lower index first among equals."""
    axis, k = node.attributes.get("axis", -1), node.attributes["k"]
    largest = bool(node.attributes.get("largest", 1))
    rows = _along(x, axis)
    values, indices = np.zeros((*rows.shape[:-1], k), x.dtype), np.zeros((*rows.shape[:-1], k), np.int64)
    for place in np.ndindex(rows.shape[:-1]):
        row = [number.item() for number in rows[place]]
        order = sorted(range(len(row)), key=lambda at: (*_sort_key(row[at], largest), at))[:k]
        values[place], indices[place] = [row[at] for at in order], order
    return np.moveaxis(values, -1, axis), np.moveaxis(indices, -1, axis)


def gather_elements(node: Node, x: Array, indices: Array) -> Array:
    """Take the element at each place, but with the index given there along the axis."""
    axis = node.attributes.get("axis", 0) % x.ndim
    out = np.zeros(indices.shape, x.dtype)
    for place in np.ndindex(out.shape):
        out[place] = x[(*place[:axis], int(indices[place]), *place[axis + 1 :])]
    return out


def non_zero(node: Node, x: Array) -> Array:
    """Return the places of all numbers that are not 0, one column each."""
    places = [place for place in np.ndindex(np.atleast_1d(x).shape) if np.atleast_1d(x)[place]]
    return np.array(places, np.int64).reshape(-1, max(x.ndim, 1)).T


def non_max_suppression(
    node: Node, boxes: Array, scores: Array, limit: Any = 0, overlap: Any = 0.0, score: Any = None
) -> Array:
    """Keep boxes by falling score, for each batch and class, if they overlap none that is kept by more than a share."""
    kept: list[tuple[int, int, int]] = []
    for batch, label in np.ndindex(*scores.shape[:2]):
        own: list[int] = []
        row = [float(number) for number in scores[batch, label]]
        for place in sorted(range(len(row)), key=lambda at: (-row[at], at)):
            low = score is not None and row[place] <= float(np.ravel(score)[0])
            if low or len(own) >= int(np.ravel(limit)[0]):
                continue
            rivals = (_overlap(node, boxes[batch, place], boxes[batch, other]) for other in own)
            if all(share <= float(np.ravel(overlap)[0]) for share in rivals):
                own.append(place)
        kept += [(batch, label, place) for place in own]
    return np.array(kept, np.int64).reshape(-1, 3)


def _overlap(node: Node, a: Array, b: Array) -> float:
    """Return the common area of two boxes over the area of their union."""
    edges = []
    for box in (a, b):
        p, q, r, s = (float(number) for number in box)
        if node.attributes.get("center_point_box"):
            p, q, r, s = p - r / 2, q - s / 2, p + r / 2, q + s / 2
        edges.append((min(p, r), min(q, s), max(p, r), max(q, s)))
    width = min(edges[0][2], edges[1][2]) - max(edges[0][0], edges[1][0])
    height = min(edges[0][3], edges[1][3]) - max(edges[0][1], edges[1][1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in edges]
    common = max(width, 0) * max(height, 0)
    return common / (sum(areas) - common) if common and min(areas) > 0 else 0.0


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "ArgMax": partial(arg, largest=True),
    "ArgMin": partial(arg, largest=False),
    "GatherElements": gather_elements,
    "NonMaxSuppression": non_max_suppression,
    "NonZero": non_zero,
    "TopK": top_k,
    "TopKIndices": lambda node, x: top_k(node, x)[1],
}
