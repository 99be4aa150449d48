"""Copies (Concat, Slice, Transpose, Gather, Pad) or makes views (Reshape, Flatten, Identity, Dropout)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import Call, Layout, Operand, Scratch, Step, attributes, scalar, unsupported
from engine.shapes import positive, reshaped, slices

# Made by `compiler.fusion.fuse_shuffles`. Inputs: one value, or as many parts of equal size as the attribute `group`.
SHUFFLE = "ChannelShuffle"


def reshape(node: Node, inputs: Sequence[Operand]) -> Step:
    """View the input in another shape: Reshape, Squeeze and Unsqueeze."""
    attributes(node, shape=(), allowzero=0, axes=())
    return Step(reshaped(node, inputs[0].shape), None)


def flatten(node: Node, inputs: Sequence[Operand]) -> Step:
    """View the input with two axes: the product of those before `axis`, and of the rest."""
    attributes(node, axis=1)
    return Step(reshaped(node, inputs[0].shape), None)


def identity(node: Node, inputs: Sequence[Operand]) -> Step:
    """View the input unchanged."""
    attributes(node)
    return Step(inputs[0].shape, None)


def dropout(node: Node, inputs: Sequence[Operand]) -> Step:
    """View the input unchanged: only training drops values."""
    attributes(node, ratio=0.5, seed=0)
    if len(inputs) > 2 or len(node.outputs) > 1:
        raise unsupported(node, "training_mode", "input 2 or a mask", "inference, one output")
    return Step(inputs[0].shape, None)


def concat(node: Node, inputs: Sequence[Operand]) -> Step:
    """Copy the inputs one after another along an axis."""
    shapes = [operand.shape for operand in inputs]
    axis = positive(node, attributes(node, axis=None)["axis"], len(shapes[0]))
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    alike = len({len(shape) for shape in shapes}) == len({operand.dtype for operand in inputs}) == 1
    if len(others) != 1 or not alike:
        raise ModelError(f"Concat '{node.name}': shapes {shapes!r:.120} differ in more than axis {axis}, or in type")
    ends = np.cumsum([shape[axis] for shape in shapes]).tolist()

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        starts = [0, *ends[:-1]]
        before = (slice(None),) * axis
        return [
            partial(np.copyto, out[(*before, slice(start, end))], array)
            for start, end, array in zip(starts, ends, arrays, strict=True)
        ]

    shape = (*shapes[0][:axis], ends[-1], *shapes[0][axis + 1 :])
    return Step(shape, bind, layout=Layout.ANY, strided=True, strided_out=True)


def slice_(node: Node, inputs: Sequence[Operand]) -> Step:
    """Copy from `starts` to `ends` in `steps` along `axes`."""
    attributes(node, starts=(), ends=(), axes=(), steps=())
    taken = slices(node, inputs[0].shape)
    shape = tuple(len(range(*part.indices(size))) for part, size in zip(taken, inputs[0].shape, strict=True))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [partial(np.copyto, out, arrays[0][taken])]

    return Step(shape, bind, layout=Layout.ANY, strided=True, strided_out=True)


def shuffle(node: Node, inputs: Sequence[Operand]) -> Step:
    """Copy the channels of parts in turns: one of each part, then the next of each; one input is cut into `group`."""
    group = attributes(node, group=1)["group"]
    data = inputs[0].shape
    shape = (data[0], data[1] * len(inputs), *data[2:])
    count = shape[1] // group

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        whole = arrays[0]
        parts = arrays if len(arrays) > 1 else [whole[:, part * count : (part + 1) * count] for part in range(group)]
        return [partial(np.copyto, out[:, part::group], array) for part, array in enumerate(parts)]

    return Step(shape, bind, layout=Layout.ANY, strided=True, strided_out=True)


def transpose(node: Node, inputs: Sequence[Operand]) -> Step:
    """Copy with the axes in the order of `perm`, or reversed."""
    shape = inputs[0].shape
    order = attributes(node, perm=None)["perm"] or tuple(reversed(range(len(shape))))
    if sorted(order) != list(range(len(shape))):
        raise ModelError(f"Transpose '{node.name}': perm={order!r:.60} does not order {len(shape)} axes")

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [partial(np.copyto, out, arrays[0].transpose(order))]

    return Step(tuple(shape[axis] for axis in order), bind)


def gather(node: Node, inputs: Sequence[Operand]) -> Step:
    """Copy entries of one axis by their indices."""
    shape = inputs[0].shape
    axis = positive(node, attributes(node, axis=0)["axis"], len(shape))
    if inputs[1].constant is None:
        return _gather_by_data(node, inputs, axis)
    indices = np.asarray(inputs[1].constant).astype(np.int64)
    if indices.size and not (-shape[axis] <= indices.min() and indices.max() < shape[axis]):
        raise ModelError(f"Gather '{node.name}': an index beyond the {shape[axis]} entries of axis {axis}")

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        # The indices are checked already; with mode 'raise' NumPy would use a buffer.
        return [partial(np.take, arrays[0], indices % shape[axis], axis=axis, out=out, mode="clip")]

    return Step((*shape[:axis], *indices.shape, *shape[axis + 1 :]), bind)


def _gather_by_data(node: Node, inputs: Sequence[Operand], axis: int) -> Step:
    """Copy entries by indices that are computed: their range is checked in each run."""
    shape, indices = inputs[0].shape, inputs[1]
    if indices.dtype.kind not in "iu":
        raise ModelError(f"Gather '{node.name}': indices of {indices.dtype.name}; expected whole numbers")

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls = within(node, arrays[1], shape[axis], *scratch)
        return [*calls, partial(np.take, arrays[0], scratch[0], axis=axis, out=out, mode="clip")]

    rooms = index_rooms(indices.shape)
    return Step((*shape[:axis], *indices.shape, *shape[axis + 1 :]), bind, rooms, dtype=inputs[0].dtype)


INDEX = np.dtype(np.int64)


def index_rooms(shape: Shape) -> tuple[Scratch, Scratch]:
    """Return the buffers for `within`."""
    return Scratch(shape, dtype=INDEX), Scratch(shape, dtype=np.dtype(np.bool_))


def within(node: Node, indices: Array, length: int, found: Array, below: Array) -> list[Call]:
    """Prepare `found` = the indices counted from the front; a run raises ModelError for one beyond the axis."""
    step = scalar(length, INDEX)
    return [
        partial(np.copyto, found, indices),
        partial(np.less, found, 0, out=below),
        partial(np.add, found, step, out=found, where=below),
        partial(_refuse_outside, node, found, length, np.zeros((), INDEX)),
    ]


def _refuse_outside(node: Node, found: Array, length: int, end: Array) -> None:
    if not found.size:
        return
    for ufunc, far in ((np.minimum, 0), (np.maximum, length - 1)):
        ufunc.reduce(found, None, out=end)
        if ufunc(end, far) != far:
            raise ModelError(f"{node.op_type} '{node.name}': an index beyond the {length} entries of its axis")


def pad(node: Node, inputs: Sequence[Operand]) -> Step:
    """Extend axes at their ends by a constant, or by the input mirrored, repeated or wrapped around."""
    found = attributes(node, pads=None, value=0.0, mode="constant", axes=None)
    shape, (begin, end) = inputs[0].shape, _pads(node, inputs[0].shape, found["pads"], found["axes"])
    wider = tuple(b + size + e for b, size, e in zip(begin, shape, end, strict=True))
    if min(wider, default=0) < 0:
        raise ModelError(f"Pad '{node.name}': pads={found['pads']!r:.60} remove more than {shape} has")
    if not isinstance(found["value"], float | int):
        raise ModelError(f"Pad '{node.name}': value={found['value']!r:.60} is no number")
    if found["mode"] == "constant":
        return _constant_pad(shape, begin, wider, found["value"])
    if found["mode"] not in ("reflect", "edge", "wrap"):
        raise unsupported(node, "mode", found["mode"], "constant, reflect, edge, wrap")
    # The source of each element, found by padding the elements' indices.
    places = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    added = [(max(b, 0), max(e, 0)) for b, e in zip(begin, end, strict=True)]
    lengths = [size + min(b, 0) + min(e, 0) for b, size, e in zip(begin, shape, end, strict=True)]
    if any(size <= 0 and sum(more) for size, more in zip(lengths, added, strict=True)):
        raise ModelError(f"Pad '{node.name}': mode {found['mode']} has nothing to take from in {shape}")
    kept = tuple(slice(max(-b, 0), size - max(-e, 0)) for b, size, e in zip(begin, shape, end, strict=True))
    sources = np.pad(places[kept], added, mode=found["mode"])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [partial(np.take, arrays[0].reshape(-1), sources, out=out, mode="clip")]

    return Step(wider, bind)


def _constant_pad(shape: Shape, begin: Shape, wider: Shape, value: float) -> Step:
    inside = tuple(slice(max(b, 0), max(b, 0) + _kept(b, s, w)) for b, s, w in zip(begin, shape, wider, strict=True))
    taken = tuple(slice(max(-b, 0), max(-b, 0) + _kept(b, s, w)) for b, s, w in zip(begin, shape, wider, strict=True))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [partial(out.fill, value), partial(np.copyto, out[inside], arrays[0][taken])]

    return Step(wider, bind)


def _kept(begin: int, size: int, wider: int) -> int:
    """Return how many elements of an axis stay in the result: negative pads remove some."""
    return max(0, min(begin + size, wider) - max(begin, 0))


def _pads(node: Node, shape: Shape, pads: object, axes: object) -> tuple[Shape, Shape]:
    """Return the padding before and after each axis of the input."""
    places = [positive(node, axis, len(shape)) for axis in axes] if isinstance(axes, tuple) else [*range(len(shape))]
    if not isinstance(pads, tuple) or len(pads) != 2 * len(places):
        raise ModelError(f"Pad '{node.name}': pads={pads!r:.60} for {len(places)} axes")
    begin, end = [0] * len(shape), [0] * len(shape)
    for index, axis in enumerate(places):
        begin[axis], end[axis] = pads[index], pads[index + len(places)]
    return tuple(begin), tuple(end)
