"""Draws boxes, lines, the lane and the corners of the model's region at their places in the image."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels
from camapp.core.predictions import Box, Polyline, Prediction
from camapp.overlay import birds_eye
from camapp.overlay.objects import Places, draw_objects, fixed_point, within
from camapp.overlay.panel import tag
from camapp.overlay.style import ACCENT, DARK, DIM, WHITE, Style
from camapp.overlay.text import Colour
from camapp.overlay.zones import draw_zones

# Opacity of the colour between the two lines beside a car.
LANE_TINT = 0.25


def draw_annotations(
    canvas: Pixels,
    style: Style,
    prediction: Prediction,
    stale: bool,
    reserved: Iterable[tuple[int, int, int, int]] = (),
    names: bool = True,
) -> None:
    """Draw in place; the prediction's coordinates are pixels of the canvas. A stale one is dimmed.

    No label of a box is placed in a `reserved` rectangle (x, y, width, height). Without `names`, lines have none, and
    there is no view of the lane from above.
    """
    colour = DIM if stale else ACCENT
    if prediction.region is not None:
        _draw_corners(canvas, style, prediction.region, stale)
    if not stale:
        _tint_lane(canvas, prediction.lines)
    for line in prediction.lines:
        _draw_line(canvas, style, line, colour, names)
    if prediction.boxes or prediction.zones or prediction.counting_lines:
        places = Places(style, reserved)
        draw_zones(canvas, style, prediction, stale, places)
        draw_objects(canvas, style, prediction.boxes, stale, places)
        places.draw(canvas)
    if names and style.detail and birds_eye.has_lane(prediction.values):
        width, height = 14 * style.unit, 18 * style.unit
        place = (style.width - style.margin - width, style.height - style.margin - height, width, height)
        birds_eye.draw_lane(canvas, prediction.values, place, colour, DARK)
        if (pitch := prediction.values.get("camera_pitch_deg")) is not None:
            # Down is negative, as for any angle above the horizon.
            note = tag(f"camera {-pitch:+.1f} deg, estimated", style.small, WHITE, DARK)
            x, y = style.width - style.margin - note.width, place[1] - note.height - style.pad // 2
            note.lay_on(canvas, max(0, x), max(0, y))


def _draw_corners(canvas: Pixels, style: Style, region: Box, stale: bool) -> None:
    """Draw four corner marks just inside the region, light on dark so that they are visible on any image."""
    marks = _corners(*within(region, style), round(style.unit * 1.4))
    cv2.polylines(canvas, marks, False, DARK, style.line + 2)
    cv2.polylines(canvas, marks, False, DIM if stale else WHITE, style.line)


@lru_cache(maxsize=64)
def _corners(x0: int, y0: int, x1: int, y1: int, max_length: int) -> tuple[NDArray[np.int32], ...]:
    arm = max(3, min(max_length, (x1 - x0) // 4, (y1 - y0) // 4))
    corners = ((x0, y0, 1, 1), (x1, y0, -1, 1), (x0, y1, 1, -1), (x1, y1, -1, -1))
    return tuple(
        np.array([[x + dx * arm, y], [x, y], [x, y + dy * arm]], np.int32).reshape(-1, 1, 2) for x, y, dx, dy in corners
    )


def _draw_line(canvas: Pixels, style: Style, line: Polyline, colour: Colour, named: bool) -> None:
    points = fixed_point(line.points)
    if len(points) < 2:
        return
    cv2.polylines(canvas, [points], False, DARK, style.line + 2, cv2.LINE_8, 4)
    cv2.polylines(canvas, [points], False, colour, style.line, cv2.LINE_AA, 4)
    if named and line.label and style.detail:
        name = tag(line.label, style.small, DARK, colour)
        x, y = (int(v) // 16 for v in points[-1, 0])
        place = _clamp(x, 0, style.width - name.width), _clamp(y - name.height, 0, style.height - name.height)
        name.lay_on(canvas, *place)


def _tint_lane(canvas: Pixels, lines: tuple[Polyline, ...]) -> None:
    """Tint the area between the lines labelled left and right, as far as both reach."""
    sides = {line.label: np.array(line.points).reshape(-1, 2) for line in lines if line.label in ("left", "right")}
    if len(sides) < 2 or not all(len(side) > 1 and np.isfinite(side).all() for side in sides.values()):
        return
    far = max(side[:, 1].min() for side in sides.values())
    shared = [np.flatnonzero(sides[name][:, 1] >= far) for name in ("left", "right")]
    if not all(len(points) for points in shared):
        # One line lies above the other.
        return
    left, right = sides["left"][: shared[0][-1] + 2], sides["right"][: shared[1][-1] + 2]
    outline = np.clip(np.concatenate([left, right[::-1]]), 0, (canvas.shape[1] - 1, canvas.shape[0] - 1))
    (x0, y0), (x1, y1) = outline.min(axis=0).astype(int), outline.max(axis=0).astype(int) + 1
    part = canvas[y0:y1, x0:x1]
    if part.size == 0:
        return
    painted = part.copy()
    cv2.fillPoly(painted, [np.rint((outline - (x0, y0)) * 16).astype(np.int32)], ACCENT, cv2.LINE_AA, 4)
    cv2.addWeighted(part, 1 - LANE_TINT, painted, LANE_TINT, 0, dst=part)


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
