"""Finds and takes elements by their value or place: ArgMax, ArgMin, TopK and GatherElements.

TopK sorts without further memory: a number and its index make one int64 key, the number's bits, in an order of whole
numbers, above the index. Sorted keys thus have the lower index first among equal numbers, as ONNX demands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from engine.attributes import NotPlannable
from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.movement import INDEX, index_rooms, within
from engine.kernels.step import Call, Kernel, Operand, Scratch, Step, attributes, scalar
from engine.shapes import positive


def _arg(find: Any, name: str) -> Kernel:
    """Return a kernel of the index of the largest or smallest number along an axis, the first or last of equals."""

    def kernel(node: Node, inputs: Sequence[Operand]) -> Step:
        found = attributes(node, axis=0, keepdims=1, select_last_index=0)
        shape, dtype = inputs[0].shape, inputs[0].dtype
        axis = positive(node, found["axis"], len(shape))
        if not shape[axis]:
            raise ModelError(f"{node.op_type} '{node.name}': axis {axis} of {shape} is empty")
        reduced, kept = (*shape[:axis], *shape[axis + 1 :]), (*shape[:axis], 1, *shape[axis + 1 :])

        def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
            rows, x = scratch[0], np.moveaxis(arrays[0], axis, -1)
            x = x[..., ::-1] if found["select_last_index"] else x
            target = out.reshape(reduced)
            calls: list[Call] = [partial(np.copyto, rows, x), partial(find, rows, -1, out=target)]
            if found["select_last_index"]:
                calls.append(partial(np.subtract, scalar(shape[axis] - 1, INDEX), target, out=target))
            return calls

        rows = Scratch((*reduced, shape[axis]), dtype=dtype)
        return Step(kept if found["keepdims"] else reduced, bind, (rows,), dtype=INDEX)

    kernel.__name__ = name
    return kernel


INDICES = "TopKIndices"  # a node that `engine.compiler.constant_folding` makes of TopK; GatherElements follows


def top_k_indices(node: Node, inputs: Sequence[Operand]) -> Step:
    """Return the indices of the k largest or smallest numbers along an axis, sorted by these."""
    found = attributes(node, axis=-1, largest=1, sorted=1, k=None)
    shape, dtype, k = inputs[0].shape, inputs[0].dtype, found["k"]
    axis = positive(node, found["axis"], len(shape))
    if not isinstance(k, int) or not 0 <= k <= shape[axis]:
        raise ModelError(f"TopK '{node.name}': k={k!r:.20} of the {shape[axis]} along axis {axis}")
    if dtype.itemsize > 4 or dtype == np.dtype(np.uint32):
        raise NotPlannable(f"TopK '{node.name}': no kernel for {dtype.name}, but for numbers of up to 32 bits")
    rows = (*shape[:axis], *shape[axis + 1 :], shape[axis])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        keys, numbers, signs = scratch
        return [
            *_keys(np.moveaxis(arrays[0], axis, -1), keys, numbers, signs, bool(found["largest"])),
            partial(keys.sort, -1),
            partial(np.bitwise_and, keys[..., :k], scalar(0xFFFFFFFF, INDEX), out=np.moveaxis(out, axis, -1)),
        ]

    whole = np.dtype(np.int32)
    rooms = (Scratch(rows, dtype=INDEX), Scratch(rows, dtype=whole), Scratch(rows, dtype=whole))
    return Step((*shape[:axis], k, *shape[axis + 1 :]), bind, rooms, dtype=INDEX)


def _keys(x: Array, keys: Array, numbers: Array, signs: Array, largest: bool) -> list[Call]:
    """Prepare keys that ascend as wanted: the bits of a negative float are flipped, so that int32 orders them."""
    calls: list[Call] = []
    if x.dtype.kind == "f":
        calls.append(partial(np.add, x, scalar(0), out=numbers.view(np.float32)))  # -0 becomes 0, its equal
        whole = np.dtype(np.int32)
        calls += [
            partial(np.right_shift, numbers, scalar(31, whole), out=signs),
            partial(np.bitwise_and, signs, scalar(0x7FFFFFFF, whole), out=signs),
            partial(np.bitwise_xor, numbers, signs, out=numbers),
        ]
    else:
        calls.append(partial(np.copyto, numbers, x))
    if largest:
        calls.append(partial(np.invert, numbers, out=numbers))
    places = np.arange(x.shape[-1], dtype=np.int64)
    return [
        *calls,
        partial(np.copyto, keys, numbers),
        partial(np.left_shift, keys, scalar(32, INDEX), out=keys),
        partial(np.bitwise_or, keys, places, out=keys),
    ]


def gather_elements(node: Node, inputs: Sequence[Operand]) -> Step:
    """Take, for each index, the element at its place with that index along the axis."""
    shape, indices = inputs[0].shape, inputs[1]
    axis = positive(node, attributes(node, axis=0)["axis"], len(shape))
    fits = len(indices.shape) == len(shape) and all(
        have <= size for at, (have, size) in enumerate(zip(indices.shape, shape, strict=False)) if at != axis
    )
    if not fits or indices.dtype.kind not in "iu":
        raise ModelError(f"GatherElements '{node.name}': indices {indices.shape} do not fit {shape}")
    places = _places(shape, indices.shape, axis)
    stride = prod(shape[axis + 1 :])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        found = scratch[0]
        return [
            *within(node, arrays[1], shape[axis], *scratch),
            partial(np.multiply, found, scalar(stride, INDEX), out=found),
            partial(np.add, found, places, out=found),
            partial(np.take, arrays[0].reshape(-1), found, out=out, mode="clip"),
        ]

    return Step(indices.shape, bind, index_rooms(indices.shape), dtype=inputs[0].dtype)


def _places(shape: Shape, taken: Shape, axis: int) -> Array:
    """Return the place of each element without the part of the axis, among all elements in their order."""
    found = np.zeros(taken, np.int64)
    for at, size in enumerate(taken):
        if at != axis:
            along = np.arange(size, dtype=np.int64) * prod(shape[at + 1 :])
            found += along.reshape(-1, *(1,) * (len(taken) - at - 1))
    return found


KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "ArgMax": (_arg(np.argmax, "arg_max"),),
    "ArgMin": (_arg(np.argmin, "arg_min"),),
    "GatherElements": (gather_elements,),
}
