"""Matrix products with a parameter, in panels small enough for the BLAS kernels that skip packing.

OpenBLAS first copies ("packs") both operands of a product into its own order; the weights anew at each call, though
they never change. On some cores it has kernels for small products, rows * inner * columns up to 100^3, that read the
operands where they lie. Cut into such pieces by one stacked matmul, a product runs at 110 to 115 GFLOP/s where the
whole runs at 71 to 105 (Zen 4, one core, the 1x1 layers of ResNet-50; peak about 117). Rows go by 12, which the
kernels' registers like best: 12 rows 113, 13 rows 104, 16 rows 107.
"""

from __future__ import annotations

from math import prod

import numpy as np

from engine.graph import Array
from engine.kernels import blas
from engine.kernels.step import Call, gemm

SMALL_PRODUCT = 1_000_000
ROWS = 12
MAX_WIDTH = 64
VECTOR = 16  # columns that a product takes for the price of fewer
MIN_PART = 256  # columns of a wide product, cut into parts


def panel_width(inner: int, columns: int) -> int | None:
    """How many columns a panel should have, so that at least ROWS rows make a small product; None if that fails.

    All of them, or a multiple of VECTOR, and the last panel has what is left: 1000 by 64 take 0.94 of 1000 by 50. More
    than one column, as NumPy might not know a single one for a matrix that fits BLAS.
    """
    most = min(SMALL_PRODUCT // (ROWS * inner), MAX_WIDTH)
    if columns <= most:
        return columns
    widths = [width for width in range(VECTOR, most + 1, VECTOR) if columns % width != 1]
    return max(widths, key=lambda width: (columns % width == 0, width), default=None)


def inner_parts(inner: int) -> int:
    """Into how many parts, summed up afterwards, to cut a long inner axis so that panels may have full width."""
    least = -(-inner * ROWS * MAX_WIDTH // SMALL_PRODUCT)
    return next((parts for parts in range(least, 2 * least + 1) if inner % parts == 0), 1)


def panels(matrix: Array, width: int) -> Array:
    """(..., inner, columns) -> (..., panels, inner, width), contiguous; the last has zeros where columns end."""
    *stack, inner, columns = matrix.shape
    found = np.zeros((*stack, -(-columns // width), inner, width), np.float32)
    for at, start in enumerate(range(0, columns, width)):
        part = matrix[..., start : start + width]
        found[..., at, :, : part.shape[-1]] = part
    return found


def product(a: Array, b: Array, out: Array) -> list[Call]:
    """out = a @ b, prepared; stacks of matrices, or b in `panels`.

    Args:
        a: (..., rows, inner).
        b: (..., inner, columns), or that in `panels`.
        out: (..., rows, columns), no copy of anything else.
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
    # The larger of the two streams by once, the smaller stays in the cache.
    panels_outside = prod(b.shape[-3:]) > prod(a.shape[-2:])
    calls = []
    for start, tiles, rows in _tiles(a.shape[-2], SMALL_PRODUCT // (inner * width)):
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
    """out = a @ b, prepared, for a wide b: by parts of it that make small products, where these are quick."""
    (rows, inner), columns = a.shape, b.shape[1]
    length = SMALL_PRODUCT // (rows * inner) // 64 * 64 if blas.has_small_products() else 0
    if length < MIN_PART or length >= columns:
        return [gemm(a, b, out)]
    whole = columns // length * length
    parts = [array[:, :whole].reshape(len(array), -1, length).transpose(1, 0, 2) for array in (b, out)]
    rest = [gemm(a, b[:, whole:], out[:, whole:])] if whole < columns else []
    return [gemm(a, *parts), *rest]


def product_by_rows(a: Array, b: Array, out: Array) -> list[Call]:
    """out = a @ b, prepared, for contiguous a and out: in equal parts of a that make small products, as above."""
    rows, inner = a.shape
    least = -(-rows * inner * b.shape[1] // SMALL_PRODUCT) if blas.has_small_products() else 1
    parts = next((parts for parts in range(least, 2 * least + 1) if rows % parts == 0), 1)
    if parts == 1:
        return [gemm(a, b, out)]
    return [gemm(a.reshape(parts, -1, inner), b, out.reshape(parts, -1, b.shape[1]))]


def _tiles(rows: int, most: int) -> list[tuple[int, int, int]]:
    """(start, number of tiles, rows of each) that cover all rows, `most` at a time; few of them, by ROWS each."""
    if rows <= most:
        return [(0, 1, rows)]
    size = max(ROWS, (most - ROWS // 2) // ROWS * ROWS) if most >= ROWS else most
    tiles, rest = divmod(rows, size)
    if 0 < rest <= min(most - size, ROWS // 2):  # a last tile of a few rows would crawl: make it longer
        tiles, rest = tiles - 1, rest + size
    found = [(0, tiles, size)] if tiles else []
    return [*found, (rows - rest, 1, rest)] if rest else found
