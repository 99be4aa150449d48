"""Runs a Conv and the 2x2 MaxPool after it as one node, for small nets, which are bound by the number of calls.

`compiler.fusion.fuse_pools` makes such nodes. Copied windows are ordered by the place of an output within its pool
window, so that comparisons run over memory with few gaps or none. Of three kernels the one with the lowest estimated
cost offers itself:

- `planes` (planar) multiplies the weight with columns of windows, for pixels in the order of the framed input: the
  columns between rows are wasted work, but each kernel tap is then a single copy. Its output may be channels last.
- `parities` (planar to channels last) has such columns for the even places of a row, then for the odd ones, from an
  input separated likewise: for an image, and outputs that fill vector registers.
- `bands` (channels last) copies long runs, (taps, channels) at once. Its windows may span several outputs and are then
  multiplied by a band matrix with zeros for taps outside an output's kernel: often cheaper than many narrow windows.

For many channels `engine.kernels.winograd_rows` has a fourth. In both, a number that is not finite makes other outputs
of the same window NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node
from engine.kernels.conv import Convolution, read
from engine.kernels.products import VECTOR, product_by_rows
from engine.kernels.step import (
    FEW_CHANNELS,
    Border,
    Call,
    Layout,
    Operand,
    Pack,
    Scratch,
    Step,
    copy,
    finish,
    first,
    flat,
    gemm,
    is_last,
    last,
    reads_twice,
)

CONV_POOL = "Conv+MaxPool"
COLUMN_BYTES = 512 << 10  # of copied windows, at most
# Nanoseconds for a copied run, for an element in it, for a multiply-add, and for a run of comparisons of every second
# element (x86); only their ratios matter. By counts of a Cortex-A72's instructions the same methods are best for all
# shipped nets.
RUN_COST, COPY_COST, PRODUCT_COST, GAPS_COST = 5.0, 0.03, 0.02, 10.0


def cost(runs: int, numbers: int, rows: int, inner: int, columns: int) -> float:
    """Estimate the nanoseconds for copying runs and elements, then (rows, inner) @ (inner, columns)."""
    products = rows * inner * (-(-columns // VECTOR) * VECTOR)
    return RUN_COST * runs + COPY_COST * numbers + PRODUCT_COST * products


@dataclass(frozen=True)
class Pooled:
    """Describes a convolution whose output a 2x2 pool reads."""

    conv: Convolution

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = self.conv.shape[2:]
        return height // 2, width // 2

    @property
    def inner(self) -> int:
        """Elements of a window."""
        return prod(self.conv.weight[1:])


@dataclass(frozen=True)
class Bands(Pooled):
    """Describes the copied windows: pooled outputs of a row that share one; 0: each output has a separate window."""

    places: int

    @property
    def taken(self) -> int:
        """Pixels of an input row that a window covers."""
        return self.conv.weight[3] + max(0, 2 * self.places - 1)

    @property
    def inner(self) -> int:
        """Elements of a window."""
        return self.conv.weight[2] * self.taken * self.conv.weight[1]

    @property
    def rows(self) -> int:
        """Windows of an item for the outputs at one place of the pool's windows, or in one row of them."""
        down, across = self.pooled
        return down * (across // self.places if self.places else across)

    @property
    def copies(self) -> int:
        """Factor for `rows`: the rows of a pool's window, or its places."""
        return 2 if self.places else 4

    @property
    def copied(self) -> int:
        """Elements in the windows of an item."""
        return self.copies * self.rows * self.inner

    @property
    def columns(self) -> int:
        """Outputs of a window."""
        return max(1, 2 * self.places) * self.conv.weight[0]

    @property
    def cost(self) -> float:
        """Estimated nanoseconds for an item."""
        windows = self.copies * self.rows
        return cost(windows * self.conv.weight[2], self.copied, windows, self.inner, self.columns)


@dataclass(frozen=True)
class Planes(Pooled):
    """Describes columns of windows for the outputs that the pool reads and the places between them."""

    @property
    def pixels(self) -> int:
        """Columns, of an item: from the first output that the pool reads to the last."""
        down, across = self.pooled
        return (2 * down - 1) * self.conv.windows.padded[1] + 2 * across

    @property
    def copied(self) -> int:
        """Numbers in the columns of an item."""
        return self.inner * self.pixels

    @property
    def cost(self) -> float:
        """Estimated nanoseconds for an item."""
        products = cost(self.inner, self.copied, self.conv.weight[0], self.inner, self.pixels)
        return products + GAPS_COST * self.conv.weight[0] * self.pooled[0]


@dataclass(frozen=True)
class Parities(Pooled):
    """Describes columns of windows at even places of a row, then at odd ones, for the outputs that the pool reads."""

    @property
    def framed(self) -> tuple[int, int]:
        """Height and width of the framed input: each row has as many even places as odd ones."""
        height, width = self.conv.windows.padded
        return height, width + width % 2

    @property
    def pixels(self) -> int:
        """Columns of one parity, of an item: from the first output that the pool reads to the last."""
        down, across = self.pooled
        return (2 * down - 1) * self.framed[1] // 2 + across

    @property
    def copied(self) -> int:
        """Numbers in the columns of an item."""
        return 2 * self.inner * self.pixels

    @property
    def cost(self) -> float:
        """Estimated nanoseconds for an item."""
        return cost(2 * self.inner, self.copied, 2 * self.pixels, self.inner, self.conv.weight[0])


def read_conv_pool(node: Node, inputs: Sequence[Operand]) -> Bands | Planes | Parities | None:
    """Return the arrangement with the lowest cost for any batch, None if the node cannot run as one."""
    conv = read(node, inputs)
    plain = len(conv.shape) == 4 and conv.group == 1 and conv.fixed and not conv.has_residual
    windows = conv.windows
    if (
        not plain
        or reads_twice(conv.activation)
        or min(conv.shape[2:]) < 2
        or prod(windows.strides) * prod(windows.dilations) > 1
    ):
        return None
    across = conv.shape[3] // 2
    candidates: list[Bands | Planes | Parities] = [Planes(conv)]
    if conv.weight[1] <= FEW_CHANNELS and conv.weight[0] % VECTOR == 0:
        candidates.append(Parities(conv))
    candidates += [Bands(conv, places) for places in range(across + 1) if not places or across % places == 0]
    best = min(candidates, key=lambda candidate: candidate.cost)
    return best if 4 * best.copied <= COLUMN_BYTES else None


def planes(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Multiply the weight with columns; the Conv's bias and activation come after the pool."""
    found = read_conv_pool(node, inputs)
    if not isinstance(found, Planes):
        return None
    conv, (batch, outputs), (down, across) = found.conv, found.conv.shape[:2], found.pooled
    inner, pixels, line = found.inner, found.pixels, conv.windows.padded[1]
    # The comparisons write into another buffer: NumPy would treat interleaved operands as overlapping.
    sizes = ((inner, pixels), (outputs, pixels), (outputs, pixels), (outputs * down * across,))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        columns, products, rows, best = scratch
        numbered = flat(products)
        number = arrays[0].itemsize
        calls: list[Call] = []
        for index, item in enumerate(arrays[0]):
            taps = as_strided(item, (*conv.weight[1:], pixels), (*item.strides, number), writeable=False)
            left, right = (
                as_strided(rows[:, side:], out.shape[1:], (rows.strides[0], 2 * line * number, 2 * number))
                for side in (0, 1)
            )
            result, end = _end(best, out[index : index + 1], arrays, conv.activation)
            calls += [
                copy(columns.reshape(taps.shape), taps),
                gemm(arrays[1].reshape(outputs, inner), columns, products),
                # Without a gap between channels: twice the elements, in less time.
                partial(np.maximum, numbered[:-line], numbered[line:], out=flat(rows)[:-line]),
                partial(np.maximum, left, right, out=result[0]),
                *end,
            ]
        return calls

    border = conv.windows.border(conv.padding)
    scratch = tuple(Scratch(size) for size in sizes)
    return Step(
        (batch, outputs, down, across), bind, scratch, conv.macs, border=border, either_out=True, strided_out=True
    )


def added_after_pool(arrays: Sequence[Array]) -> Sequence[Array]:
    """Return the addends after the pool, by channel: the pool's first, which may be a floor, then the Conv's."""
    return (*arrays[3:], *arrays[2:3])


def _end(room: Array, out: Array, arrays: Sequence[Array], activation: str) -> tuple[Array, list[Call]]:
    """Return an array (N, C, H, W) for a pool's result, contiguous in the order of `out`, and the calls to `out`.

    It is `out` itself if that is contiguous, else in the scratch buffer `room`: one long run and a copy take half the
    time of a pass over short runs.
    """
    final = is_last(out)
    memory = last(out) if final else out
    whole = memory.flags.c_contiguous
    best = flat(memory) if whole else room[: out.size]
    by_pixel = (np.repeat(term, 1 if final else prod(out.shape[2:])) for term in added_after_pool(arrays))
    calls = finish(best, best, [np.tile(term, best.size // term.size) for term in by_pixel], activation)
    shaped = best.reshape(memory.shape)
    return first(shaped) if final else shaped, calls if whole else [*calls, copy(memory, shaped)]


def parities(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Multiply columns of both parities with the weight; the Conv's bias and activation come after the pool."""
    found = read_conv_pool(node, inputs)
    if not isinstance(found, Parities):
        return None
    conv, (batch, outputs), (down, across) = found.conv, found.conv.shape[:2], found.pooled
    windows, (height, width), pixels = conv.windows, found.framed, found.pixels
    end = tuple(total - b - size for total, b, size in zip(found.framed, windows.begin, windows.size, strict=True))
    line = width // 2 * outputs  # products of a row
    sizes = (
        (2, conv.weight[1], height, width // 2),
        (*conv.weight[1:], 2, pixels),
        (2, pixels * outputs),
        (pixels * outputs - line,),
    )

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        places, columns, products, best = scratch
        # Each row is compared with the next in one run; every second comparison is not used.
        rows = as_strided(best, (down, across * outputs), (2 * line * best.itemsize, best.itemsize))
        added = [np.tile(term, best.size // outputs) for term in added_after_pool(arrays)]
        calls: list[Call] = []
        for item, target in zip(arrays[0], last(out), strict=True):
            calls += [
                copy(places.reshape(2, -1), flat(item).reshape(-1, 2).T),
                *_gather(places, columns),
                gemm(columns.reshape(found.inner, -1).T, arrays[1], products.reshape(-1, outputs)),
                partial(np.maximum, products[0], products[1], out=products[0]),
                partial(np.maximum, products[0, :-line], products[0, line:], out=best),
                *finish(best, best, added, conv.activation),
                copy(target.reshape(down, -1), rows),
            ]
        return calls

    return Step(
        (batch, outputs, down, across),
        bind,
        tuple(Scratch(size) for size in sizes),
        conv.macs,
        layout=Layout.LAST,
        input_layout=Layout.PLANAR,
        border=Border(windows.begin, end, conv.padding) if found.framed != windows.size else None,
        strided_out=True,
        packs={1: Pack("columns", lambda weight: np.ascontiguousarray(weight.reshape(outputs, -1).T))},
    )


def _gather(places: Array, columns: Array) -> list[Call]:
    """Copy (parity, C, height, width / 2) to columns (C, rows, taps, parity of the window, pixels).

    An even tap has the parity of its window; an odd tap the other one, and for odd windows it lies one place further.
    """
    parity, channel, row, place = places.strides
    calls = []
    for odd, following in enumerate((parity, place - parity)[: columns.shape[2]]):
        target = columns[:, :, odd::2]
        strides = (channel, row, place, following, place)
        calls.append(copy(target, as_strided(places[odd:], target.shape, strides, writeable=False)))
    return calls


def bands(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Multiply wide windows with a band matrix; the Conv's bias and activation come after the pool."""
    found = read_conv_pool(node, inputs)
    if not isinstance(found, Bands):
        return None
    conv, (batch, outputs) = found.conv, found.conv.shape[:2]
    numbers = outputs * prod(found.pooled)  # of an item's output
    items = min(batch, max(1, COLUMN_BYTES // (4 * found.copies * found.rows * found.inner)))
    scratch = (
        Scratch((items * found.copies * found.rows * found.inner,)),
        Scratch((items * 4 * numbers,)),
        Scratch((items * numbers,)),
    )

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        for start in range(0, batch, items):
            some = slice(start, start + items)
            calls += _block(last(arrays[0])[some], arrays, out[some], scratch)
        return calls

    def _block(data: Array, arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        windows = _windows(found, data)
        rows = scratch[0][: windows.size].reshape(-1, found.inner)
        products = scratch[1][: 4 * out.size].reshape(-1, found.columns)
        upper, lower = products.reshape(2, -1)
        pairs = upper.reshape(-1, 2, found.columns // 2) if found.places else upper.reshape(1, 2, -1)
        best, end = _end(scratch[2], out, arrays, conv.activation)
        return [
            copy(rows.reshape(windows.shape), windows),
            *product_by_rows(rows, arrays[1], products),
            partial(np.maximum, upper, lower, out=upper),
            partial(np.maximum, pairs[:, 0], pairs[:, 1], out=last(best).reshape(len(pairs), -1)),
            *end,
        ]

    return Step(
        (batch, outputs, *found.pooled),
        bind,
        scratch,
        conv.macs,
        layout=Layout.LAST,
        border=conv.windows.border(conv.padding),
        strided=True,
        strided_out=True,
        packs={1: Pack(f"bands{found.places}", partial(_matrix, found.places))},
    )


def _windows(found: Bands, data: Array) -> Array:
    """Return (N, framed height, framed width, C) as windows in the order in which they are multiplied."""
    conv, (down, across) = found.conv, found.pooled
    item, row, pixel, number = data.strides
    order: tuple[tuple[int, int], ...]
    inside = ((conv.weight[2], row), (found.taken, pixel), (conv.weight[1], number))
    if found.places:
        order = ((2, row), (data.shape[0], item), (down, 2 * row), (across // found.places, 2 * found.places * pixel))
    else:
        order = ((2, row), (2, pixel), (data.shape[0], item), (down, 2 * row), (across, 2 * pixel))
    sizes, strides = zip(*order, *inside, strict=True)
    return as_strided(data, sizes, strides, writeable=False)


def _matrix(places: int, weight: Array) -> Array:
    """Rearrange (O, C, rows, taps) to (rows * pixels taken * C, place in a pool window * places * O)."""
    outputs, channels, rows, taps = weight.shape
    parities, places = (2, places) if places else (1, 1)
    taken = taps + parities * places - 1
    found = np.zeros((rows, taken, channels, parities, places, outputs), np.float32)
    for parity in range(parities):
        for place in range(places):
            start = 2 * place + parity
            found[:, start : start + taps, :, parity, place] = weight.transpose(2, 3, 1, 0)
    return found.reshape(rows * taken * channels, -1)
