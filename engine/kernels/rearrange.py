"""Copies elements into more places or other axes: Expand, Tile, DepthToSpace and SpaceToDepth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import Call, Kernel, Operand, Step, attributes, unsupported

MAX_NUMBERS = 1 << 28  # of an output, as in `engine.compiler.constant_evaluation`


def expand(node: Node, inputs: Sequence[Operand]) -> Step:
    """Broadcast to `shape`, both ways."""
    wanted = attributes(node, shape=())["shape"]
    if any(size < 0 for size in wanted):
        raise ModelError(f"Expand '{node.name}': {wanted!r:.60} is not a shape")
    try:
        shape = np.broadcast_shapes(inputs[0].shape, wanted)
    except ValueError as error:
        raise ModelError(f"Expand '{node.name}': {inputs[0].shape} does not go with {wanted!r:.60}") from error
    _bounded(node, shape)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [partial(np.copyto, out, arrays[0])]

    return Step(shape, bind)


def tile(node: Node, inputs: Sequence[Operand]) -> Step:
    """Repeat the input along its axes, `repeats` times each."""
    repeats, shape = attributes(node, repeats=())["repeats"], inputs[0].shape
    if len(repeats) != len(shape) or any(count < 0 for count in repeats):
        raise ModelError(f"Tile '{node.name}': repeats {repeats!r:.60} do not fit {shape}")
    wanted = tuple(count * size for count, size in zip(repeats, shape, strict=True))
    _bounded(node, wanted)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        pairs = [each for pair in zip(repeats, shape, strict=True) for each in pair]
        single = [each for size in shape for each in (1, size)]
        return [partial(np.copyto, out.reshape(pairs), arrays[0].reshape(single))]

    return Step(wanted, bind)


def _bounded(node: Node, shape: Shape) -> None:
    if prod(shape) > MAX_NUMBERS:
        raise ModelError(f"{node.op_type} '{node.name}': an output of shape {shape!r:.60} is too large")


def depth_to_space(node: Node, inputs: Sequence[Operand]) -> Step:
    """Move channels into blocks of pixels: depth, column, row of the block (DCR), or column, row, depth (CRD)."""
    found = _modes(node)
    n, c, h, w, block = _image_and_block(node, inputs[0].shape, found["blocksize"])
    if c % block**2:
        raise ModelError(f"DepthToSpace '{node.name}': {c} channels do not make blocks of {block} x {block}")
    depth = c // block**2
    apart, order = (
        ((n, block, block, depth, h, w), (0, 3, 4, 1, 5, 2))
        if found["mode"] == "DCR"
        else (
            (n, depth, block, block, h, w),
            (0, 1, 4, 2, 5, 3),
        )
    )
    return _permuted((n, depth, h * block, w * block), apart, order)


def space_to_depth(node: Node, inputs: Sequence[Operand]) -> Step:
    """Move blocks of pixels into channels: row and column of the block, then depth (DCR), or depth first (CRD)."""
    found = _modes(node)
    n, c, h, w, block = _image_and_block(node, inputs[0].shape, found["blocksize"])
    if h % block or w % block:
        raise ModelError(f"SpaceToDepth '{node.name}': {h} x {w} pixels do not make blocks of {block} x {block}")
    apart = (n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if found["mode"] == "DCR" else (0, 1, 3, 5, 2, 4)
    return _permuted((n, c * block**2, h // block, w // block), apart, order)


def _modes(node: Node) -> dict[str, Any]:
    found = attributes(node, blocksize=None, mode="DCR")
    if found["mode"] not in ("DCR", "CRD"):
        raise unsupported(node, "mode", found["mode"], "DCR, CRD")
    return found


def _image_and_block(node: Node, shape: Shape, block: object) -> Shape:
    """Return the four lengths of the input, and the block's."""
    if len(shape) != 4 or not isinstance(block, int) or block < 1:
        raise ModelError(f"{node.op_type} '{node.name}': blocksize={block!r:.20} of an input {shape}")
    return (*shape, block)


def _permuted(shape: Shape, apart: Shape, order: Shape) -> Step:
    """Return a step that copies the input, seen with the axes `apart`, in another order of them."""

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        source = arrays[0].reshape(apart).transpose(order)
        return [partial(np.copyto, out.reshape(source.shape), source)]

    return Step(shape, bind)


KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "DepthToSpace": (depth_to_space,),
    "Expand": (expand,),
    "SpaceToDepth": (space_to_depth,),
    "Tile": (tile,),
}
