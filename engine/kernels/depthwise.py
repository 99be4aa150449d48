"""Runs depthwise Conv, channels last: each channel separately, taps multiplied and summed in one einsum.

einsum's inner loop runs along a row as long as pixels and channels follow one another in memory, and a short loop costs
five times a long one. So `depthwise_sorted` first sorts the columns of a strided image with few channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node
from engine.kernels.conv import Convolution, read
from engine.kernels.conv_last import Block, blocks, slab_rows
from engine.kernels.step import (
    Bind,
    Call,
    Layout,
    Operand,
    Pack,
    Scratch,
    Step,
    copy,
    divisor,
    finish_channels,
    first,
    last,
    reads_twice,
)

# Bytes of output, or of sorted input and output. In a model of a Pi's caches 64 KiB move up to 16 % fewer bytes from
# memory if four workers share it, for 3 % more instructions.
SLAB_BYTES = 512 << 10
# Elements in a row for the inner loop of einsum. The weights, repeated, are 36 KiB for 3x3 and 100 KiB for 5x5: more
# than level 1 of an A53 or A72 holds; 512 would save 2 % of its misses there and cost 3 % more instructions.
RUN = 1024
# Channels up to which sorted columns may be faster: a half to a third of the time with 16 to 32, nine tenths with 72.
MAX_SORTED = 72


def depthwise(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Convolve each channel with its own kernel. With stride 1 along a row, several pixels make one run."""
    conv = read(node, inputs)
    if not _is_depthwise(conv):
        return None
    windows, rank, channels = conv.windows, len(conv.windows.size), conv.group
    pixels = windows.out[-1]
    joined = divisor(pixels, RUN // channels) if windows.strides[-1] == 1 else 1
    slab = slab_rows(conv.shape, 4 * channels, SLAB_BYTES)
    scratch = Scratch((min(slab, conv.shape[0] * conv.shape[2]) * prod(conv.shape[3:]) * channels,))
    room = Scratch(scratch.shape if reads_twice(conv.activation) else (0,))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        view = last(windows.view(arrays[0]))  # (N, *kernel, *out, C)
        runs = as_strided(
            view,
            (*view.shape[:-2], pixels // joined, joined * channels),
            (*view.strides[:-2], joined * view.strides[-2], view.strides[-1]),
            writeable=False,
        )
        taps, places = "ijk"[:rank], "xyz"[:rank]
        formula = f"n{taps}{places}c,{taps}c->n{places}c"
        for block in blocks(conv.shape, slab):
            result = _result(conv, out, block, scratch[0])
            found = result.reshape(*result.shape[:-2], pixels // joined, joined * channels)
            part = runs[(block[0], *(slice(None),) * rank, block[1])]
            calls.append(partial(np.einsum, formula, part, arrays[1], out=found))
            calls += _finish(conv, arrays, result, out, block, scratch[1])
        return calls

    return _step(conv, bind, (scratch, room), joined)


def depthwise_sorted(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Convolve with a stride along a row: columns are sorted by their place in a stride, so that pixels make runs."""
    conv = read(node, inputs)
    windows, channels = conv.windows, conv.group
    if not _is_depthwise(conv) or channels > MAX_SORTED or len(windows.size) != 2:
        return None
    (down, across), (height, width), (_, pixels) = windows.strides, windows.kernel, windows.out
    if across == 1 or windows.dilations != (1, 1):
        return None
    joined = divisor(pixels, RUN // channels)
    wide = pixels + (width - 1) // across
    places = range(min(across, width))
    slab = slab_rows(conv.shape, 4 * channels * (down * len(places) * wide + 2 * pixels) // pixels, SLAB_BYTES)
    rows = min(slab, conv.shape[0] * conv.shape[2])
    # An item of a block has `height - down` rows more than the stride takes it on.
    taken = rows * down + -(-rows // conv.shape[2]) * max(0, height - down)
    result = Scratch((rows * pixels * channels,))
    room = Scratch(result.shape if reads_twice(conv.activation) else (0,))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        frame = last(arrays[0])
        for block in blocks(conv.shape, slab):
            items, (begin, end, _) = frame[block[0]], block[1].indices(conv.shape[2])
            source = items[:, begin * down : (end - 1) * down + height]
            in_order = scratch[2][: prod(source.shape[:2]) * len(places) * wide * channels]
            in_order = in_order.reshape(*source.shape[:2], len(places), wide, channels)
            found = _result(conv, out, block, scratch[0])
            sums = [found, *(scratch[3][: found.size].reshape(found.shape) for _ in places[1:])]
            for place, each in zip(places, sums, strict=True):
                count = len(range(place, width, across))  # taps
                used = pixels + count - 1
                calls.append(copy(in_order[:, :, place, :used], source[:, :, place : place + used * across : across]))
                item, row, _, pixel, number = in_order.strides
                view = as_strided(
                    in_order[:, :, place],
                    (len(items), height, count, end - begin, pixels // joined, joined * channels),
                    (item, row, pixel, down * row, joined * pixel, number),
                    writeable=False,
                )
                into = each.reshape(*each.shape[:2], pixels // joined, joined * channels)
                weight = arrays[1][:, place::across]
                calls.append(partial(np.einsum, "nijxyc,ijc->nxyc", view, weight, out=into))
                if place:
                    calls.append(partial(np.add, found, each, found))
            calls += _finish(conv, arrays, found, out, block, scratch[1])
        return calls

    in_order = Scratch((taken * len(places) * wide * channels,))
    return _step(conv, bind, (result, room, in_order, result), joined)


def _is_depthwise(conv: Convolution) -> bool:
    return conv.fixed and conv.weight[:2] == (conv.group, 1) and conv.group > 1


def _result(conv: Convolution, out: Array, block: Block, scratch: Array) -> Array:
    """Return where to put the sums of a block, (N, ..., C): in the output if the last pass may work in place there."""
    target = last(out)[block]
    direct = target.flags.c_contiguous and not reads_twice(conv.activation)
    return target if direct else scratch[: target.size].reshape(target.shape)


def _finish(
    conv: Convolution, arrays: Sequence[Array], result: Array, out: Array, block: Block, room: Array
) -> list[Call]:
    """Prepare bias, residual and activation of a block."""
    target = last(out)[block]
    bias, residual = conv.added(arrays)
    also = None if residual is None else first(last(residual)[block])
    beside = first(room[: target.size].reshape(target.shape)) if room.size else None
    return finish_channels(first(result), first(target), bias, also, conv.activation, room=beside)


def _step(conv: Convolution, bind: Bind, scratch: tuple[Scratch, ...], joined: int) -> Step:
    return Step(
        conv.shape,
        bind,
        scratch,
        conv.macs,
        layout=Layout.LAST,
        border=conv.windows.border(conv.padding),
        strided=True,
        strided_out=True,
        packs={1: Pack(f"taps x {joined}", partial(_tiled, joined))},
    )


def _tiled(joined: int, weight: Array) -> Array:
    """Rearrange (C, 1, *kernel) to (*kernel, joined * C)."""
    taps = np.ascontiguousarray(np.moveaxis(weight[:, 0], 0, -1))
    return np.tile(taps, (*(1,) * (taps.ndim - 1), joined))
