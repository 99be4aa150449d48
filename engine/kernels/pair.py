"""A Conv and the depthwise Conv after it, planar: what lies between them never leaves the cache.

`engine.passes.fuse_pairs` makes such nodes of the blocks of MobileNets, whose middle is six times as wide as their
ends. Some channels of the middle are made at a time, by one product with a matrix that has the bias as its last column:
the columns it multiplies have a row of ones, which is zero in the frame that the depthwise Conv wants; so the frame
comes out as zeros by itself and the activation runs over all without a gap. Then each row of the kernel is one stacked
product with a band matrix by channel, T outputs from their (T - 1) * stride + kernel inputs. Five of six of its
multiply-adds are with zeros, and still it takes half the time of einsum, which NumPy compiles for vectors of four
(x86): 56x56x144, 3x3: 740 us against 1290.

As with Winograd, a number that is not finite makes its neighbours NaN as well: those in the same part of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node, Shape
from engine.kernels.conv import Convolution, read
from engine.kernels.products import product_by_columns
from engine.kernels.step import SWISH, Call, Kernel, Operand, Pack, Scratch, Step, copy, divisor, finish, flat, gemm

PAIR = "Conv+DepthwiseConv"
GROUP_BYTES = 512 << 10  # of channels between the two
COLUMN_BYTES = 2 << 20  # of what the first multiplies, at most
BAND = 16  # outputs that a band matrix makes, at most if it divides the row
WIDEST_BAND = 28  # ... or a whole row of so many
LEAST_BAND = 7


@dataclass(frozen=True)
class Pair:
    """The two convolutions of a node."""

    first: Convolution
    second: Convolution

    @property
    def inner(self) -> int:
        """Rows of the columns that the first multiplies: taps, and the ones."""
        return prod(self.first.weight[1:]) + 1

    @property
    def pixels(self) -> int:
        """Of the first's output with its frame."""
        return prod(self.second.windows.padded)

    @property
    def band(self) -> int:
        """Outputs of a band matrix; 0: none suits."""
        row = self.second.shape[3]
        best = divisor(row, BAND)
        if best < LEAST_BAND:
            best = row
        return best if LEAST_BAND <= best <= WIDEST_BAND else 0

    @property
    def splits(self) -> bool:
        """Whether the columns of the first's input are sorted by their place in a stride before they are copied."""
        windows = self.first.windows
        return windows.strides[1] > 1 and windows.kernel[1] > 1 and prod(windows.dilations) == 1

    @property
    def sorted_size(self) -> Shape:
        """Of that: framed rows, places in a stride, strides."""
        (height, width), stride = self.first.windows.padded, self.first.windows.strides[1]
        return height, stride, -(-width // stride)

    @property
    def group(self) -> int:
        """Channels made at a time."""
        return divisor(self.second.group, max(1, GROUP_BYTES // (4 * self.pixels)))


def read_pair(node: Node, inputs: Sequence[Operand]) -> Pair | None:
    """The two convolutions of a node, if they can be run together.

    Args:
        node: the depthwise Conv's attributes, and the first's as `first_...`.
        inputs: data, matrix of the first with its bias as last column, weight and bias of the second.
    """
    begin = {name.removeprefix("first_"): value for name, value in node.attributes.items() if name.startswith("first_")}
    end = {name: value for name, value in node.attributes.items() if not name.startswith("first_")}
    data, matrix, weight, bias = inputs
    taps = Operand((matrix.shape[0], data.shape[1], *begin["kernel_shape"]), None, True)
    first = read(replace(node, attributes=begin), [data, taps, bias])
    second = read(replace(node, attributes=end), [Operand(first.shape), weight, bias])
    pair = Pair(first, second)
    fits = len(data.shape) == 4 and 4 * pair.inner * pair.pixels <= COLUMN_BYTES and pair.band
    return pair if fits and prod(second.windows.dilations) == 1 else None


def banded(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """See above; for what `read_pair` takes."""
    pair = read_pair(node, inputs)
    if pair is None:
        return None
    first, second, group, pixels = pair.first, pair.second, pair.group, pair.pixels
    batch, channels, height, width = second.shape
    framed = second.windows.padded
    scratch = (
        Scratch((pair.inner, *framed)),  # columns
        Scratch((first.weight[1], *pair.sorted_size) if pair.splits else (0,)),
        Scratch((group, pixels)),  # a group of channels between the two
        Scratch((group, pixels) if first.activation == SWISH else (0,)),  # the same, before its activation
        Scratch((group, height, width)),  # what a row of the kernel adds
        Scratch((group, height, width) if second.activation == SWISH else (0,)),  # sums before the activation
    )

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        data, matrix, bands, bias = arrays
        columns, in_order, middle, before, added, sums = scratch
        made = before if first.activation == SWISH else middle
        calls: list[Call] = []
        for item in range(batch):
            calls += _frame(pair, columns)
            calls += _gather(pair, data[item : item + 1], columns, in_order)
            for start in range(0, channels, group):
                some = slice(start, start + group)
                target = out[item, some]
                summed = sums if second.activation == SWISH else target
                calls += product_by_columns(matrix[some], columns.reshape(pair.inner, pixels), made)
                calls += finish(flat(made), flat(middle), (), first.activation)
                calls += _depthwise(pair, middle.reshape(group, *framed), bands[:, some], summed, added)
                rows = (group, height * width)
                calls += finish(
                    summed.reshape(rows), target.reshape(rows), [bias[some].reshape(-1, 1)], second.activation
                )
        return calls

    return Step(
        second.shape,
        bind,
        scratch,
        first.macs + second.macs,
        border=None if pair.splits else first.windows.border(),
        packs={2: Pack(f"bands{pair.band}", partial(_bands, pair.band, second.windows.strides[1]))},
    )


def _inside(pair: Pair, columns: Array) -> Array:
    """The columns without the frame of the second convolution."""
    top, left = pair.second.windows.begin
    height, width = pair.first.shape[2:]
    return columns[:, top : top + height, left : left + width]


def _frame(pair: Pair, columns: Array) -> list[Call]:
    """Zeros around the columns, and the row of ones."""
    top, left = pair.second.windows.begin
    bottom, right = top + pair.first.shape[2], left + pair.first.shape[3]
    edges = [columns[:, :top], columns[:, bottom:], columns[:, :, :left], columns[:, :, right:]]
    return [*(partial(edge.fill, 0) for edge in edges if edge.size), partial(_inside(pair, columns)[-1].fill, 1)]


def _gather(pair: Pair, data: Array, columns: Array, in_order: Array) -> list[Call]:
    """The windows of the first convolution."""
    inside, windows = _inside(pair, columns)[:-1], pair.first.windows
    if not pair.splits:
        taken = windows.view(data)[0]
        return [copy(inside.reshape(taken.shape), taken)]
    # With a stride each window would be gathered number by number: so that is done once, for all of them.
    (top, left), (down, across), width = windows.begin, windows.strides, data.shape[3]
    calls: list[Call] = [partial(in_order.fill, 0)]
    for place in range(across):
        start = left + (place - left) % across  # in the frame
        count = max(0, -(-(left + width - start) // across))
        to = in_order[:, top : top + data.shape[2], place, start // across : start // across + count]
        calls.append(copy(to, data[0, :, :, start - left :: across]))
    targets = inside.reshape(data.shape[1], *windows.kernel, *inside.shape[1:])
    channel, row, _, number = in_order.strides
    for tap in range(windows.kernel[1]):
        source = as_strided(
            in_order[:, :, tap % across, tap // across :],
            (data.shape[1], windows.kernel[0], *inside.shape[1:]),
            (channel, row, down * row, number),
        )
        calls.append(copy(targets[:, :, tap], source))
    return calls


def _depthwise(pair: Pair, framed: Array, bands: Array, out: Array, added: Array) -> list[Call]:
    """out = the sum over the kernel's rows, each a stack (channels, parts of a row) of products with bands."""
    windows, band = pair.second.windows, pair.band
    channels, height, width = out.shape
    stack, taken = (channels, width // band, height), bands.shape[2]

    def parts(array: Array, down: int, across: int, length: int) -> Array:
        plane, row, number = array.strides
        return as_strided(array, (*stack, length), (plane, across * number, down * row, number))

    calls: list[Call] = []
    for row, matrices in enumerate(bands):
        source = parts(framed[:, row:], windows.strides[0], band * windows.strides[1], taken)
        target = added if row else out
        calls.append(gemm(source, matrices[:, None], parts(target, 1, band, band)))
        if row:
            calls.append(partial(np.add, out, added, out))
    return calls


def _bands(band: int, stride: int, weight: Array) -> Array:
    """(C, 1, rows, taps) -> (rows, C, (band - 1) * stride + taps, band)."""
    channels, _, rows, taps = weight.shape
    found = np.zeros((rows, channels, (band - 1) * stride + taps, band), np.float32)
    for place in range(band):
        found[:, :, place * stride : place * stride + taps, place] = weight[:, 0].transpose(1, 0, 2)
    return found


KERNELS: tuple[Kernel, ...] = (banded,)
