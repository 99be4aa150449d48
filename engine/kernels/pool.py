"""Runs MaxPool, AveragePool and GlobalAveragePool: axis by axis, so that k x k windows cost 2k passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import (
    MAX_TAPS,
    Bind,
    Call,
    Layout,
    Operand,
    Scratch,
    Step,
    attributes,
    copy,
    finish_channels,
    last,
    scalar,
    unsupported,
)
from engine.kernels.windows import WINDOW_ATTRIBUTES, Windows, windows_of


def max_pool(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute the largest tap of each window, no padding; a second input is added by channel (`compiler.fusion`)."""
    found = attributes(node, **WINDOW_ATTRIBUTES, ceil_mode=0, storage_order=0, activation="")
    if len(node.outputs) > 1:
        raise unsupported(node, "outputs", node.outputs, "the values without their indices")
    if not all(operand.is_parameter for operand in inputs[1:]):
        raise unsupported(node, "input 1", "a value", "a parameter")
    windows = _windows(node, inputs, found)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        bias = arrays[1] if len(arrays) > 1 else None
        calls = _reduce(np.maximum, -np.inf, windows, arrays[0], out, scratch)
        return calls + finish_channels(out, out, bias, None, found["activation"])

    return _step(inputs, windows, bind)


def average_pool(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute the mean of each window, over its taps in the input or (`count_include_pad`) also in the padding."""
    found = attributes(node, **WINDOW_ATTRIBUTES, ceil_mode=0, count_include_pad=0)
    windows = _windows(node, inputs, found)
    counts = windows.counts(include_pad=bool(found["count_include_pad"]))
    if not counts.all():
        raise ModelError(f"AveragePool '{node.name}': a window lies wholly in the padding, its mean is undefined")
    share = (1 / counts).astype(np.float32)
    share = share.ravel()[0].reshape(()) if (share == share.ravel()[0]).all() else share

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        return [*_reduce(np.add, 0.0, windows, arrays[0], out, scratch), partial(np.multiply, out, share, out)]

    return _step(inputs, windows, bind)


def global_average_pool(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute the mean over all spatial axes, which keep length 1."""
    attributes(node)
    shape = inputs[0].shape
    if len(shape) < 3:
        raise ModelError(f"GlobalAveragePool '{node.name}': expected an input (N, C, ...), found {shape}")
    share = scalar(1 / prod(shape[2:]))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        pixels, means = arrays[0].reshape(*shape[:2], -1), out.reshape(shape[:2])
        return [partial(np.add.reduce, pixels, -1, None, means), partial(np.multiply, means, share, means)]

    return Step((*shape[:2], *(1,) * (len(shape) - 2)), bind)


def global_average_pool_last(node: Node, inputs: Sequence[Operand]) -> Step:
    """Compute the same, channels last: rows of pixels are summed."""
    plain = global_average_pool(node, inputs)
    shape = inputs[0].shape
    share = scalar(1 / prod(shape[2:]))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        pixels, means = last(arrays[0]).reshape(shape[0], -1, shape[1]), out.reshape(shape[:2])
        return [partial(np.add.reduce, pixels, 1, None, means), partial(np.multiply, means, share, means)]

    return replace(plain, bind=bind, layout=Layout.LAST)


def _windows(node: Node, inputs: Sequence[Operand], found: dict[str, object]) -> Windows:
    kernel = found["kernel_shape"]
    if not isinstance(kernel, tuple):
        raise ModelError(f"{node.op_type} '{node.name}': kernel_shape is missing")
    if sum(kernel) > MAX_TAPS:
        raise ModelError(f"{node.op_type} '{node.name}': a window of {kernel!r:.60}; allowed are {MAX_TAPS} taps")
    return windows_of(node, inputs[0].shape[2:], kernel, found, ceil=bool(found["ceil_mode"]))


def _step(inputs: Sequence[Operand], windows: Windows, bind: Bind) -> Step:
    """Return the step, with a buffer for the result of each axis but the last."""
    outer, rank = inputs[0].shape[:2], len(windows.size)
    sizes = [(*windows.out[:done], *windows.size[done:]) for done in range(1, rank)]
    scratch = tuple(Scratch((*outer, *size), follows=True) for size in sizes)
    return Step((*outer, *windows.out), bind, scratch, layout=Layout.ANY, strided=True, strided_out=True)


def _reduce(
    ufunc: np.ufunc, neutral: float, windows: Windows, data: Array, out: Array, scratch: Sequence[Array]
) -> list[Call]:
    """Prepare the reduction tap by tap, each only for the windows that have it in the input: without a padded copy."""
    calls: list[Call] = []
    for axis, target in enumerate([*scratch, out]):
        before = (slice(None),) * (2 + axis)
        taps = [windows.tap(axis, index) for index in range(windows.kernel[axis])]
        pairs = [(target[(*before, to)], data[(*before, at)]) for to, at in taps if to.start < to.stop]
        whole = [at for to, at in pairs if to.shape == target.shape]
        rest = [pair for pair in pairs if pair[0].shape != target.shape]
        if len(whole) > 1:
            calls.append(partial(ufunc, whole[0], whole[1], out=target))
        else:
            calls.append(copy(target, whole[0] if whole else scalar(neutral)))
        rest += [(target, at) for at in whole[2:]]
        calls.extend(partial(ufunc, to, at, out=to) for to, at in rest)
        data = target
    return calls
