"""Runs Conv 3x3 by Winograd's minimal filtering F(m x m, 3 x 3), channels last, as stacked matrix products.

Output tiles of m x m take (m + 2)^2 products instead of 9 m^2: 2.25 times fewer for m = 2, 4 times for m = 4, 4.6
times for m = 5, 5.1 times for m = 6. Input tiles d, weights g and output tiles y are
transformed on both sides, y = A' [(G g G') * (B' d B)] A; see Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (arXiv 1509.09308). Their sums cancel: the largest error is about 1e-6 of the output's largest number for
m = 4, 3e-6 for m = 5 and 6, against 2e-7 for m = 2 and for plain products.

With a dilation of d, every d-th row and column form a separate image; tiles are taken from each of the d^2 images.

`compiler.fusion.fuse_beside` fuses a 1x1 Conv of the same input (as in SqueezeNet's fire modules), this Conv and the
Concat that reads both into one node (BESIDE). The 1x1 Conv then multiplies the framed pixels directly into its channels
of the slab, so that one last pass serves both and nothing is copied: 0.85 of the time of the three nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product as cross
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node, Shape
from engine.kernels import blas, caches
from engine.kernels.conv import Convolution, read
from engine.kernels.conv_last import as_rows
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
    finish_channels,
    first,
    flat,
    gemm,
    last,
)

# m -> points of interpolation, without infinity. The second must be 1, and powers of two make exact matrices. Of such
# sets these have the smallest errors: (0, 1, -1, 2, -2) has three times the error of the set for m = 4, and +-2, +-1/2
# twice that of the set for m = 6, whose 3/2 costs no more rounding than a power of two.
POINTS = {
    2: (0, 1, -1),
    4: (0, 1, -1, 1 / 2, -2),
    5: (0, 1, -1, 1 / 2, -1 / 2, 3),
    6: (0, 1, -1, 1 / 2, -1 / 2, 3 / 2, -2),
}
BESIDE = "Conv|Conv"  # inputs: data, weight 3x3, weight 1x1 (its outputs come first), bias or floor of all outputs
# Smallest side for m = 6: 0.8 to 0.93 of the time of m = 4 from 112 up (vgg16), 0.9 to 1.1 at 56, more below.
MIN_SIDE = 56
MIN_CHANNELS = 16  # with fewer, the transforms cost more than the products they save
# Bytes of transformed input and output tiles; or as much as the weights, if larger: every slab reads all of them.
SLAB_BYTES = caches.group_bytes(768 << 10)
TRANSFORMED = 64  # outputs whose weights are transformed at a time


@dataclass(frozen=True)
class _Tiling:
    """Describes how the output of one 3x3 convolution is cut into tiles of m x m.

    Attributes:
        narrow: outputs of the 1x1 Conv beside it; 0 if there is none.
        down: rows of tiles in the output (with a dilation: in each of its images).
        across: tiles in such a row.
        slab: rows of tiles computed at a time.
        panel: width of the weight's panels; None: it is not cut into panels.
    """

    conv: Convolution
    m: int
    narrow: int
    down: int
    across: int
    slab: int
    panel: int | None

    @property
    def row_tiles(self) -> int:
        """Tiles in a row of them, of all images."""
        return self.across * prod(self.conv.windows.dilations)

    @property
    def framed(self) -> Shape:
        """Rows and columns of the input with its frame."""
        apart_y, apart_x = self.conv.windows.dilations
        return apart_y * (self.down * self.m + 2), apart_x * (self.across * self.m + 2)

    @property
    def border(self) -> Border:
        """The frame, which fills the last tiles too."""
        windows = self.conv.windows
        end = (total - b - size for total, b, size in zip(self.framed, windows.begin, windows.size, strict=True))
        return Border(windows.begin, tuple(end), self.conv.padding)


def _winograd(node: Node, inputs: Sequence[Operand], m: int) -> Step | None:
    tiling = _tiling(node, inputs, m)
    if tiling is None:
        return None
    conv, narrow = tiling.conv, tiling.narrow
    shape = (conv.shape[0], narrow + conv.shape[1], *conv.shape[2:])
    packs = {1: Pack(f"winograd{m}/{tiling.panel}", partial(_transform, m, tiling.panel))}
    return Step(
        shape,
        partial(_calls, tiling),
        _workspace(tiling),
        conv.macs + prod(conv.shape) // conv.shape[1] * conv.weight[1] * narrow,
        layout=Layout.LAST,
        border=tiling.border,
        strided=True,
        strided_out=True,
        packs=packs | {2: Pack("rows", as_rows)} if narrow else packs,
    )


def _tiling(node: Node, inputs: Sequence[Operand], m: int) -> _Tiling | None:
    """Return the tiles of a convolution; None if the kernel does not suit it, or saves nothing."""
    beside = node.op_type == BESIDE
    conv = read(node, inputs[:2] if beside else inputs)
    windows, (outputs, channels) = conv.windows, conv.weight[:2]
    plain = windows.kernel == (3, 3) and windows.strides == (1, 1) and conv.group == 1
    if not plain or not conv.fixed or min(outputs, channels) < MIN_CHANNELS:
        return None
    size, dilations = conv.shape[2:], windows.dilations
    count = _count(m, size, dilations)
    worse = m == 5 and count > 0.9 * _count(4, size, dilations)
    small = m == 6 and (min(size) < MIN_SIDE or count > 0.95 * min(_count(each, size, dilations) for each in (4, 5)))
    if worse or small or count > 9 * prod(size) or (beside and dilations != (1, 1)):
        return None
    down, across = (-(-length // (m * step)) for length, step in zip(size, dilations, strict=True))
    tile_bytes = 4 * (m + 2) ** 2
    slab_bytes = max(SLAB_BYTES, tile_bytes * channels * outputs)
    slab = min(down, max(1, slab_bytes // (tile_bytes * prod(dilations) * across * (channels + outputs))))
    panel = panel_width(channels, outputs) if blas.has_small_products() else None
    return _Tiling(conv, m, inputs[2].shape[0] if beside else 0, down, across, slab, panel)


def _workspace(tiling: _Tiling) -> tuple[Scratch, ...]:
    """Return the buffers of one slab, in the order of `_tiles`."""
    m, n, (outputs, channels) = tiling.m, tiling.m + 2, tiling.conv.weight[:2]
    tiles = tiling.slab * tiling.row_tiles
    return (
        Scratch((tiling.slab * tiling.conv.windows.dilations[0], n, tiling.framed[1] * channels)),  # rows transformed
        Scratch((n, n, tiles * channels)),  # gathered: column of the tile, row of the tile
        Scratch((n, n, tiles * channels)),  # columns transformed
        Scratch((tiles * max(n * n * outputs, m * m * (tiling.narrow + outputs)),)),  # products, then the image
        Scratch((m, n, tiles * outputs)),  # columns of the output
        Scratch((m, m, tiles * outputs)),  # rows of the output
    )


def _calls(tiling: _Tiling, arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
    """Prepare slab by slab: the tiles, the 1x1 Conv beside them, then the addends and the activation."""
    conv, narrow = tiling.conv, tiling.narrow
    batch, outputs, height, width = conv.shape
    total = narrow + outputs
    data = last(arrays[0])
    calls: list[Call] = []
    biases = [*arrays[3:]] if narrow else [*arrays[2 : 2 + conv.has_bias]]
    late = biases.pop(0) if biases and (narrow or conv.activation == FLOOR) else None
    residual = conv.added(arrays)[1]
    tile_rows = tiling.m * conv.windows.dilations[0]  # rows of the output that a row of tiles covers
    for item, top in cross(range(batch), range(0, tiling.down, tiling.slab)):
        rows = min(tiling.slab, tiling.down - top)
        made, tiles = _tiles(tiling, data[item, top * tile_rows :], rows, arrays[1], biases, scratch)
        calls += made
        lines = slice(top * tile_rows, min((top + rows) * tile_rows, height))
        # The products are not read after they are summed: the image takes their place.
        image = scratch[3][: tiles.size // outputs * total].reshape(*tiles.shape[:-1], total)
        calls.append(copy(image[..., narrow:], tiles))
        image = image.reshape(prod(image.shape[:3]), -1, total)[: lines.stop - lines.start, :width]
        if narrow:
            pixels = last(tiling.border.inside(arrays[0]))[item, lines]
            calls.append(gemm(pixels, arrays[2], image[..., :narrow]))
        part = (slice(item, item + 1), slice(None), lines)
        added = None if residual is None else residual[part]
        calls += finish_channels(first(image[None]), out[part], late, added, conv.activation, conv.late)
    return calls


def _tiles(
    tiling: _Tiling, data: Array, rows: int, weight: Array, biases: Sequence[Array], scratch: Sequence[Array]
) -> tuple[list[Call], Array]:
    """Return calls that make some tile rows of the output from (rows, framed width, channels); and these tiles."""
    m, n, across, (outputs, channels) = tiling.m, tiling.m + 2, tiling.across, tiling.conv.weight[:2]
    apart_y, apart_x = tiling.conv.windows.dilations
    to_output, to_products, _ = (matrix.astype(np.float32) for matrix in matrices(m))
    count = rows * tiling.row_tiles
    pixels = data.reshape(data.shape[0], -1)
    row, number = pixels.strides
    lines = as_strided(
        pixels,
        (rows, apart_y, n, pixels.shape[1]),
        (m * apart_y * row, row, apart_y * row, number),
        writeable=False,
    )
    transformed = flat(scratch[0])[: lines.size].reshape(lines.shape)
    columns = transformed.reshape(rows * apart_y, n, tiling.framed[1], channels)
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
        gemm(to_products, lines, transformed),
        copy(gathered.reshape(view.shape), view),
        gemm(to_products, gathered.transpose(1, 0, 2), turned.transpose(1, 0, 2)),
        *product(turned.reshape(n * n, count, channels), weight, products.reshape(n * n, count, outputs)),
        *(partial(np.add, ones, bias, ones) for bias in biases),
        gemm(to_output, products.transpose(1, 0, 2), half.transpose(1, 0, 2)),
        gemm(to_output, half, done),
    ]
    parts = done.reshape(m, m, rows, apart_y, across, apart_x, outputs)
    return calls, parts.transpose(2, 1, 3, 4, 0, 5, 6)


def _count(m: int, size: Shape, dilations: Shape) -> int:
    """Return the products of each input channel with each output channel for an output of this size."""
    return prod(step * -(-length // (m * step)) * (m + 2) for length, step in zip(size, dilations, strict=True))


def matrices(m: int) -> tuple[Array, Array, Array]:
    """Return A' (m, m + 2), B' (m + 2, m + 2) and G (m + 2, 3), float64, by Toom and Cook's algorithm at POINTS[m]."""
    points, n = np.array(POINTS[m], np.float64), m + 2
    to_output, to_products, weights = np.zeros((m, n)), np.zeros((n, n)), np.zeros((n, 3))
    for row, point in enumerate(points):
        others = np.delete(points, row)
        to_output[:, row] = point ** np.arange(m)
        to_products[row, :-1] = np.poly(others)[::-1]
        weights[row] = point ** np.arange(3) / np.prod(point - others)
    to_output[-1, -1] = weights[-1, -1] = 1
    to_products[-1] = np.poly(points)[::-1]
    return to_output, to_products, weights


def _stack(buffer: Array, a: int, b: int, length: int) -> Array:
    """Return the front of a scratch buffer as (a, b, length)."""
    return flat(buffer)[: a * b * length].reshape(a, b, length)


def _transform(m: int, panel: int | None, weight: Array) -> Array:
    """Transform (O, I, 3, 3) to (columns * rows of the tile, I, O), or that in panels; computed in float64."""
    both = np.kron(matrices(m)[2], matrices(m)[2])  # G g G' as one product; transposed, columns first
    outputs, channels = weight.shape[:2]
    width = panel or TRANSFORMED  # in float64, all at once would take 8 times what the weights do
    count = -(-outputs // width)
    found = np.zeros((len(both), count, channels, width) if panel else (len(both), channels, outputs), np.float32)
    for start in range(0, outputs, width):
        some = weight[start : start + width].transpose(3, 2, 1, 0).astype(np.float64)
        target = found[:, start // width] if panel else found[:, :, start:]
        target[..., : some.shape[-1]] = (both @ some.reshape(9, -1)).reshape(len(both), *some.shape[2:])
    return found


def _kernel(name: str, m: int) -> Kernel:
    """Return the kernel that computes F(m x m, 3 x 3), perhaps with a 1x1 Conv beside it."""

    def kernel(node: Node, inputs: Sequence[Operand]) -> Step | None:
        return _winograd(node, inputs, m)

    kernel.__name__ = name
    return kernel


winograd6 = _kernel("winograd6", 6)  # offered for large images if its tiles fit the output better than the others'
winograd5 = _kernel("winograd5", 5)  # offered if its tiles fit the output better than those of F(4 x 4, 3 x 3)
winograd4 = _kernel("winograd4", 4)
winograd2 = _kernel("winograd2", 2)
winograd5_beside = _kernel("winograd5_beside", 5)
winograd4_beside = _kernel("winograd4_beside", 4)
