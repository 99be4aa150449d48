"""Runs Resize: axis by axis, a product with a matrix of interpolation weights; nearest copies instead.

Sizes and coordinates are computed in float32, as ONNX Runtime and PyTorch do: 30 * 0.7 is 21 there and 20 in float64,
and the neighbour of a coordinate that should be whole depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor, isfinite, prod
from typing import Any

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import Call, Operand, Scratch, Step, attributes, gemm, unsupported
from engine.shapes import positive

_ATTRIBUTES: dict[str, Any] = {
    "antialias": 0,
    "axes": None,
    "coordinate_transformation_mode": "half_pixel",
    "cubic_coeff_a": -0.75,
    "exclude_outside": 0,
    "extrapolation_value": 0.0,
    "keep_aspect_ratio_policy": "stretch",
    "mode": "nearest",
    "nearest_mode": "round_prefer_floor",
    "roi": None,
    "scales": None,
    "sizes": None,
}

MAX_MATRIX = 1 << 22  # elements: 2048 x 2048


@dataclass(frozen=True)
class AxisResize:
    """Describes the interpolation along one axis.

    Attributes:
        axis: index of the axis.
        length: of the input along it.
        sources: (outputs, taps), the indices of the inputs of each output.
        shares: (outputs, taps), their weights; None: each output is a copy of one input.
        outside: indices of outputs beyond the region, which get a constant.
    """

    axis: int
    length: int
    sources: Array
    shares: Array | None
    outside: Array

    @property
    def as_product(self) -> bool:
        """Whether to multiply by a matrix, mostly zeros; for a long signal it would be too large for the memory."""
        return self.shares is not None and len(self.sources) * self.length <= MAX_MATRIX

    def matrix(self) -> Array:
        """Return the weights (outputs, inputs)."""
        assert self.shares is not None
        matrix = np.zeros((len(self.sources), self.length))
        np.add.at(matrix, (np.arange(len(matrix))[:, None], self.sources), self.shares)
        return matrix.astype(np.float32)


def resize(node: Node, inputs: Sequence[Operand]) -> Step:
    """Interpolate by nearest, linear or cubic, in any number of dimensions."""
    shape = inputs[0].shape
    steps = axis_resizes(node, shape)
    sizes = [shape]
    for step in steps:
        sizes.append((*sizes[-1][: step.axis], len(step.sources), *sizes[-1][step.axis + 1 :]))
    if not steps:
        return Step(shape, None)
    beyond = np.float32(node.attributes.get("extrapolation_value", 0.0))
    taken = [step.length if step.as_product else step.sources.shape[1] for step in steps]
    by_taps = [step.shares is not None and not step.as_product for step in steps]
    rooms = [Scratch(size) if needed else Scratch((0,)) for size, needed in zip(sizes[1:], by_taps, strict=True)]

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        calls: list[Call] = []
        values = [arrays[0], *scratch[len(steps) :], out]
        for step, source, target, room in zip(steps, values[:-1], values[1:], scratch, strict=False):
            calls += _apply(step, source, target, room)
        for step in steps:
            if len(step.outside):
                calls.append(partial(out.__setitem__, (*(slice(None),) * step.axis, step.outside), beyond))
        return calls

    macs = sum(prod(size) * count for count, size in zip(taken, sizes[1:], strict=True))
    return Step(sizes[-1], bind, (*rooms, *(Scratch(size) for size in sizes[1:-1])), macs=macs)


def _apply(step: AxisResize, source: Array, target: Array, room: Array) -> list[Call]:
    if step.shares is None:
        return [_take(step, 0, source, target)]
    if not step.as_product:
        return _apply_by_taps(step, step.shares, source, target, room)
    total = np.zeros((), source.dtype)
    return [partial(_apply_checked, step, source, target, total, _by_matrix(step, source, target))]


def _apply_checked(step: AxisResize, source: Array, target: Array, total: Array, by_matrix: Call) -> None:
    """Run the product, or the taps if a number is not finite: times a share of 0 it would spoil the whole axis."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.reduce(source, None, out=total)
    if isfinite(total):
        by_matrix()
        return
    assert step.shares is not None
    for call in _apply_by_taps(step, step.shares, source, target, np.empty(target.shape, target.dtype)):
        call()


def _by_matrix(step: AxisResize, source: Array, target: Array) -> Call:
    outer, inner = prod(source.shape[: step.axis]), prod(source.shape[step.axis + 1 :])
    outputs, length, weights = len(step.sources), step.length, step.matrix()
    if inner == 1:  # the last axis: rows times the matrix
        return gemm(source.reshape(outer, length), weights.T, target.reshape(outer, outputs))
    return gemm(weights, source.reshape(outer, length, inner), target.reshape(outer, outputs, inner))


def _apply_by_taps(step: AxisResize, shares: Array, source: Array, target: Array, room: Array) -> list[Call]:
    calls: list[Call] = []
    for tap in range(shares.shape[1]):
        place = room if tap else target
        share = shares[:, tap].astype(np.float32).reshape(-1, *(1,) * (source.ndim - step.axis - 1))
        calls += [_take(step, tap, source, place), partial(np.multiply, place, share, out=place)]
        if tap:
            calls.append(partial(np.add, target, room, out=target))
    return calls


def _take(step: AxisResize, tap: int, source: Array, out: Array) -> Call:
    places = np.ascontiguousarray(step.sources[:, tap])
    return partial(np.take, source, places, axis=step.axis, out=out, mode="clip")


def axis_resizes(node: Node, shape: Shape) -> list[AxisResize]:
    """Return the interpolation along each axis that changes.

    Raises:
        ModelError: settings that do not fit the input.
        UnsupportedOperator: a mode that ONNX does not define.
    """
    found = attributes(node, **_ATTRIBUTES)
    for name, allowed in _MODES.items():
        if found[name] not in allowed:
            raise unsupported(node, name, found[name], ", ".join(allowed))
    axes = tuple(range(len(shape))) if found["axes"] is None else found["axes"]
    axes = tuple(positive(node, axis, len(shape)) for axis in axes)
    scales, sizes = _scales_and_sizes(node, found, tuple(shape[axis] for axis in axes))
    regions = found["roi"] if found["coordinate_transformation_mode"] == "tf_crop_and_resize" else None
    if regions is not None and len(regions) != 2 * len(axes):
        raise ModelError(f"Resize '{node.name}': a region of {len(regions)} numbers for {len(axes)} axes")
    # As in ONNX Runtime and PyTorch: interpolation to the same size is a copy, whatever the scales; with antialiasing
    # this holds for each axis.
    same = [size == shape[axis] and regions is None for size, axis in zip(sizes, axes, strict=True)]
    if all(same) and found["mode"] != "nearest":
        return []
    steps = []
    for index, axis in enumerate(axes):
        if same[index] and found["antialias"]:
            continue
        region = (0.0, 1.0) if regions is None else (regions[index], regions[index + len(axes)])
        if sizes[index] != shape[axis] or scales[index] != 1 or region != (0.0, 1.0):
            steps.append(_axis_resize(found, axis, shape[axis], sizes[index], scales[index], region))
    return sorted(steps, key=lambda step: step.axis)


_MODES = {
    "mode": ("nearest", "linear", "cubic"),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    "coordinate_transformation_mode": (
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "align_corners",
        "asymmetric",
        "tf_crop_and_resize",
    ),
}


def _scales_and_sizes(node: Node, found: dict[str, Any], lengths: Shape) -> tuple[list[float], list[int]]:
    given = found["sizes"] if found["sizes"] is not None else found["scales"]
    if (
        given is None
        or len(given) != len(lengths)
        or min(lengths, default=1) < 1
        or not all(0 < n < 1 << 24 for n in given)
    ):
        raise ModelError(f"Resize '{node.name}': scales or sizes {given!r:.60} for axes of {lengths}")
    if found["sizes"] is None:
        scales = [float(np.float32(scale)) for scale in given]
        sizes = [floor(np.float32(scale) * np.float32(length)) for scale, length in zip(scales, lengths, strict=True)]
    else:
        scales = [size / length for size, length in zip(given, lengths, strict=True)]
        sizes = list(given)
        if found["keep_aspect_ratio_policy"] != "stretch":
            scales = [(min if found["keep_aspect_ratio_policy"] == "not_larger" else max)(scales)] * len(scales)
            sizes = [floor(scale * length + 0.5) for scale, length in zip(scales, lengths, strict=True)]
    if min(sizes, default=1) < 1 or prod(sizes) > 1 << 28:
        raise ModelError(f"Resize '{node.name}': axes of {lengths} would become {sizes!r:.60}")
    return scales, sizes


def _axis_resize(
    found: dict[str, Any], axis: int, length: int, size: int, scale: float, region: tuple[float, float]
) -> AxisResize:
    where = _coordinates(found["coordinate_transformation_mode"], length, size, scale, region)
    outside = np.flatnonzero((where < 0) | (where > length - 1))
    if found["coordinate_transformation_mode"] != "tf_crop_and_resize":
        outside = outside[:0]
    if found["mode"] == "nearest":
        sources = np.clip(_NEAREST[found["nearest_mode"]](where), 0, length - 1).astype(np.int64)
        return AxisResize(axis, length, sources[:, None], None, outside)
    taps, shares = _taps(found, where, min(scale, 1.0) if found["antialias"] else 1.0)
    if found["exclude_outside"]:
        shares = np.where((taps < 0) | (taps >= length), 0, shares)
    shares = shares / shares.sum(axis=1, keepdims=True)
    return AxisResize(axis, length, np.clip(taps, 0, length - 1), shares, outside)


def _coordinates(mode: str, length: int, size: int, scale: float, region: tuple[float, float]) -> Array:
    """Return the coordinate of each output among the inputs, whose centres are at 0, 1, 2, ...; float32."""
    places, factor = np.arange(size, dtype=np.float32), np.float32(scale)
    span, half = np.float32(length - 1), np.float32(0.5)
    if mode == "align_corners":
        return places * span / np.float32(size - 1) if size > 1 else places
    if mode == "asymmetric":
        return places / factor
    if mode == "tf_half_pixel_for_nn":
        return (places + half) / factor
    if mode == "tf_crop_and_resize":
        start, end = np.float32(region[0]), np.float32(region[1])
        if size > 1:
            return start * span + places * (end - start) * span / np.float32(size - 1)
        return np.full(size, half * (start + end) * span)
    if mode == "pytorch_half_pixel" and size == 1:
        return places
    if mode != "half_pixel_symmetric":
        return (places + half) / factor - half
    adjustment = np.float32(size) / (factor * np.float32(length))
    return np.float32(length) * half * (1 - adjustment) + (places + half) / factor - half


TIE = 5e-7  # of a coordinate: so near to a half it is one, less the rounding of float32


def _to_half(where: Array) -> Array:
    """Return the coordinates in float64, where adding a half is exact; those that should be ties are."""
    doubled = 2 * where.astype(np.float64)
    whole = np.rint(doubled)
    return np.where(np.abs(doubled - whole) <= TIE * np.maximum(np.abs(doubled), 1), whole, doubled) / 2


_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda where: np.ceil(_to_half(where) - 0.5),
    "round_prefer_ceil": lambda where: np.floor(_to_half(where) + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _taps(found: dict[str, Any], where: Array, shrink: float) -> tuple[Array, Array]:
    """Return the inputs of each output and their weights, (outputs, taps); `shrink` < 1 widens against aliasing."""
    reach = 2 if found["mode"] == "cubic" else 1
    first = floor(-reach / shrink) + 1
    offsets = np.arange(first, 2 - first)  # from the left neighbour, or an integer coordinate itself
    where = where.astype(np.float64)
    left = np.floor(where)
    distance = np.abs((left[:, None] + offsets - where[:, None]) * shrink)
    if found["mode"] == "linear":
        shares = np.clip(1 - distance, 0, 1)
    else:
        a = found["cubic_coeff_a"]
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        shares = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    return (left[:, None] + offsets).astype(np.int64), shares
