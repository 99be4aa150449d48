"""Runs operators that move elements or make shapes by plain loops."""

from __future__ import annotations

from math import prod

import numpy as np

from engine.graph import Array, Node, Shape


def reshape(node: Node, x: Array) -> Array:
    """Return the same numbers in the shape `shape`, in which 0 keeps a length and -1 stands for what is left."""
    keeps = not node.attributes.get("allowzero")
    sizes = [x.shape[axis] if size == 0 and keeps else size for axis, size in enumerate(node.attributes["shape"])]
    if -1 in sizes and not x.size:  # NumPy does not divide 0 by 0
        sizes[sizes.index(-1)] = 0
    return x.reshape(sizes)


def flatten(node: Node, x: Array) -> Array:
    """Reshape to two axes: those before `axis`, and the rest."""
    axis = node.attributes.get("axis", 1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def concat(node: Node, *parts: Array) -> Array:
    """Copy the parts one after another along an axis."""
    axis = node.attributes["axis"] % parts[0].ndim
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    out = np.zeros(shape, parts[0].dtype)
    start = 0
    for part in parts:
        for place in np.ndindex(part.shape):
            out[(*place[:axis], place[axis] + start, *place[axis + 1 :])] = part[place]
        start += part.shape[axis]
    return out


def split(node: Node, x: Array) -> tuple[Array, ...]:
    """Cut an axis into parts of the sizes `split`, or of the same size with a smaller last one."""
    axis, count = node.attributes.get("axis", 0) % x.ndim, len(node.outputs)
    each = -(-x.shape[axis] // count)
    sizes = node.attributes.get("split") or [min(each, x.shape[axis] - each * index) for index in range(count)]
    parts, start = [], 0
    for size in sizes:
        parts.append(x[(*(slice(None),) * axis, slice(start, start + size))])
        start += size
    return tuple(parts)


def slice_(node: Node, x: Array) -> Array:
    """Copy from `starts` to `ends` in `steps` along `axes`."""
    has, taken = node.attributes, [range(size) for size in x.shape]
    axes = has.get("axes", range(len(has["starts"])))
    steps = has.get("steps", (1,) * len(axes))
    for start, end, axis, step in zip(has["starts"], has["ends"], axes, steps, strict=True):
        size = x.shape[axis]
        if step < 0 and start < -size:  # one before the axis counts as its first
            start = -size
        taken[axis] = range(*slice(start, end, step).indices(size))
    out = np.zeros([len(places) for places in taken], x.dtype)
    for place in np.ndindex(out.shape):
        out[place] = x[tuple(taken[axis][at] for axis, at in enumerate(place))]
    return out


def transpose(node: Node, x: Array) -> Array:
    """Return the axes in the order of `perm`, or reversed."""
    order = node.attributes.get("perm") or tuple(reversed(range(x.ndim)))
    out = np.zeros([x.shape[axis] for axis in order], x.dtype)
    for place in np.ndindex(x.shape):
        out[tuple(place[axis] for axis in order)] = x[place]
    return out


def gather(node: Node, x: Array, indices: Array) -> Array:
    """Copy entries of one axis by their indices; negative ones count from its end."""
    axis = node.attributes.get("axis", 0) % x.ndim
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    out = np.zeros((*before, *indices.shape, *after), x.dtype)
    for left in np.ndindex(*before):
        for which in np.ndindex(indices.shape):
            for right in np.ndindex(*after):
                out[(*left, *which, *right)] = x[(*left, int(indices[which]), *right)]
    return out


def pad(node: Node, x: Array) -> Array:
    """Fill every place of the output from the input, by the mode's rule, or with `value`."""
    has, rank = node.attributes, x.ndim
    axes = [axis % rank for axis in has.get("axes", range(rank))]
    begin = {axis: has["pads"][index] for index, axis in enumerate(axes)}
    end = {axis: has["pads"][index + len(axes)] for index, axis in enumerate(axes)}
    out = np.zeros([size + begin.get(axis, 0) + end.get(axis, 0) for axis, size in enumerate(x.shape)], x.dtype)
    for place in np.ndindex(out.shape):
        at = [where - begin.get(axis, 0) for axis, where in enumerate(place)]
        if has.get("mode", "constant") == "constant":
            inside = all(0 <= where < size for where, size in zip(at, x.shape, strict=True))
            out[place] = x[tuple(at)] if inside else has.get("value", 0)
        else:
            lows = [max(0, -begin.get(axis, 0)) for axis in range(rank)]
            sizes = [size - max(0, -end.get(axis, 0)) for axis, size in enumerate(x.shape)]
            out[place] = x[tuple(map(_source, [has["mode"]] * rank, at, lows, sizes))]
    return out


def _source(mode: str, at: int, low: int, high: int) -> int:
    """Return the index from `low` to below `high` that the mode maps `at` to."""
    size = high - low
    if mode == "edge":
        return min(max(at, low), high - 1)
    if mode == "wrap":
        return low + (at - low) % size
    around = (at - low) % max(1, 2 * size - 2)  # reflect: forth and back, the ends once
    return low + (around if around < size else 2 * size - 2 - around)


def expand(node: Node, x: Array) -> Array:
    """Repeat what has length 1 until the input and `shape` have the same axes."""
    wanted = node.attributes["shape"]
    rank = max(x.ndim, len(wanted))
    own, asked = (1,) * (rank - x.ndim) + x.shape, (1,) * (rank - len(wanted)) + tuple(wanted)
    out = np.zeros([size if other == 1 else other for size, other in zip(own, asked, strict=True)], x.dtype)
    for place in np.ndindex(out.shape):
        out[place] = x.reshape(own)[tuple(0 if size == 1 else at for at, size in zip(place, own, strict=True))]
    return out


def tile(node: Node, x: Array) -> Array:
    """Repeat the input along each axis."""
    out = np.zeros([size * count for size, count in zip(x.shape, node.attributes["repeats"], strict=True)], x.dtype)
    for place in np.ndindex(out.shape):
        out[place] = x[tuple(at % size for at, size in zip(place, x.shape, strict=True))]
    return out


def depth_to_space(node: Node, x: Array) -> Array:
    """Take each pixel of a block from another channel."""
    block, columns_first = node.attributes["blocksize"], node.attributes.get("mode", "DCR") == "DCR"
    n, c, h, w = x.shape
    depth = c // block**2
    out = np.zeros((n, depth, h * block, w * block), x.dtype)
    for item, channel, row, column in np.ndindex(out.shape):
        within = row % block * block + column % block
        source = within * depth + channel if columns_first else channel * block**2 + within
        out[item, channel, row, column] = x[item, source, row // block, column // block]
    return out


def space_to_depth(node: Node, x: Array) -> Array:
    """Put the pixels of a block into different channels."""
    block, depth_first = node.attributes["blocksize"], node.attributes.get("mode") == "CRD"
    n, c, h, w = x.shape
    out = np.zeros((n, c * block**2, h // block, w // block), x.dtype)
    for item, channel, row, column in np.ndindex(x.shape):
        within = row % block * block + column % block
        target = channel * block**2 + within if depth_first else within * c + channel
        out[item, target, row // block, column // block] = x[item, channel, row, column]
    return out


def range_(node: Node, start: Array, limit: Array, delta: Array) -> Array:
    """Count from start to before limit in steps."""
    first, end, step = start.item(), limit.item(), delta.item()
    numbers: list[float] = []
    while len(numbers) * step < end - first if step > 0 else len(numbers) * step > end - first:
        numbers.append(first + len(numbers) * step)
    return np.array(numbers, start.dtype)


def shape(node: Node, x: Array) -> Array:
    """Return the lengths of the axes, or of some of them."""
    lengths: Shape = x.shape[node.attributes.get("start", 0) : node.attributes.get("end")]
    return np.array(lengths, np.int64)


def constant_of_shape(node: Node) -> Array:
    """Fill a shape with one number."""
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).ravel()
    return np.full(node.attributes["shape"], value[0], value.dtype)
