"""Runs Conv, channels last: pixels @ weight in slabs of rows, in the cache from the copy to the activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node, Shape
from engine.kernels import blas
from engine.kernels.conv import read
from engine.kernels.products import inner_parts, panel_width, panels, product
from engine.kernels.step import (
    FEW_CHANNELS,
    Call,
    Layout,
    Operand,
    Pack,
    Scratch,
    Step,
    copy,
    finish_channels,
    first,
    last,
    reads_twice,
)
from engine.kernels.windows import Windows

# Bytes of columns and output together: half of an A53's or A76's level 2; or as much as the weights, if these are
# larger, because every slab reads all of them.
SLAB_BYTES = 256 << 10

Block = tuple[slice, slice]  # items, rows


def rows_last(node: Node, inputs: Sequence[Operand], *, in_panels: bool, from_planes: bool = False) -> Step | None:
    """Copy windows into rows (N * pixels, taps * channels), except for pointwise kernels; then multiply rows @ weight.

    With `from_planes` they are copied tap by tap from a planar input, and BLAS reads the rows as columns. The last pass
    over a slab (bias, residual or activation) writes into the output, which may lie in a frame.
    """
    conv = read(node, inputs)
    if not conv.fixed or conv.group > 1:
        return None
    inner, channels = prod(conv.weight[1:]), conv.weight[0]
    parts = inner_parts(inner) if in_panels else 1
    width = panel_width(inner // parts, channels) if in_panels and blas.has_small_products() else None
    if in_panels and (width is None or prod(conv.shape[2:]) == 1):
        return None
    windows = conv.windows
    sorts = from_planes and len(windows.size) == 2 and windows.strides[1] > 1 and windows.dilations == (1, 1)
    slab = slab_rows(conv.shape, 4 * (inner + channels), max(SLAB_BYTES, 4 * inner * channels))
    pixels = min(slab, conv.shape[2] * conv.shape[0]) * prod(conv.shape[3:])
    scratch = (
        Scratch((pixels * channels,)),
        Scratch((pixels * inner if not conv.is_pointwise else 0,)),
        Scratch((parts * pixels * channels if parts > 1 else 0,)),
        Scratch((pixels * channels if reads_twice(conv.activation) else 0,)),
        Scratch(_sorted_shape(inputs[0].shape, windows) if sorts else (0,)),
    )

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        rank = out.ndim - 2
        outs, view = last(out), np.moveaxis(windows.view(arrays[0]), 1, rank + 1)  # (N, *taps, C, *pixels)
        view = np.moveaxis(view, range(1, rank + 2), range(rank + 1, 2 * rank + 2))
        bias, residual = conv.added(arrays)
        calls += _sort(windows, arrays[0], scratch[4]) if sorts else []
        for block in blocks(conv.shape, slab):
            target = outs[block]
            size = prod(target.shape[:-1])
            if conv.is_pointwise:
                rows = last(arrays[0])[block].reshape(size, inner)
            else:
                taken, ahead = view[block], range(rank + 1, 2 * rank + 2)
                if from_planes:
                    taken = np.moveaxis(taken, ahead, range(rank + 1))
                columns = scratch[1][: size * inner]
                if sorts:
                    calls += _gather(windows, scratch[4], columns, block)
                else:
                    calls.append(copy(columns.reshape(taken.shape), taken))
                rows = columns.reshape(inner, size).T if from_planes else columns.reshape(size, inner)
            direct = target.flags.c_contiguous and not reads_twice(conv.activation)
            result = target.reshape(size, channels) if direct else scratch[0][: size * channels].reshape(size, channels)
            if parts == 1:
                calls += product(rows, arrays[1], result)
            else:
                partial_sums = scratch[2][: parts * size * channels].reshape(parts, size, channels)
                calls += product(rows.reshape(size, parts, -1).transpose(1, 0, 2), arrays[1], partial_sums)
                calls += [partial(np.add, partial_sums[0], partial_sums[1], result)]
                calls += [partial(np.add, result, more, result) for more in partial_sums[2:]]
            also = None if residual is None else first(last(residual)[block])
            room = first(scratch[3][: target.size].reshape(target.shape)) if scratch[3].size else None
            source = first(result.reshape(target.shape))
            calls += finish_channels(source, first(target), bias, also, conv.activation, conv.late, room)
        return calls

    return Step(
        conv.shape,
        bind,
        scratch,
        conv.macs,
        layout=Layout.LAST,
        input_layout=Layout.PLANAR if from_planes else None,
        border=conv.windows.border(conv.padding),
        strided=not conv.is_pointwise,
        strided_out=True,
        packs={1: Pack(f"panels{parts}x{width}", partial(_panels, parts, width)) if width else Pack("rows", as_rows)},
    )


def _sorted_shape(data: Shape, windows: Windows) -> Shape:
    """Return the shape of an image with its columns sorted: (N, C, rows, places in a stride, columns of a place)."""
    across, width = windows.strides[1], windows.kernel[1]
    return (*data[:2], windows.padded[0], min(across, width), windows.out[1] + (width - 1) // across)


def _sort(windows: Windows, data: Array, in_order: Array) -> list[Call]:
    """Sort the columns of framed planes by their place in a stride: windows are then gathered run by run."""
    across, width, calls = windows.strides[1], windows.kernel[1], []
    for place in range(in_order.shape[3]):
        used = windows.out[1] + len(range(place, width, across)) - 1
        calls.append(copy(in_order[..., place, :used], data[..., place : place + used * across : across]))
    return calls


def _gather(windows: Windows, in_order: Array, columns: Array, block: Block) -> list[Call]:
    """Copy the windows of a block from sorted planes to (*kernel, C, N, rows, pixels)."""
    (height, width), (down, across), (_, pixels) = windows.kernel, windows.strides, windows.out
    begin, end, _ = block[1].indices(windows.out[0])
    some = in_order[block[0], :, begin * down :]
    item, channel, row, _, number = some.strides
    targets = columns.reshape(height, width, some.shape[1], len(some), end - begin, pixels)
    calls = []
    for tap in range(width):
        source = some[:, :, :, tap % across, tap // across :]
        shape = (height, some.shape[1], len(some), end - begin, pixels)
        view = as_strided(source, shape, (row, channel, item, down * row, number), writeable=False)
        calls.append(copy(targets[:, tap], view))
    return calls


def slab_rows(shape: Shape, pixel_bytes: int, budget: int) -> int:
    """Return how many rows of an output (N, C, rows, ...) a slab of `budget` bytes has."""
    return max(1, budget // (pixel_bytes * prod(shape[3:])))


def blocks(shape: Shape, rows: int) -> Iterator[Block]:
    """Yield the slabs of an output (N, C, rows, ...): some rows of one item, or some whole items."""
    items, height = shape[0], shape[2]
    if rows >= height:
        step = rows // height
        yield from ((slice(n, min(n + step, items)), slice(None)) for n in range(0, items, step))
        return
    count = -(-height // rows)
    step = -(-height // count)
    for n in range(items):
        yield from ((slice(n, n + 1), slice(row, min(row + step, height))) for row in range(0, height, step))


def as_rows(weight: Array) -> Array:
    """Rearrange (O, I, *kernel) to (taps * I, O), contiguous."""
    return np.ascontiguousarray(np.moveaxis(weight, (0, 1), (-1, -2)).reshape(-1, weight.shape[0]))


def _panels(parts: int, width: int, weight: Array) -> Array:
    rows = as_rows(weight)
    return panels(rows if parts == 1 else rows.reshape(parts, -1, rows.shape[1]), width)


def rows_in_panels(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Run `rows_last` with small matrix products."""
    return rows_last(node, inputs, in_panels=True)


def rows_whole(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Run `rows_last` with one matrix product for each slab."""
    return rows_last(node, inputs, in_panels=False)


def rows_from_planes(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Run `rows_last` on an image: with few channels, a tap along a row is a longer contiguous run than a window."""
    if inputs[0].shape[1] > FEW_CHANNELS or prod(inputs[1].shape[2:]) == 1:
        return None
    steps = (rows_last(node, inputs, in_panels=panels, from_planes=True) for panels in (True, False))
    return next((step for step in steps if step is not None), None)
