"""Computes how windows of convolutions and pools slide over spatial axes, after ONNX, in any number of dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import Border, unsupported

WINDOW_ATTRIBUTES = {"auto_pad": "NOTSET", "kernel_shape": None, "strides": None, "pads": None, "dilations": None}


@dataclass(frozen=True)
class Windows:
    """Holds the geometry along the spatial axes; every tuple has one number for each axis.

    Attributes:
        size: of the input.
        kernel: taps.
        strides: between windows.
        dilations: between taps.
        begin: padding before the input.
        end: padding after the input, as the node states it.
        out: number of windows.
    """

    size: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape
    end: Shape
    out: Shape

    @property
    def padded(self) -> Shape:
        """The size of a buffer that holds every window: input, padding, and the reach of `ceil_mode` beyond them."""
        return tuple(
            max(begin + size + end, (out - 1) * stride + (kernel - 1) * dilation + 1)
            for size, kernel, stride, dilation, begin, end, out in self._axes()
        )

    @property
    def needs_padding(self) -> bool:
        """Whether windows reach beyond the input."""
        return self.padded != self.size

    def border(self, fill: float | tuple[float, ...] = 0.0) -> Border | None:
        """Return the frame that windows need around the input; None if they stay inside."""
        end = (total - begin - size for total, begin, size in zip(self.padded, self.begin, self.size, strict=True))
        return Border(self.begin, tuple(end), fill) if self.needs_padding else None

    def view(self, buffer: Array) -> Array:
        """Return a read-only view (N, C, *kernel, *out) of (N, C, *padded): axis k holds the windows' tap k."""
        spatial = buffer.strides[2:]
        taps = tuple(stride * dilation for stride, dilation in zip(spatial, self.dilations, strict=True))
        steps = tuple(stride * step for stride, step in zip(spatial, self.strides, strict=True))
        shape = (*buffer.shape[:2], *self.kernel, *self.out)
        return as_strided(buffer, shape, (*buffer.strides[:2], *taps, *steps), writeable=False)

    def tap(self, axis: int, index: int) -> tuple[slice, slice]:
        """Return the windows that have tap `index` of an axis in the input, and the places of these taps there."""
        stride, start = self.strides[axis], index * self.dilations[axis] - self.begin[axis]
        first = max(0, -(start // stride))
        count = max(0, min(self.out[axis], (self.size[axis] - 1 - start) // stride + 1) - first)
        at = start + first * stride
        return slice(first, first + count), slice(at, at + (count - 1) * stride + 1 if count else at, stride)

    def counts(self, *, include_pad: bool) -> Array:
        """Return how many taps of each window count in an average, (*out); those beyond the padding never do."""
        total = np.ones((), np.float32)
        for size, kernel, stride, dilation, begin, end, out in self._axes():
            low, high = (0, begin + size + end) if include_pad else (begin, begin + size)
            starts = np.arange(out) * stride
            before, within = (
                (limit - starts + dilation - 1) // dilation for limit in (low, high)
            )  # taps below each limit
            total = total[..., None] * (np.clip(within, 0, kernel) - np.clip(before, 0, kernel)).astype(np.float32)
        return total

    def _axes(self) -> list[tuple[int, ...]]:
        fields = (self.size, self.kernel, self.strides, self.dilations, self.begin, self.end, self.out)
        return list(zip(*fields, strict=True))


def windows_of(node: Node, size: Shape, kernel: Shape, found: dict[str, object], *, ceil: bool = False) -> Windows:
    """Return the geometry of a node's windows for an input of this spatial size; `found` are its WINDOW_ATTRIBUTES.

    With `ceil` their number is rounded up, but none starts in the padding after the input.

    Raises:
        ModelError: attributes that do not fit the input.
        UnsupportedOperator: an `auto_pad` that ONNX does not define.
    """
    rank = len(size)
    if not rank:
        raise ModelError(f"{node.op_type} '{node.name}': expected an input (N, C, ...), found no spatial axis")
    kernel = _numbers(node, "kernel_shape", kernel, rank, 1)
    strides = _numbers(node, "strides", found["strides"] or (1,) * rank, rank, 1)
    dilations = _numbers(node, "dilations", found["dilations"] or (1,) * rank, rank, 1)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    begin, end = _pads(node, found, size, strides, reach)
    out = []
    for length, extent, stride, before, after in zip(size, reach, strides, begin, end, strict=True):
        room = before + length + after - extent
        windows = (room + (stride - 1 if ceil else 0)) // stride + 1
        if ceil and (windows - 1) * stride >= length + before:
            windows -= 1
        out.append(windows)
    if min(out) < 1:
        raise ModelError(
            f"{node.op_type} '{node.name}': input {size} with its padding is smaller than the kernel {kernel}"
        )
    return Windows(size, kernel, strides, dilations, begin, end, tuple(out))


def _pads(node: Node, found: dict[str, object], size: Shape, strides: Shape, reach: Shape) -> tuple[Shape, Shape]:
    rank, mode = len(size), found["auto_pad"]
    if mode in ("NOTSET", ""):
        pads = _numbers(node, "pads", found["pads"] or (0,) * (2 * rank), 2 * rank, 0)
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise unsupported(node, "auto_pad", mode, "NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    total = [max((-(-s // step) - 1) * step + r - s, 0) for s, step, r in zip(size, strides, reach, strict=True)]
    small, large = tuple(pad // 2 for pad in total), tuple(pad - pad // 2 for pad in total)
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _numbers(node: Node, name: str, value: object, length: int, minimum: int) -> Shape:
    if (
        not isinstance(value, tuple | list)
        or len(value) != length
        or not all(isinstance(item, int) and item >= minimum for item in value)
    ):
        raise ModelError(
            f"{node.op_type} '{node.name}': {name}={value!r:.60}; expected {length} whole numbers of at least {minimum}"
        )
    return tuple(value)
