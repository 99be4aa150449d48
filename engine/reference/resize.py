"""Runs Resize by plain loops: axis by axis, each output element separately; coordinates are float32."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np

from engine.graph import Array, Node


def resize(node: Node, x: Array) -> Array:
    """Resize by nearest, linear or cubic; outputs beyond the region of tf_crop_and_resize are `extrapolation_value`."""
    has = node.attributes
    axes = [axis % x.ndim for axis in has.get("axes", range(x.ndim))]
    lengths = [x.shape[axis] for axis in axes]
    if "sizes" in has:
        scales, sizes = [size / length for size, length in zip(has["sizes"], lengths, strict=True)], list(has["sizes"])
        policy = has.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scales = [min(scales) if policy == "not_larger" else max(scales)] * len(scales)
            sizes = [floor(scale * length + 0.5) for scale, length in zip(scales, lengths, strict=True)]
    else:
        scales = [float(np.float32(scale)) for scale in has["scales"]]
        sizes = [floor(np.float32(scale) * np.float32(length)) for scale, length in zip(scales, lengths, strict=True)]
    out, beyond = x.astype(np.float64), np.zeros(x.shape, bool)
    crops = has.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if not crops and sizes == lengths and has.get("mode", "nearest") != "nearest":  # as other runtimes do
        return x
    for index, axis in enumerate(axes):
        if sizes[index] == lengths[index] and not crops and (scales[index] == 1 or has.get("antialias")):
            continue
        region = has.get("roi", (0.0,) * len(axes) + (1.0,) * len(axes))[index :: len(axes)]
        out, beyond = _along(
            has, np.moveaxis(out, axis, 0), np.moveaxis(beyond, axis, 0), sizes[index], scales[index], region
        )
        out, beyond = np.moveaxis(out, 0, axis), np.moveaxis(beyond, 0, axis)
    return np.where(beyond, has.get("extrapolation_value", 0.0), out)


def _along(has: Any, x: Array, beyond: Array, size: int, scale: float, region: Any) -> tuple[Array, Array]:
    """Return the array with its first axis resized, and a mask of the outputs beyond the region."""
    out, outside = np.zeros((size, *x.shape[1:])), np.zeros((size, *x.shape[1:]), bool)
    crops = has.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    for place in range(size):
        where = _coordinate(has, place, len(x), size, scale, region)
        outside[place] = crops and not 0 <= where <= len(x) - 1
        shares = _shares(has, where, len(x), min(scale, 1.0) if has.get("antialias") else 1.0)
        for at, share in shares:
            near = min(max(at, 0), len(x) - 1)
            out[place] += share * x[near]
            outside[place] |= beyond[near]
    return out, outside


def _coordinate(has: Any, place: int, length: int, size: int, scale: float, region: Any) -> float:
    mode = has.get("coordinate_transformation_mode", "half_pixel")
    # NumPy before 2 computes float32 with Python's numbers in float64, so all are float32 before.
    one, half, at, by = (np.float32(number) for number in (1, 0.5, place, scale))
    whole, made, reach, last = (np.float32(number) for number in (length, size, length - 1, size - 1))
    if size == 1 and mode in ("align_corners", "pytorch_half_pixel"):
        return 0.0
    if mode == "align_corners":
        return float(at * reach / last)
    if mode == "asymmetric":
        return float(at / by)
    if mode == "tf_half_pixel_for_nn":
        return float((at + half) / by)
    if mode == "tf_crop_and_resize":
        start, end = np.float32(region[0]), np.float32(region[1])
        if size == 1:
            return float(half * (start + end) * reach)
        return float(start * reach + at * (end - start) * reach / last)
    offset = np.float32(0)
    if mode == "half_pixel_symmetric":
        offset = whole * half * (one - made / (by * whole))
    return float(offset + (at + half) / by - half)


def _shares(has: Any, where: float, length: int, shrink: float) -> list[tuple[int, float]]:
    """Return (index, weight) of the inputs of one output; an index may lie beyond the ends."""
    mode = has.get("mode", "nearest")
    if mode == "nearest":
        rounding = has.get("nearest_mode", "round_prefer_floor")
        if rounding.startswith("round") and abs(2 * where - round(2 * where)) <= 5e-7 * max(2 * abs(where), 1):
            where = round(2 * where) / 2  # a tie, but for the rounding of float32
        nearest = {
            "round_prefer_floor": ceil(where - 0.5),
            "round_prefer_ceil": floor(where + 0.5),
            "floor": floor(where),
            "ceil": ceil(where),
        }
        return [(nearest[rounding], 1.0)]
    reach = 2 if mode == "cubic" else 1
    far = ceil(reach / shrink)
    shares = []
    for at in range(floor(where) - far + 1, floor(where) + far + 1):
        share = _weight(mode, abs(at - where) * shrink, has.get("cubic_coeff_a", -0.75))
        if not has.get("exclude_outside") or 0 <= at < length:
            shares.append((at, share))
    total = sum(share for _, share in shares)
    return [(at, share / total) for at, share in shares]


def _weight(mode: str, distance: float, a: float) -> float:
    if mode == "linear":
        return max(0.0, 1 - distance)
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a if distance < 2 else 0.0
