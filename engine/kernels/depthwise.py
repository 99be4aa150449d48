"""Runs depthwise Conv, channels last: each channel separately, taps multiplied and summed in one einsum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, Node
from engine.kernels.conv import read
from engine.kernels.conv_last import blocks, slab_rows
from engine.kernels.step import SWISH, Call, Layout, Operand, Pack, Scratch, Step, divisor, finish_channels, first, last

SLAB_BYTES = 512 << 10  # of output
RUN = 1024  # elements in a row for the inner loop of einsum; tiled weights of that length stay in L1


def depthwise(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Convolve each channel with its own kernel. With stride 1 along a row, several pixels make one run."""
    conv = read(node, inputs)
    channels = conv.group
    if not conv.fixed or conv.weight[:2] != (channels, 1) or channels == 1:
        return None
    windows, rank = conv.windows, len(conv.windows.size)
    pixels = windows.out[-1]
    joined = divisor(pixels, RUN // channels) if windows.strides[-1] == 1 else 1
    slab = slab_rows(conv.shape, 4 * channels, SLAB_BYTES)
    scratch = Scratch((min(slab, conv.shape[0] * conv.shape[2]) * prod(conv.shape[3:]) * channels,))
    room = Scratch(scratch.shape if conv.activation == SWISH else (0,))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        view = last(windows.view(arrays[0]))  # (N, *kernel, *out, C)
        runs = as_strided(
            view,
            (*view.shape[:-2], pixels // joined, joined * channels),
            (*view.strides[:-2], joined * view.strides[-2], view.strides[-1]),
            writeable=False,
        )
        outs = last(out)
        bias, residual = conv.added(arrays)
        taps, places = "ijk"[:rank], "xyz"[:rank]
        formula = f"n{taps}{places}c,{taps}c->n{places}c"
        for items, rows in blocks(conv.shape, slab):
            target = outs[items, rows]
            direct = target.flags.c_contiguous and conv.activation != SWISH
            result = target if direct else scratch[0][: target.size].reshape(target.shape)
            found = result.reshape(*target.shape[:-2], pixels // joined, joined * channels)
            part = runs[(items, *(slice(None),) * rank, rows)]
            calls.append(partial(np.einsum, formula, part, arrays[1], out=found))
            also = None if residual is None else first(last(residual)[items, rows])
            beside = first(scratch[1][: target.size].reshape(target.shape)) if scratch[1].size else None
            calls += finish_channels(first(result), first(target), bias, also, conv.activation, room=beside)
        return calls

    return Step(
        conv.shape,
        bind,
        (scratch, room),
        conv.macs,
        layout=Layout.LAST,
        border=windows.border(conv.padding),
        strided=True,
        strided_out=True,
        packs={1: Pack(f"taps x {joined}", partial(_tiled, joined))},
    )


def _tiled(joined: int, weight: Array) -> Array:
    """Rearrange (C, 1, *kernel) to (*kernel, joined * C)."""
    taps = np.ascontiguousarray(np.moveaxis(weight[:, 0], 0, -1))
    return np.tile(taps, (*(1,) * (taps.ndim - 1), joined))
