"""Runs Conv with three rows of taps, perhaps a 2x2 MaxPool, by Winograd's F(4, 3) along columns only; channels last.

Four rows of outputs take six products instead of twelve. Along a row, whole windows are multiplied without a transform,
so there are few passes, all over long runs. For small images that is faster than transforms along both axes
(`engine.kernels.winograd`), and its largest error is at most 2e-6 of the output's largest number. A pool
(`engine.kernels.conv_pool`) compares the halves of one run, columns first, then rows.
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
    reads_twice,
)
from engine.kernels.winograd import MIN_CHANNELS, matrices

TO_OUTPUT, TO_PRODUCTS, FILTER = (matrix.astype(np.float32) for matrix in matrices(4))
ROWS, TAKEN = TO_OUTPUT.shape  # rows of outputs and of inputs in a tile
HALVES = TO_OUTPUT[[0, 2, 1, 3]]  # first the upper rows of the pool's windows, then the lower ones


def winograd_rows(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Run a Conv."""
    return _winograd_rows(node, inputs, 1)


def winograd_rows_pool(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Run a Conv and its pool; the Conv's bias and activation come after the pool."""
    return _winograd_rows(node, inputs, 2)


def _winograd_rows(node: Node, inputs: Sequence[Operand], pool: int) -> Step | None:
    conv = read(node, inputs)
    windows, (outputs, channels) = conv.windows, conv.weight[:2]
    plain = len(conv.shape) == 4 and conv.group == 1 and conv.fixed
    if not plain or prod(windows.strides) * prod(windows.dilations) > 1 or min(outputs, channels) < MIN_CHANNELS:
        return None
    batch, (height, width), kept = conv.shape[0], (size // pool for size in conv.shape[2:]), ROWS // pool
    down = -(-height // kept)  # tiles, each with `kept` rows after the pool
    if windows.kernel[0] != FILTER.shape[1] or TAKEN * down >= FILTER.shape[1] * pool * height:
        return None
    framed = (max(windows.padded[0], ROWS * down + TAKEN - ROWS), windows.padded[1])
    end = tuple(total - b - size for total, b, size in zip(framed, windows.begin, windows.size, strict=True))
    line, inner, places = framed[1] * channels, windows.kernel[1] * channels, pool * down * width
    items = min(batch, COLUMN_BYTES // (4 * TAKEN * places * inner))
    if not items:
        return None
    scratch = (
        Scratch((items, down * TAKEN * line)),  # rows transformed
        Scratch((items, TAKEN * places * inner)),  # windows of them
        Scratch((items, TAKEN * places * outputs)),  # products
        Scratch((items, ROWS * places * outputs)),  # outputs
    )

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        bias, residual = conv.added(arrays)
        added = added_after_pool(arrays) if pool > 1 else () if bias is None else (bias,)
        for start in range(0, batch, items):
            some = slice(start, start + items)
            others = [] if residual is None else [last(residual)[some]]
            made, tiles = _tiles(last(arrays[0])[some], arrays[1], scratch)
            calls += [*made, *_finish(tiles, added, others, last(out)[some])]
        return calls

    def _tiles(data: Array, weight: Array, scratch: Sequence[Array]) -> tuple[list[Call], Array]:
        """Return the calls from (N, framed height, framed width, C) to tiles (row, N, tile, line), and the tiles."""
        count = len(data)
        item, row, _, number = data.strides
        lines = as_strided(data, (count, down, TAKEN, line), (item, ROWS * row, row, number), writeable=False)
        turned, columns, products, tiles = (flat(buffer[:count]) for buffer in scratch)
        pixel, row, tile = (number * length for length in (channels, line, TAKEN * line))
        shape, strides = (TAKEN, pool, count * down, width, inner), (row, pixel, tile, pool * pixel, number)
        calls = [
            gemm(TO_PRODUCTS, lines, turned.reshape(lines.shape)),
            copy(columns.reshape(shape), as_strided(turned, shape, strides, writeable=False)),
            gemm(columns.reshape(TAKEN, -1, inner), weight, products.reshape(TAKEN, -1, outputs)),
        ]
        if pool == 1:
            calls.append(gemm(TO_OUTPUT, products.reshape(TAKEN, -1), tiles.reshape(ROWS, -1)))
            return calls, tiles.reshape(ROWS, count, down, -1)
        calls.append(gemm(HALVES, products.reshape(TAKEN, 2, -1).transpose(1, 0, 2), tiles.reshape(2, ROWS, -1)))
        for _ in range(2):
            tiles, other = tiles.reshape(2, -1)
            calls.append(partial(np.maximum, tiles, other, out=tiles))
        return calls, tiles.reshape(kept, count, down, -1)

    def _finish(tiles: Array, added: Sequence[Array], others: Sequence[Array], out: Array) -> list[Call]:
        """Prepare addends and activation, from tiles to (N, H, W, C); the last tile may have superfluous rows."""
        numbers, whole, late = flat(tiles), height // kept, int(conv.late)
        calls: list[Call] = []
        at_once = not others and not reads_twice(
            conv.activation
        )  # one long run and a copy: half the time of short runs
        if at_once:
            terms = [np.tile(term, numbers.size // outputs) for term in added]
            calls += finish(numbers, numbers, terms, conv.activation)
        for start, count, rows in ((0, whole, kept), (whole, 1, height % kept)):
            if count * rows:
                some = slice(start * kept, start * kept + count * rows)
                target, *more = (
                    array[:, some].reshape(len(out), count, rows, -1).transpose(2, 0, 1, 3) for array in (out, *others)
                )
                source = tiles[:rows, :, start : start + count]
                if at_once:
                    calls.append(copy(target, source))
                else:
                    terms = [np.tile(term, width) for term in added]
                    calls += finish(source, target, terms + more[late:], conv.activation, more[:late])
        return calls

    return Step(
        (batch, outputs, height, width),
        bind,
        scratch,
        conv.macs,
        layout=Layout.LAST,
        border=Border(windows.begin, end, conv.padding),
        strided=True,
        strided_out=True,
        packs={1: Pack("winograd rows", _transform)},
    )


def _transform(weight: Array) -> Array:
    """Transform (O, C, 3, taps) to (TAKEN, taps * C, O)."""
    taps = weight.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(np.tensordot(FILTER, taps, 1).reshape(TAKEN, -1, len(weight)))
