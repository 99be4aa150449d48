"""MaxPool, AveragePool and GlobalAveragePool: one axis after another, so that k x k windows cost 2k passes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import Call, Kernel, Operand, Scratch, Step, attributes, scalar, unsupported
from engine.kernels.windows import WINDOW_ATTRIBUTES, Windows, windows_of


def max_pool(node: Node, inputs: Sequence[Operand]) -> Step:
    """The largest tap of each window; padding never wins."""
    found = attributes(node, **WINDOW_ATTRIBUTES, ceil_mode=0, storage_order=0)
    if len(node.outputs) > 1:
        raise unsupported(node, "outputs", node.outputs, "the values without their indices")
    windows = _windows(node, inputs, found)
    scratch = _buffers(inputs, windows, fill=-np.inf)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return _reduce(np.maximum, windows, arrays[0], out, scratch)

    return Step((*inputs[0].shape[:2], *windows.out), bind, scratch)


def average_pool(node: Node, inputs: Sequence[Operand]) -> Step:
    """The mean of each window, over its taps in the input or (`count_include_pad`) also in the padding."""
    found = attributes(node, **WINDOW_ATTRIBUTES, ceil_mode=0, count_include_pad=0)
    windows = _windows(node, inputs, found)
    counts = windows.counts(include_pad=bool(found["count_include_pad"]))
    if not counts.all():
        raise ModelError(f"AveragePool '{node.name}': a window lies wholly in the padding, its mean is undefined")
    share = (1 / counts).astype(np.float32)
    share = share.ravel()[0].reshape(()) if (share == share.ravel()[0]).all() else share

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [*_reduce(np.add, windows, arrays[0], out, scratch), partial(np.multiply, out, share, out=out)]

    return Step((*inputs[0].shape[:2], *windows.out), bind, _buffers(inputs, windows, fill=0.0))


def global_average_pool(node: Node, inputs: Sequence[Operand]) -> Step:
    """The mean over all spatial axes, which stay with length 1."""
    attributes(node)
    shape = inputs[0].shape
    if len(shape) < 3:
        raise ModelError(f"GlobalAveragePool '{node.name}': expected an input (N, C, ...), found {shape}")
    share = scalar(1 / prod(shape[2:]))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        pixels, means = arrays[0].reshape(*shape[:2], -1), out.reshape(shape[:2])
        return [partial(np.add.reduce, pixels, -1, None, means), partial(np.multiply, means, share, out=means)]

    return Step((*shape[:2], *(1,) * (len(shape) - 2)), bind)


MAX: tuple[Kernel, ...] = (max_pool,)
AVERAGE: tuple[Kernel, ...] = (average_pool,)
GLOBAL_AVERAGE: tuple[Kernel, ...] = (global_average_pool,)


def _windows(node: Node, inputs: Sequence[Operand], found: dict[str, object]) -> Windows:
    kernel = found["kernel_shape"]
    if not isinstance(kernel, tuple):
        raise ModelError(f"{node.op_type} '{node.name}': kernel_shape is missing")
    return windows_of(node, inputs[0].shape[2:], kernel, found, ceil=bool(found["ceil_mode"]))


def _buffers(inputs: Sequence[Operand], windows: Windows, fill: float) -> tuple[Scratch, ...]:
    """One for the result of each axis but the last, then the padded input if there is need of one."""
    outer = inputs[0].shape[:2]
    rank = len(windows.size)
    partial_sizes = [(*windows.out[:done], *windows.padded[done:]) for done in range(1, rank)]
    buffers = [Scratch((*outer, *size)) for size in partial_sizes]
    return (*buffers, Scratch((*outer, *windows.padded), fill)) if windows.needs_padding else tuple(buffers)


def _reduce(ufunc: np.ufunc, windows: Windows, data: Array, out: Array, scratch: Sequence[Array]) -> list[Call]:
    calls: list[Call] = []
    if windows.needs_padding:
        calls.append(partial(np.copyto, windows.interior(scratch[-1]), data))
        data = scratch[-1]
    rank = len(windows.size)
    for axis, target in enumerate([*scratch[: rank - 1], out]):
        taps = [windows.tap(data, axis, index) for index in range(windows.kernel[axis])]
        if len(taps) == 1:
            calls.append(partial(np.copyto, target, taps[0]))
        else:
            calls.append(partial(ufunc, taps[0], taps[1], out=target))
        calls.extend(partial(ufunc, target, tap, out=target) for tap in taps[2:])
        data = target
    return calls
