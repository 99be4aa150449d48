"""Draws a small bird's-eye view of the lane of a car: its borders, the car, and an arrow in the lane's direction."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats, Pixels
from camapp.overlay.text import Colour

NEEDED = ("offset_m", "heading_deg", "curvature_1_m", "lane_width_m")
# Width of the view, in lane widths.
VIEW_WIDTH = 2.2
# Distance ahead at which the arrow points, in lane widths.
AIM = 1.5
# Fractional bits of the coordinates passed to OpenCV.
SHIFT = 4


def has_lane(values: Mapping[str, float]) -> bool:
    """Return whether a prediction's values describe a lane."""
    return all(math.isfinite(values.get(name, math.nan)) for name in NEEDED) and values["lane_width_m"] > 0


def lane_ahead(values: Mapping[str, float], ahead: Floats, beside: float) -> Floats:
    """Return the ground points (n, 2), x to the car's right and y ahead of it, of a path along the lane.

    `ahead` (n,) are metres along the lane; the path is `beside` metres right of its centre. Angles of `values` are in
    degrees.
    """
    bend = values["curvature_1_m"]
    turned = bend * ahead
    # The chord of an arc; exact for straight lanes too, for which sin(t)/t is 1.
    half = np.sinc(turned / (2 * math.pi))
    right = ahead * half * np.sin(turned / 2) + beside * np.cos(turned)
    along = ahead * half * np.cos(turned / 2) - beside * np.sin(turned)
    right -= values["offset_m"]
    heading = math.radians(values["heading_deg"])
    sine, cosine = math.sin(heading), math.cos(heading)
    return np.stack([right * cosine - along * sine, right * sine + along * cosine], axis=1)


def draw_lane(
    canvas: Pixels, values: Mapping[str, float], box: tuple[int, int, int, int], colour: Colour, background: Colour
) -> None:
    """Draw the view in place, in the box (x, y, width, height) of the canvas, (h, w, 3) uint8.

    `has_lane` must be true for the values. The background is blended with the canvas.
    """
    x, y, width, height = box
    part = canvas[max(y, 0) : y + height, max(x, 0) : x + width]
    if part.shape[0] < 8 or part.shape[1] < 8:
        return
    part[:] = part // 4 + (np.array(background) * 0.75).astype(np.uint8)
    height, width = part.shape[:2]
    lane = values["lane_width_m"]
    scale = width / (VIEW_WIDTH * lane)
    car = np.array([width / 2, height * 0.9])
    ahead = np.linspace(-0.4 * lane, height / scale * 1.2, 40)

    def pixels(path: Floats) -> NDArray[np.int32]:
        scaled = np.clip(car + path * (scale, -scale), -4 * width, 4 * width) * (1 << SHIFT)
        points: NDArray[np.int32] = np.rint(scaled).astype(np.int32).reshape(-1, 1, 2)
        return points

    left, right = (lane_ahead(values, ahead, side * lane / 2) for side in (-1, 1))
    filled = part.copy()
    cv2.fillPoly(filled, [np.concatenate([pixels(left), pixels(right)[::-1]])], colour, cv2.LINE_AA, SHIFT)
    cv2.addWeighted(part, 0.75, filled, 0.25, 0, dst=part)
    thick = max(1, width // 50)
    for border in (left, right):
        cv2.polylines(part, [pixels(border)], False, colour, thick, cv2.LINE_AA, SHIFT)
    aim = pixels(lane_ahead(values, np.array([AIM * lane]), 0.0))[0, 0] >> SHIFT
    white = (245, 245, 245)
    start = (int(car[0]), int(car[1]))
    cv2.arrowedLine(part, start, (int(aim[0]), int(aim[1])), white, thick, cv2.LINE_AA, tipLength=0.2)
    nose = width / 14
    body = car + np.array([[0, -1.6], [0.9, 1], [-0.9, 1]]) * nose
    cv2.fillPoly(part, [np.rint(body * (1 << SHIFT)).astype(np.int32)], white, cv2.LINE_AA, SHIFT)
