"""Multiplies matrices with a parameter, in panels small enough for the BLAS kernels that skip packing.

OpenBLAS first copies ("packs") both operands of a product into its own order, the weights again at each call, although
they never change. On some cores it has kernels for small products, rows * inner * columns up to 100^3, that read the
operands in place. Cut into such pieces by one stacked matmul, a product runs at 110 to 115 GFLOP/s instead of 71 to 105
for the whole (Zen 4, one core, the 1x1 layers of ResNet-50; peak about 117). Pieces have 12 rows, the best fit for the
kernels' registers: 12 rows 113, 13 rows 104, 16 rows 107.
"""

from __future__ import annotations

from math import prod

import numpy as np

from engine.graph import Array
from engine.kernels import blas
from engine.kernels.step import Call, gemm

# Used only with a BLAS that has products without packing, that is, on cores with AVX-512; VECTOR also by conv_pool,
# where OpenBLAS on ARM pads to 4 columns, without another choice for any shipped net.
SMALL_PRODUCT = 1_000_000
ROWS = 12
MAX_WIDTH = 64
VECTOR = 16  # columns of a vector register: a product with fewer takes as long
MIN_PART = 256  # columns of a wide product, cut into parts


def panel_width(inner: int, columns: int) -> int | None:
    """Return the columns of a panel with which at least ROWS rows make a small product; None if there is no such width.

    All columns, or a multiple of VECTOR, and the last panel has the rest: 1000 by 64 take 0.94 of 1000 by 50. The rest
    is never a single column, which NumPy might not pass to BLAS.
    """
    limit = min(SMALL_PRODUCT // (ROWS * inner), MAX_WIDTH)
    if columns <= limit:
        return columns
    widths = [width for width in range(VECTOR, limit + 1, VECTOR) if columns % width != 1]
    return max(widths, key=lambda width: (columns % width == 0, width), default=None)


def inner_parts(inner: int) -> int:
    """Return into how many parts, summed afterwards, to cut a long inner axis so that panels can have full width."""
    minimum = -(-inner * ROWS * MAX_WIDTH // SMALL_PRODUCT)
    return next((parts for parts in range(minimum, 2 * minimum + 1) if inner % parts == 0), 1)


def panels(matrix: Array, width: int) -> Array:
    """Rearrange (..., inner, columns) to contiguous (..., panels, inner, width), padded with zeros."""
    *stack, inner, columns = matrix.shape
    found = np.zeros((*stack, -(-columns // width), inner, width), np.float32)
    for at, start in enumerate(range(0, columns, width)):
        part = matrix[..., start : start + width]
        found[..., at, :, : part.shape[-1]] = part
    return found


def product(a: Array, b: Array, out: Array) -> list[Call]:
    """Prepare out = a @ b for stacks of matrices: (..., rows, inner) times (..., inner, columns), or b in `panels`.

    `out`, (..., rows, columns), must not overlap the others.
    """
    if b.ndim == a.ndim:
        return [gemm(a, b, out)]
    count, inner, width = b.shape[-3:]
    if rest := out.shape[-1] % width:
        return [
            *product(a, b[..., :-1, :, :], out[..., :-rest]),
            *product(a, b[..., -1:, :, :rest], out[..., -rest:]),
        ]
    by_panel = out.reshape(*out.shape[:-1], count, width)
    # The larger operand is read once, the smaller stays in the cache.
    panels_outside = prod(b.shape[-3:]) > prod(a.shape[-2:])
    calls = []
    for start, tiles, rows in row_tiles(a.shape[-2], SMALL_PRODUCT // (inner * width)):
        along = slice(start, start + tiles * rows)
        left = a[..., along, :].reshape(*a.shape[:-2], tiles, rows, inner)
        target = by_panel[..., along, :, :].reshape(*a.shape[:-2], tiles, rows, count, width)
        target = np.moveaxis(target, -2, -4 if panels_outside else -3)
        left, right = (
            (left[..., None, :, :, :], b[..., None, :, :])
            if panels_outside
            else (
                left[..., None, :, :],
                b[..., None, :, :, :],
            )
        )
        calls.append(gemm(left, right, target))
    return calls


def product_by_columns(a: Array, b: Array, out: Array) -> list[Call]:
    """Prepare out = a @ b for a wide b: by parts that make small products, if these are fast on this core."""
    (rows, inner), columns = a.shape, b.shape[1]
    length = SMALL_PRODUCT // (rows * inner) // 64 * 64 if blas.has_small_products() else 0
    if length < MIN_PART or length >= columns:
        return [gemm(a, b, out)]
    whole = columns // length * length
    parts = [array[:, :whole].reshape(len(array), -1, length).transpose(1, 0, 2) for array in (b, out)]
    rest = [gemm(a, b[:, whole:], out[:, whole:])] if whole < columns else []
    return [gemm(a, *parts), *rest]


def product_by_rows(a: Array, b: Array, out: Array) -> list[Call]:
    """Prepare out = a @ b for contiguous a and out: in equal parts of a that make small products, if these are fast."""
    rows, inner = a.shape
    minimum = -(-rows * inner * b.shape[1] // SMALL_PRODUCT) if blas.has_small_products() else 1
    parts = next((parts for parts in range(minimum, 2 * minimum + 1) if rows % parts == 0), 1)
    if parts == 1:
        return [gemm(a, b, out)]
    return [gemm(a.reshape(parts, -1, inner), b, out.reshape(parts, -1, b.shape[1]))]


def row_tiles(rows: int, limit: int) -> list[tuple[int, int, int]]:
    """Return (start, number of tiles, rows of each) for few runs of tiles, multiples of ROWS up to `limit` rows."""
    if rows <= limit:
        return [(0, 1, rows)]
    size = max(ROWS, (limit - ROWS // 2) // ROWS * ROWS) if limit >= ROWS else limit
    tiles, rest = divmod(rows, size)
    if 0 < rest <= min(limit - size, ROWS // 2):  # a last tile of a few rows would be slow: make it longer
        tiles, rest = tiles - 1, rest + size
    found = [(0, tiles, size)] if tiles else []
    return [*found, (rows - rest, 1, rest)] if rest else found
