"""Runs a Conv, the depthwise Conv after it and perhaps the pointwise Conv after that, planar, as one node.

`compiler.fusion.fuse_blocks` makes such nodes of MobileNet blocks, whose middle is six times as wide as their ends.
Some channels of the middle are made at a time and never leave the cache; the depthwise Conv is a stack of products with
band matrices. docs/engine.md explains it with a figure. As with Winograd, a number that is not finite makes its
neighbours NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node, Shape
from engine.kernels import caches
from engine.kernels.conv import Convolution, read
from engine.kernels.products import product_by_columns
from engine.kernels.step import Call, Operand, Pack, Scratch, Step, copy, divisor, finish, flat, gemm, reads_twice
from engine.kernels.windows import Windows

PAIR = "Conv+DepthwiseConv"
BLOCK = "Conv+DepthwiseConv+Conv"
# Bytes of a group of channels between the first two.
GROUP_BYTES = caches.group_bytes(768 << 10)
# Bytes of the columns that the first multiplies, at most. With more, blocks took longer than single convolutions (x86);
# where blocks do so on a smaller cache, their measured times decide against them.
COLUMN_BYTES = 2 << 20
# Rows of output of a band matrix, and elements of a line, at least: few rows compute few zeros, and a product of short
# lines costs its call. Both suit x86; a Pi's times decide between blocks and single convolutions.
MAX_ROWS, MIN_LINE = 4, 200


@dataclass(frozen=True)
class Tiles:
    """Describes how one channel of the middle lies in memory: as lines of `line` elements.

    Line 0 is ones. Then come rows, the first above the image, and for each row the places of its columns in a stride.

    Attributes:
        windows: of the depthwise Conv.
        rows: of output in a tile, T.
    """

    windows: Windows
    rows: int

    @property
    def places(self) -> int:
        """Columns in a stride."""
        return self.windows.strides[1]

    @property
    def step(self) -> int:
        """Rows of input from a tile to the next."""
        return self.rows * self.windows.strides[0]

    @property
    def count(self) -> int:
        """Tiles that cover input and output."""
        return max(-(-self.windows.size[0] // self.step), -(-self.windows.out[0] // self.rows))

    @property
    def row(self) -> int:
        """Elements from a row to the next, with the gap."""
        return max(-(-self.windows.size[1] // self.places), self.windows.out[1]) + self.gap

    @property
    def gap(self) -> int:
        """Zeros after a row, for taps beyond its ends."""
        return max(-self.shifts[0], self.shifts[-1])

    @property
    def shifts(self) -> range:
        """Offsets of a window's taps along a line."""
        begin, taps = self.windows.begin[1], self.windows.kernel[1]
        return range(-begin // self.places, (taps - 1 - begin) // self.places + 1)

    @property
    def line(self) -> int:
        """Elements of a line."""
        return self.count * self.row

    @property
    def above(self) -> int:
        """Lines with rows of the previous tile."""
        return self.windows.begin[0] * self.places

    @property
    def own(self) -> int:
        """Lines with a tile's own rows."""
        return self.step * self.places

    @property
    def below(self) -> int:
        """Lines with rows of the next tile."""
        reach = (self.rows - 1) * self.windows.strides[0] + self.windows.kernel[0]
        return max(0, reach * self.places - self.above - self.own)

    @property
    def lines(self) -> int:
        """All lines of a channel."""
        return 1 + self.above + self.own + self.below

    def read(self, shift: int) -> range:
        """Return the lines with taps at a shift; at shift 0 with the ones, which the bias multiplies."""
        begin, places = self.windows.begin[1], self.places
        found = {(tap - begin) % places for tap in range(self.windows.kernel[1]) if (tap - begin) // places == shift}
        if not shift:
            return range(self.lines)
        return range(1 + found.pop(), self.lines, places) if len(found) == 1 else range(1, self.lines)

    def bands(self, matrix: Array) -> Array:
        """Rearrange (C, taps + 1) to (C, rows, lines read): the matrices of all shifts side by side, shift 0 first."""
        (down, _), (height, width) = self.windows.strides, self.windows.kernel
        taps = matrix[:, :-1].reshape(-1, height, width)
        found = []
        for shift in in_order(self.shifts):
            band, lines = np.zeros((len(taps), self.rows, self.lines), np.float32), self.read(shift)
            for tap in range(width):
                if (tap - self.windows.begin[1]) // self.places == shift:
                    place = 1 + (tap - self.windows.begin[1]) % self.places
                    for row in range(self.rows):
                        at = place + row * down * self.places
                        band[:, row, at : at + height * self.places : self.places] = taps[:, :, tap]
            if not shift:
                band[:, :, 0] = matrix[:, -1:]
            found.append(band[:, :, lines.start : lines.stop : lines.step])
        return np.concatenate(found, axis=2)


def in_order(shifts: range) -> list[int]:
    """Return the shifts with 0 first: the others' products are added to its product."""
    return sorted(shifts, key=abs)


def tiles_for(windows: Windows) -> Tiles | None:
    """Return tiles with few lines (few zeros in the bands), long enough for BLAS; None if no tile fits the windows."""
    down, top = windows.strides[0], windows.begin[0]
    minimum = max(2, -(-top // down), -(-(windows.kernel[0] - down - top) // down))
    offers = [Tiles(windows, rows) for rows in range(max(minimum, MAX_ROWS), minimum - 1, -1)]
    suits = top < windows.kernel[0] and windows.begin[1] < windows.kernel[1] and prod(windows.dilations) == 1
    return next((tiles for tiles in offers if tiles.line >= MIN_LINE), offers[-1]) if suits else None


@dataclass(frozen=True)
class Block:
    """Holds the convolutions of a node; `third` is None if there are two."""

    first: Convolution
    second: Convolution
    third: Convolution | None
    tiles: Tiles

    @property
    def columns(self) -> Shape:
        """Shape of the columns for the first: its taps and the ones, rows of a tile, places, tiles, columns and gap."""
        tiles = self.tiles
        return prod(self.first.weight[1:]) + 1, tiles.step, tiles.places, tiles.count, tiles.row

    @property
    def splits(self) -> bool:
        """Whether columns of the first's input are sorted by place in a stride before the windows are copied."""
        windows = self.first.windows
        return windows.strides[1] > 1 and windows.kernel[1] > 1 and prod(windows.dilations) == 1

    @property
    def sorted_size(self) -> Shape:
        """Shape of the sorted input, by channel: framed rows, places in both strides, columns."""
        (height, width), stride = self.first.windows.padded, self.first.windows.strides[1] * self.tiles.places
        return height, stride, -(-width // stride)

    @property
    def group(self) -> int:
        """Channels made at a time."""
        return divisor(self.second.group, max(1, GROUP_BYTES // (4 * self.tiles.lines * self.tiles.line)))


def read_block(node: Node, inputs: Sequence[Operand]) -> Block | None:
    """Return the convolutions of a node; None if they cannot run together.

    The node has the depthwise Conv's attributes, and those of the others as `first_...` and `third_...`. Its inputs are
    data, for each convolution a matrix with its bias as last column, perhaps a residual.
    """
    if len(inputs[0].shape) != 4:
        return None
    own = {name: value for name, value in node.attributes.items() if not name.startswith(("first_", "third_"))}
    first = _convolution(node, _attributes(node, "first_"), inputs[0].shape, inputs[1])
    second = _convolution(node, own, first.shape, inputs[2])
    third = None
    if node.op_type == BLOCK:
        third = _convolution(node, _attributes(node, "third_"), second.shape, *inputs[3:])
    tiles = tiles_for(second.windows)
    if tiles is None or (third is not None and not third.is_pointwise):
        return None
    block = Block(first, second, third, tiles)
    return block if 4 * prod(block.columns) <= COLUMN_BYTES else None


def _attributes(node: Node, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in node.attributes.items() if name.startswith(prefix)}


def _convolution(node: Node, found: dict[str, Any], data: Shape, matrix: Operand, *residual: Operand) -> Convolution:
    weight = (matrix.shape[0], data[1] // found.get("group", 1), *found["kernel_shape"])
    return read(replace(node, attributes=found), [Operand(data), Operand(weight, None, True), *residual])


def tiled(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Run a node that `read_block` accepts."""
    block = read_block(node, inputs)
    if block is None:
        return None
    first, second, third, tiles, group = block.first, block.second, block.third, block.tiles, block.group
    channels, last = second.shape[1], third or second
    own, sums = (group, tiles.own * tiles.line), (group, tiles.rows, tiles.line)
    scratch = (
        Scratch(block.columns),
        Scratch((first.weight[1], *block.sorted_size) if block.splits else (0,)),
        Scratch((group * tiles.lines * tiles.line + tiles.gap,)),  # a group of channels between the first two
        Scratch((2, *own) if reads_twice(first.activation) else (0,)),  # own rows before the activation, and its buffer
        Scratch(sums),  # products at one shift
        Scratch(sums if reads_twice(second.activation) else (0,)),  # sums before the activation
        Scratch((channels + 1, *sums[1:]) if third else sums),  # sums after the activation, and the ones
        Scratch((last.shape[1], *sums[1:]) if third else (0,)),  # outputs of the last
    )

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        data, matrix, bands, *others = arrays
        columns, in_order, middle, activated, added, before, after, narrow = scratch
        lines = middle[: middle.size - tiles.gap].reshape(group, tiles.lines, tiles.line)
        calls = _zeros_and_ones(tiles, middle, lines)
        calls += [partial(columns.fill, 0), partial(after[-1].fill, 1)]
        for item in range(len(data)):
            calls += _gather(block, data[item : item + 1], columns, in_order)
            for start in range(0, channels, group):
                some = slice(start, start + group)
                calls += _make(block, matrix[some], columns, lines, activated)
                found = after[some] if third else after
                summed = before if reads_twice(second.activation) else found
                calls += _depthwise(tiles, middle, bands[some], summed, added)
                calls += finish(flat(summed), flat(found), (), second.activation)
                if not third:
                    calls += _rows(tiles, found, out[item, some], (), "")
            if third:
                pixels = tiles.rows * tiles.line
                calls += product_by_columns(others[0], after.reshape(-1, pixels), narrow.reshape(-1, pixels))
                residual = [array[item] for array in others[1:]]
                calls += _rows(tiles, narrow, out[item], residual, third.activation)
        return calls

    macs = first.macs + second.macs + (third.macs if third else 0)
    border = None if block.splits else first.windows.border()
    label = f"bands {tiles.rows}x{tiles.lines}"
    return Step(last.shape, bind, scratch, macs, border=border, packs={2: Pack(label, tiles.bands)})


def _zeros_and_ones(tiles: Tiles, middle: Array, lines: Array) -> list[Call]:
    """Fill what no activation overwrites: the ones, and the rows above and below the image."""
    edge = 1 + tiles.above + tiles.own
    above, below = lines[:, 1 : 1 + tiles.above, : tiles.row], lines[:, edge:, tiles.line - tiles.row :]
    ends = lines[:, 0, tiles.line - tiles.gap :], middle[middle.size - tiles.gap :]
    return [partial(lines[:, 0].fill, 1), *(partial(each.fill, 0) for each in (above, below, *ends) if each.size)]


def _gather(block: Block, data: Array, columns: Array, in_order: Array) -> list[Call]:
    """Copy the windows of the first convolution, and its ones."""
    windows, tiles = block.first.windows, block.tiles
    calls = _sort(windows, data, in_order) if block.splits else []
    view = None if block.splits else windows.view(data)[0]
    for row, place in product(range(tiles.step), range(tiles.places)):
        size = -(-(windows.out[0] - row) // tiles.step), -(-(windows.out[1] - place) // tiles.places)
        if min(size) < 1:
            continue
        inside = columns[:, row, place, : size[0], : size[1]]
        targets = inside[:-1].reshape(-1, *windows.kernel, *size)
        calls.append(partial(inside[-1].fill, 1))
        if view is not None:
            calls.append(copy(targets, view[..., row :: tiles.step, place :: tiles.places]))
            continue
        for tap in range(windows.kernel[1]):
            start, at = divmod(tap + place * windows.strides[1], in_order.shape[2])
            source = in_order[:, row * windows.strides[0] :, at, start:]
            channel, line, number = source.strides
            strides = channel, line, tiles.step * windows.strides[0] * line, number
            calls.append(copy(targets[:, :, tap], as_strided(source, targets[:, :, tap].shape, strides)))
    return calls


def _sort(windows: Windows, data: Array, in_order: Array) -> list[Call]:
    """Sort the columns once: with a stride, each window would otherwise be gathered element by element."""
    (top, left), width, across = windows.begin, data.shape[3], in_order.shape[2]
    calls: list[Call] = [partial(in_order.fill, 0)]
    for place in range(across):
        start = left + (place - left) % across  # in the frame
        count = max(0, -(-(left + width - start) // across))
        to = in_order[:, top : top + data.shape[2], place, start // across : start // across + count]
        calls.append(copy(to, data[0, :, :, start - left :: across]))
    return calls


def _make(block: Block, matrix: Array, columns: Array, lines: Array, activated: Array) -> list[Call]:
    """Run the first convolution for some channels, the activation, and copy the rows that tiles share."""
    tiles, (group, _, line) = block.tiles, lines.shape
    begin, end = 1 + tiles.above, 1 + tiles.above + tiles.own
    own = as_strided(lines[:, begin:], (group, tiles.own * line), lines.strides[::2])
    columns = columns.reshape(len(columns), -1)
    if reads_twice(block.first.activation):
        made, room = activated
        calls = [*product_by_columns(matrix, columns, made), *finish(made, own, (), block.first.activation, room=room)]
    else:
        calls = [*product_by_columns(matrix, columns, own), *finish(own, own, (), block.first.activation)]
    if tiles.above:
        calls.append(copy(lines[:, 1:begin, tiles.row :], lines[:, end - tiles.above : end, : -tiles.row]))
    if tiles.below:
        calls.append(copy(lines[:, end:, : -tiles.row], lines[:, begin : begin + tiles.below, tiles.row :]))
    return calls


def _depthwise(tiles: Tiles, middle: Array, bands: Array, out: Array, added: Array) -> list[Call]:
    """Prepare out = the sum over the shifts of a stack of products, one for each channel."""
    calls: list[Call] = []
    at = 0
    for shift in in_order(tiles.shifts):
        taken = tiles.read(shift)
        source = as_strided(
            middle[taken.start * tiles.line + shift :],
            (len(out), len(taken), tiles.line),
            (4 * tiles.lines * tiles.line, 4 * taken.step * tiles.line, 4),
        )
        calls.append(gemm(bands[:, :, at : at + len(taken)], source, added if at else out))
        if at:
            calls.append(partial(np.add, flat(out), flat(added), flat(out)))
        at += len(taken)
    return calls


def _rows(tiles: Tiles, lines: Array, out: Array, added: Sequence[Array], activation: str) -> list[Call]:
    """Copy the rows of tiles back to the order of the image."""
    (_, height, width), calls = out.shape, []
    for row in range(min(tiles.rows, height)):
        source = lines[:, row].reshape(len(out), tiles.count, tiles.row)[:, : -(-(height - row) // tiles.rows), :width]
        others = [each[:, row :: tiles.rows] for each in added]
        calls += finish(source, out[:, row :: tiles.rows], others, activation)
    return calls
