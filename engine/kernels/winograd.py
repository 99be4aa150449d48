"""Conv 3x3 by Winograd's minimal filtering F(m x m, 3 x 3), channels last, all of it stacked matrix products.

Output tiles of m x m take (m + 2)^2 products instead of 9 m^2: 2.25 times fewer for m = 2, 4 times for m = 4. Input
tiles d, weights g and output tiles y are transformed on both sides, y = A' [(G g G') * (B' d B)] A, with the matrices
of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308). The sums of m = 4 cancel:
its largest error is about 1e-5 of the output's largest number, against 5e-7 for m = 2 and for plain products.

With a dilation of d every d-th row and column make a picture of their own; tiles are taken from each of the d^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine import blas
from engine.graph import Array, Node
from engine.kernels.conv import read
from engine.kernels.products import panel_width, product
from engine.kernels.step import (
    FLOOR,
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
    finish_channels,
    first,
    flat,
    gemm,
    last,
)

# m -> A', B', G
MATRICES = {
    2: (
        ((1, 1, 1, 0), (0, 1, -1, -1)),
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    ),
    4: (
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
        (
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
    ),
}
LEAST_CHANNELS = 16  # with fewer, the transforms cost more than the products they save
# Of transformed input and output tiles; or as much as the weights, if these are larger: every slab reads all of them.
SLAB_BYTES = 768 << 10
TRANSFORMED = 64  # outputs whose weights are transformed at a time


def winograd4(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """F(4 x 4, 3 x 3)."""
    return _winograd(node, inputs, 4)


def winograd2(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """F(2 x 2, 3 x 3)."""
    return _winograd(node, inputs, 2)


def _winograd(node: Node, inputs: Sequence[Operand], m: int) -> Step | None:
    conv = read(node, inputs)
    windows, (outputs, channels) = conv.windows, conv.weight[:2]
    plain = windows.kernel == (3, 3) and windows.strides == (1, 1) and conv.group == 1
    if not plain or not conv.fixed or min(outputs, channels) < LEAST_CHANNELS:
        return None
    n, (batch, _, height, width) = m + 2, conv.shape
    (apart_y, apart_x) = apart = windows.dilations
    down, across = (-(-size // (m * step)) for size, step in zip((height, width), apart, strict=True))
    row_tiles = apart_y * across * apart_x  # tiles in a row of them
    if n * n * down * row_tiles > 9 * height * width:
        return None
    framed = (apart_y * (down * m + 2), apart_x * (across * m + 2))
    end = tuple(total - b - size for total, b, size in zip(framed, windows.begin, windows.size, strict=True))
    border = Border(windows.begin, end, conv.padding)
    panel = panel_width(channels, outputs) if blas.has_small_products() else None
    slab_bytes = max(SLAB_BYTES, 4 * n * n * channels * outputs)
    slab = min(down, max(1, slab_bytes // (4 * n * n * row_tiles * (channels + outputs))))
    tiles = slab * row_tiles
    scratch = (
        Scratch((slab * apart_y, n, framed[1] * channels)),  # rows transformed
        Scratch((n, n, tiles * channels)),  # and gathered: column of the tile, row of the tile
        Scratch((n, n, tiles * channels)),  # columns transformed
        Scratch((n, n, tiles * outputs)),  # products
        Scratch((m, n, tiles * outputs)),  # columns of the output
        Scratch((m, m, tiles * outputs)),  # rows of it
    )
    back, there, _ = (np.array(matrix, np.float32) for matrix in MATRICES[m])

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        data = last(arrays[0])
        calls: list[Call] = []
        bias, residual = conv.added(arrays)
        biases = [] if bias is None else [bias]
        floors = [biases.pop()] if conv.activation == FLOOR else []
        for item in range(batch):
            for top in range(0, down, slab):
                rows = min(slab, down - top)
                tiles = _tiles(data[item, top * m * apart_y :], rows, arrays[1], biases, scratch)
                calls += tiles[0]
                lines = slice(top * m * apart_y, min((top + rows) * m * apart_y, height))
                here = (slice(item, item + 1), slice(None), lines)
                calls += _finish(tiles[1], out[here], floors, None if residual is None else residual[here], scratch)
        return calls

    def _finish(
        tiles: Array, out: Array, floors: Sequence[Array], residual: Array | None, scratch: Sequence[Array]
    ) -> list[Call]:
        """From tiles in a picture's order: the activation and a residual, in one pass if it can be."""
        size = (prod(tiles.shape[:3]), prod(tiles.shape[3:6]))
        if residual is None and out.shape[2:] == size:
            return finish(tiles, last(out)[0].reshape(tiles.shape), floors, conv.activation)
        # Once summed up, products are not read again: the picture takes their place.
        picture = flat(scratch[3])[: tiles.size].reshape(tiles.shape)
        calls: list[Call] = [copy(picture, tiles)]
        picture = picture.reshape(1, *size, outputs)[:, : out.shape[2], :width]
        floor = floors[0] if floors else None
        return calls + finish_channels(first(picture), out, floor, residual, conv.activation, conv.late)

    def _tiles(
        data: Array, rows: int, weight: Array, biases: Sequence[Array], scratch: Sequence[Array]
    ) -> tuple[list[Call], Array]:
        """Calls that make some tile rows of the output from (rows, framed width, channels); and these tiles."""
        count = rows * row_tiles
        pixels = data.reshape(data.shape[0], -1)
        row, number = pixels.strides
        lines = as_strided(
            pixels,
            (rows, apart_y, n, pixels.shape[1]),
            (m * apart_y * row, row, apart_y * row, number),
            writeable=False,
        )
        one = flat(scratch[0])[: lines.size].reshape(lines.shape)
        columns = one.reshape(rows * apart_y, n, framed[1], channels)
        tile, row, pixel, number = columns.strides
        view = as_strided(
            columns,
            (n, n, rows * apart_y, across, apart_x, channels),
            (apart_x * pixel, row, tile, m * apart_x * pixel, pixel, number),
            writeable=False,
        )
        gathered, turned = (_stack(buffer, n, n, count * channels) for buffer in scratch[1:3])
        products = _stack(scratch[3], n, n, count * outputs)
        half, done = _stack(scratch[4], m, n, count * outputs), _stack(scratch[5], m, m, count * outputs)
        ones = products[1, 1].reshape(count, outputs)  # every output of a tile has this product once: A' is 1 there
        calls: list[Call] = [
            gemm(there, lines, one),
            copy(gathered.reshape(view.shape), view),
            gemm(there, gathered.transpose(1, 0, 2), turned.transpose(1, 0, 2)),
            *product(turned.reshape(n * n, count, channels), weight, products.reshape(n * n, count, outputs)),
            *(partial(np.add, ones, bias, ones) for bias in biases),
            gemm(back, products.transpose(1, 0, 2), half.transpose(1, 0, 2)),
            gemm(back, half, done),
        ]
        parts = done.reshape(m, m, rows, apart_y, across, apart_x, outputs)
        return calls, parts.transpose(2, 1, 3, 4, 0, 5, 6)

    return Step(
        (batch, outputs, height, width),
        bind,
        scratch,
        conv.macs,
        layout=Layout.LAST,
        border=border,
        strided=True,
        strided_out=True,
        packs={1: Pack(f"winograd{m}/{panel}", partial(_transform, m, panel))},
    )


def _stack(buffer: Array, a: int, b: int, length: int) -> Array:
    """The front of a scratch buffer as (a, b, length)."""
    return flat(buffer)[: a * b * length].reshape(a, b, length)


def _transform(m: int, panel: int | None, weight: Array) -> Array:
    """(O, I, 3, 3) -> (columns of the tile * rows of the tile, I, O), or that in panels; computed in float64."""
    both = np.kron(MATRICES[m][2], MATRICES[m][2])  # G g G' as one product; transposed, columns first
    outputs, channels = weight.shape[:2]
    width = panel or TRANSFORMED  # in float64, all at once would take 8 times what the weights do
    found = np.empty((len(both), outputs // panel, channels, panel) if panel else (len(both), channels, outputs), "f4")
    for start in range(0, outputs, width):
        taps = weight[start : start + width].transpose(3, 2, 1, 0).reshape(9, -1).astype(np.float64)
        target = found[:, start // width] if panel else found[:, :, start : start + width]
        target[...] = (both @ taps).reshape(target.shape)
    return found


KERNELS: tuple[Kernel, ...] = (winograd4, winograd2)
