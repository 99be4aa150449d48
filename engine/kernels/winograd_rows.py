"""A Conv with three rows of taps and the 2x2 MaxPool after it, by Winograd's F(4, 3) down the rows alone.

Four rows of outputs take six products instead of twelve. Across a row, whole windows are multiplied as they are: so
there are few passes, all over long runs. For the small pictures whose pool is part of their convolution (see
`engine.kernels.conv_pool`) that is quicker than to filter both ways, and its largest error is no more than 2e-6 of the
output's largest number. What the pool compares are the halves of one run, columns first, then rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node
from engine.kernels.conv import read
from engine.kernels.conv_pool import COLUMN_BYTES, added_after_pool
from engine.kernels.step import (
    Border,
    Call,
    Kernel,
    Layout,
    Operand,
    Pack,
    Scratch,
    Step,
    copy,
    finish,
    flat,
    gemm,
    last,
)
from engine.kernels.winograd import LEAST_CHANNELS, MATRICES

BACK, THERE, FILTER = (np.array(matrix, np.float32) for matrix in MATRICES[4])
ROWS, TAKEN = BACK.shape  # of outputs and inputs that a tile has
HALVES = BACK[[0, 2, 1, 3]]  # first the upper rows of the pool's windows, then the lower ones


def winograd_rows(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """See above; the Conv's bias and activation come after the pool."""
    conv = read(node, inputs)
    windows, (outputs, channels) = conv.windows, conv.weight[:2]
    plain = len(conv.shape) == 4 and conv.group == 1 and conv.fixed
    if not plain or prod(windows.strides) * prod(windows.dilations) > 1 or min(outputs, channels) < LEAST_CHANNELS:
        return None
    batch, (height, width) = conv.shape[0], (size // 2 for size in conv.shape[2:])
    down = -(-2 * height // ROWS)  # tiles
    if windows.kernel[0] != FILTER.shape[1] or TAKEN * down >= FILTER.shape[1] * 2 * height:
        return None
    framed = (max(windows.padded[0], ROWS * down + TAKEN - ROWS), windows.padded[1])
    end = tuple(total - b - size for total, b, size in zip(framed, windows.begin, windows.size, strict=True))
    line, inner, pairs = framed[1] * channels, windows.kernel[1] * channels, down * width
    items = min(batch, max(1, COLUMN_BYTES // (4 * TAKEN * 2 * pairs * inner)))
    scratch = (
        Scratch((items, down * TAKEN * line)),  # rows transformed
        Scratch((items, TAKEN * 2 * pairs * inner)),  # windows of them
        Scratch((items, TAKEN * 2 * pairs * outputs)),  # products
        Scratch((items, ROWS * 2 * pairs * outputs)),  # outputs
    )

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        for start in range(0, batch, items):
            some = slice(start, start + items)
            tiles, best = _tiles(last(arrays[0])[some], arrays[1], scratch)
            calls += [*tiles, *_finish(best, added_after_pool(arrays), last(out)[some])]
        return calls

    def _tiles(data: Array, weight: Array, scratch: Sequence[Array]) -> tuple[list[Call], Array]:
        """Calls from (N, framed height, framed width, C) to (row of a pooled tile, N, tile, a line), and the latter."""
        count = len(data)
        item, row, _, number = data.strides
        lines = as_strided(data, (count, down, TAKEN, line), (item, ROWS * row, row, number), writeable=False)
        turned, columns, products, tiles = (flat(buffer[:count]) for buffer in scratch)
        pixel, row, tile = (number * length for length in (channels, line, TAKEN * line))
        taken = as_strided(
            turned, (TAKEN, 2, count * down, width, inner), (row, pixel, tile, 2 * pixel, number), writeable=False
        )
        calls = [
            gemm(THERE, lines, turned.reshape(lines.shape)),
            copy(columns.reshape(taken.shape), taken),
            gemm(columns.reshape(TAKEN, -1, inner), weight, products.reshape(TAKEN, -1, outputs)),
            gemm(HALVES, products.reshape(TAKEN, 2, -1).transpose(1, 0, 2), tiles.reshape(2, ROWS, -1)),
        ]
        best = tiles
        for _ in range(2):
            best, other = best.reshape(2, -1)
            calls.append(partial(np.maximum, best, other, out=best))
        return calls, best.reshape(2, count, down, -1)

    def _finish(tiles: Array, added: Sequence[Array], out: Array) -> list[Call]:
        """What is added, and the activation, from there to (N, H, W, C); the last tile may have one row too many."""
        numbers, (even, odd) = flat(tiles), divmod(height, 2)
        first = [np.tile(term, width) for term in added[:1]]
        calls = finish(numbers, numbers, [np.tile(term, numbers.size // outputs) for term in added[1:]], "")
        lines = out.reshape(len(out), height, -1)
        whole = lines[:, : 2 * even].reshape(len(out), even, 2, -1).transpose(2, 0, 1, 3)
        calls += finish(tiles[:, :, :even], whole, first, conv.activation)
        return calls + (finish(tiles[0, :, even], lines[:, -1], first, conv.activation) if odd else [])

    return Step(
        (batch, outputs, height, width),
        bind,
        scratch,
        conv.macs,
        layout=Layout.LAST,
        border=Border(windows.begin, end, conv.padding),
        strided_out=True,
        packs={1: Pack("winograd rows", _transform)},
    )


def _transform(weight: Array) -> Array:
    """(O, C, 3, taps) -> (TAKEN, taps * C, O)."""
    taps = weight.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(np.tensordot(FILTER, taps, 1).reshape(TAKEN, -1, len(weight)))


KERNELS: tuple[Kernel, ...] = (winograd_rows,)
