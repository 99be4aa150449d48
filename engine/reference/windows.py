"""Enumerates the windows of convolutions and pools, after ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor
from typing import Any

import numpy as np

from engine.graph import Node, Shape

Slide = tuple[list[int], list[int]]  # along one axis: where windows start (below 0 in the padding), and their taps


def slides_of(node: Node, size: Shape, kernel: Shape) -> list[Slide]:
    """Return where the windows along each axis start, and their taps."""
    strides, dilations = per_axis(node, "strides", size), per_axis(node, "dilations", size)
    rounding = ceil if node.attributes.get("ceil_mode") else floor
    slides = []
    for axis, (begin, end) in enumerate(zip(*padding_of(node, size, kernel), strict=True)):
        taps = [tap * dilations[axis] for tap in range(kernel[axis])]
        last = rounding((size[axis] + begin + end - taps[-1] - 1) / strides[axis]) * strides[axis] - begin
        starts = list(range(-begin, last + 1, strides[axis]))
        # A window that ceil_mode adds may not start in the padding after the input.
        slides.append(([s for s in starts if s < size[axis]] if rounding is ceil else starts, taps))
    return slides


def padding_of(node: Node, size: Shape, kernel: Shape) -> tuple[Shape, Shape]:
    """Return the padding before and after each axis."""
    mode, rank = node.attributes.get("auto_pad", "NOTSET"), len(size)
    if mode == "NOTSET":
        pads = tuple(node.attributes.get("pads") or (0,) * 2 * rank)
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    strides, dilations = per_axis(node, "strides", size), per_axis(node, "dilations", size)
    begin, end = [], []
    for axis in range(rank):
        windows = ceil(size[axis] / strides[axis])
        reach = (windows - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(reach - size[axis], 0)
        before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begin.append(before)
        end.append(total - before)
    return tuple(begin), tuple(end)


def taps_of(
    slides: list[Slide], place: list[int], size: Shape, begin: Shape | None = None, end: Shape | None = None
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (tap, position) for each tap of a window in the input, or in its padding if that is given."""
    begin, end = begin or (0,) * len(size), end or (0,) * len(size)
    for tap in np.ndindex(*(len(taps) for _, taps in slides)):
        at = tuple(slides[axis][0][place[axis]] + slides[axis][1][tap[axis]] for axis in range(len(size)))
        if all(-begin[axis] <= at[axis] < size[axis] + end[axis] for axis in range(len(size))):
            yield tap, at


def per_axis(node: Node, name: str, size: Shape) -> Any:
    """Return an attribute with one number for each axis, 1 if the node lacks it."""
    return node.attributes.get(name) or (1,) * len(size)


def nan_first(number: float) -> tuple[bool, float]:
    """Return a sort key with NaN as the largest number, as in np.maximum."""
    return number != number, number
