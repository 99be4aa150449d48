"""Conv: a 1x1 convolution is one matrix product; any other copies its windows into columns first (im2col)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from engine.graph import Array, ModelError, Node
from engine.kernels.step import Call, Kernel, Operand, Scratch, Step, attributes, finish, gemm
from engine.kernels.windows import WINDOW_ATTRIBUTES, Windows, windows_of


def pointwise(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Kernel 1, stride 1, no padding: weight @ pixels, straight from the input."""
    windows, group, activation = _geometry(node, inputs)
    if prod(windows.kernel) != 1 or prod(windows.strides) != 1 or windows.needs_padding:
        return None

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        columns = arrays[0].reshape(out.shape[0], group, -1, prod(windows.out))
        return _multiply(columns, arrays, out, group, activation)

    return _step(inputs, windows, bind)


def im2col(node: Node, inputs: Sequence[Operand]) -> Step:
    """Any kernel, stride, dilation, padding and group; one copy of the windows, then weight @ columns."""
    windows, group, activation = _geometry(node, inputs)
    batch, channels = inputs[0].shape[:2]
    columns = Scratch((batch, channels, *windows.kernel, *windows.out))
    padded = Scratch((batch, channels, *windows.padded), fill=0.0)

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        source, calls = arrays[0], []
        if windows.needs_padding:
            calls.append(partial(np.copyto, windows.interior(scratch[1]), source))
            source = scratch[1]
        calls.append(partial(np.copyto, scratch[0], windows.view(source)))
        stacked = scratch[0].reshape(batch, group, -1, prod(windows.out))
        return calls + _multiply(stacked, arrays, out, group, activation)

    return _step(inputs, windows, bind, (columns, padded) if windows.needs_padding else (columns,))


KERNELS: tuple[Kernel, ...] = (pointwise, im2col)


def _geometry(node: Node, inputs: Sequence[Operand]) -> tuple[Windows, int, str]:
    found = attributes(node, **WINDOW_ATTRIBUTES, group=1, activation="")
    data, weight = inputs[0].shape, inputs[1].shape
    group = found["group"]
    where = f"Conv '{node.name}'"
    if len(weight) != len(data) or len(data) < 3:
        raise ModelError(f"{where}: input {data} and weight {weight} should both have the axes (N, C, ...)")
    if group < 1 or weight[1] * group != data[1] or weight[0] % group:
        raise ModelError(f"{where}: weight {weight} in {group} groups does not fit an input of {data[1]} channels")
    if found["kernel_shape"] not in (None, weight[2:]):
        raise ModelError(f"{where}: kernel_shape={found['kernel_shape']}, but its weight is {weight}")
    if len(inputs) > 2 and inputs[2].shape != weight[:1]:
        raise ModelError(f"{where}: expected a bias of shape {weight[:1]}, found {inputs[2].shape}")
    return windows_of(node, data[2:], weight[2:], found), group, found["activation"]


def _step(inputs: Sequence[Operand], windows: Windows, bind: Any, scratch: tuple[Scratch, ...] = ()) -> Step:
    weight = inputs[1].shape
    shape = (inputs[0].shape[0], weight[0], *windows.out)
    return Step(shape, bind, scratch, macs=prod(shape) * prod(weight[1:]))


def _multiply(columns: Array, arrays: Sequence[Array], out: Array, group: int, activation: str) -> list[Call]:
    """Columns (N, group, taps, pixels) into out (N, channels, *pixels), then bias and activation."""
    batch, channels = out.shape[:2]
    weight = arrays[1].reshape(group, channels // group, -1)
    product = out.reshape(batch, group, channels // group, -1)
    bias = arrays[2].reshape(-1, *(1,) * (out.ndim - 2)) if len(arrays) > 2 else None
    if batch == group == 1:
        weight, columns, product = weight[0], columns[0, 0], product[0, 0]
    return [gemm(weight, columns, product), *finish(out, bias, activation)]
