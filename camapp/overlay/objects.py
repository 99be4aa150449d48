"""Draws the objects of a prediction: masks, boxes, key points, and labels that do not hide each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels
from camapp.core.predictions import Box, KeyPoint
from camapp.overlay.class_colours import class_colour
from camapp.overlay.panel import tag
from camapp.overlay.style import DARK, DIM, Style, percent
from camapp.overlay.text import Colour, Font, Layer

# Opacity of a mask's colour.
_MASK_TINT = 0.4
# Score from which a key point is drawn.
_SURE_POINT = 0.3
# Number of boxes from which lines and labels are thinner.
_CROWD = 40
# Side in pixels of the cells in which taken places are marked.
_CELL = 4
# Lines between the 17 key points of COCO: head, arms, trunk, legs.
_SKELETON = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 6), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)


class Plate:
    """Holds opaque pieces of text that stand side by side; `width` and `height` are in pixels."""

    __slots__ = ("height", "pieces", "width")

    def __init__(self, *pieces: Layer) -> None:
        self.pieces = pieces
        self.width = sum(piece.width for piece in pieces)
        self.height = pieces[0].height

    def put_on(self, canvas: Pixels, x: int, y: int) -> None:
        """Copy the pieces into an image with the top left corner at (x, y), neither negative."""
        for piece in self.pieces:
            part = canvas[y : y + piece.height, x : x + piece.width]
            part[:] = piece.colour[: part.shape[0], : part.shape[1]]
            x += piece.width


class Places:
    """Marks the places of an image that labels have taken, and finds free ones.

    Args:
        reserved: (x, y, width, height) of places that are taken already, such as a panel's.
    """

    def __init__(self, style: Style, reserved: Iterable[tuple[int, int, int, int]] = ()) -> None:
        self._style = style
        # A bit per cell: with hundreds of labels, slices of an array would take ten times longer.
        self._rows = [0] * (style.height // _CELL + 1)
        self._plates: list[tuple[Plate, int, int]] = []
        for place in reserved:
            self._take(*place)

    def put(self, plate: Plate, corners: Iterable[tuple[int, int]]) -> bool:
        """Take the first place that is free for a plate, of those with these top left corners; return whether one is.

        A place beside the image is moved into it to the left or right, and is not free above or below it.
        """
        right, bottom = max(0, self._style.width - plate.width), self._style.height - plate.height
        for x, y in corners:
            x = 0 if x < 0 else min(x, right)
            if 0 <= y <= bottom and self._take(x, y, plate.width, plate.height):
                self._plates.append((plate, x, y))
                return True
        return False

    def _take(self, x: int, y: int, width: int, height: int) -> bool:
        """Take a place unless a part of it is taken; return whether it was free."""
        first = x // _CELL
        bits = ((1 << ((x + width - 1) // _CELL + 1 - first)) - 1) << first
        rows = range(y // _CELL, min((y + height - 1) // _CELL + 1, len(self._rows)))
        for row in rows:
            if self._rows[row] & bits:
                return False
        for row in rows:
            self._rows[row] |= bits
        return True

    def draw(self, canvas: Pixels) -> None:
        """Draw all plates, over everything else."""
        for plate, x, y in self._plates:
            plate.put_on(canvas, x, y)


def draw_objects(canvas: Pixels, style: Style, boxes: Sequence[Box], stale: bool, places: Places) -> None:
    """Draw in place, large objects below small ones; stale ones are dimmed. Their labels are put into `places`."""
    ordered = sorted(boxes, key=_area, reverse=True) if len(boxes) > 1 else boxes
    _tint_masks(canvas, ordered, stale)
    crowded = len(ordered) > _CROWD
    for box in ordered:
        colour = DIM if stale else class_colour(box.label)
        corners = within(box, style)
        _draw_outline(canvas, style, box, corners, colour, crowded)
        if box.points:
            _draw_points(canvas, style, box, colour)
        if box.label or box.track:
            _put_label(style, box, corners, colour, places, crowded)


def within(box: Box, style: Style) -> tuple[int, int, int, int]:
    """Return a box's corner pixels, inclusive, clipped to the frame; `nan` becomes the left or upper edge."""
    right, bottom = style.width - 1, style.height - 1
    x0, y0 = _rounded(box.x0, right), _rounded(box.y0, bottom)
    return x0, y0, max(x0, _rounded(box.x1 - 1, right)), max(y0, _rounded(box.y1 - 1, bottom))


def fixed_point(points: Iterable[tuple[float, float]]) -> NDArray[np.int32]:
    """Return the finite points in sixteenths of a pixel, (n, 1, 2), for OpenCV's `shift=4`."""
    # Clipped well inside OpenCV's 16-bit-after-shift arithmetic, so that no far point wraps around into the image.
    array = np.asarray(list(points), np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(axis=1)]
    return np.rint(np.clip(array, -30_000, 30_000) * 16).astype(np.int32).reshape(-1, 1, 2)


def _rounded(value: float, high: int) -> int:
    return round(0 if value < 0 else min(value, high)) if value == value else 0


def _area(box: Box) -> float:
    area = (box.x1 - box.x0) * (box.y1 - box.y0)
    return area if math.isfinite(area) else 0.0


def _tint_masks(canvas: Pixels, boxes: Sequence[Box], stale: bool) -> None:
    """Tint all masks in one pass over the part of the image that holds them: its cost does not grow with their number.

    Where masks overlap, that of the smaller object is on top.
    """
    masks = [
        ([outline for outline in map(fixed_point, box.outlines) if len(outline) > 2], box)
        for box in boxes
        if box.outlines
    ]
    every = [outline for outlines, _ in masks for outline in outlines]
    if not every:
        return
    corners = np.concatenate(every)[:, 0] // 16
    x0, y0 = np.maximum(corners.min(axis=0), 0).tolist()
    x1, y1 = (np.maximum(corners.max(axis=0), -1) + 1).tolist()
    part = canvas[y0 : y1 + 1, x0 : x1 + 1]
    if part.size == 0:
        return
    painted = part.copy()
    for outlines, box in masks:
        moved = [outline - np.array((16 * x0, 16 * y0), np.int32) for outline in outlines]
        cv2.fillPoly(painted, moved, DIM if stale else class_colour(box.label), cv2.LINE_8, 4)
    cv2.addWeighted(part, 1 - _MASK_TINT, painted, _MASK_TINT, 0, dst=part)
    for outlines, box in masks:
        colour = DIM if stale else class_colour(box.label)
        cv2.polylines(canvas, outlines, True, colour, 1, cv2.LINE_AA, 4)


def _draw_outline(
    canvas: Pixels, style: Style, box: Box, within_frame: tuple[int, int, int, int], colour: Colour, crowded: bool
) -> None:
    """Draw a box with dark lines beside the coloured ones, so that it is visible on any image; in a crowd without."""
    line = max(1, style.line - 1) if crowded else style.line
    if box.angle and math.isfinite(box.angle):
        corners = fixed_point(_rotated(box))
        if len(corners) == 4:
            cv2.polylines(canvas, [corners], True, DARK, line + 2, cv2.LINE_8, 4)
            cv2.polylines(canvas, [corners], True, colour, line, cv2.LINE_AA, 4)
            return
    x0, y0, x1, y1 = within_frame
    # Nested thin rectangles: OpenCV draws one thick one six times slower.
    for ring in range(line) if crowded else range(-1, line + 1):
        edge = colour if 0 <= ring < line else DARK
        cv2.rectangle(canvas, (x0 + ring, y0 + ring), (max(x0, x1 - ring), max(y0, y1 - ring)), edge)


def _rotated(box: Box) -> list[tuple[float, float]]:
    """Return the corners of a rotated box, the first one upper left before the rotation."""
    cx, cy, cos, sin = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, *_cos_sin(box.angle)
    corners = ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1))
    return [(cx + (x - cx) * cos - (y - cy) * sin, cy + (x - cx) * sin + (y - cy) * cos) for x, y in corners]


def _cos_sin(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _draw_points(canvas: Pixels, style: Style, box: Box, colour: Colour) -> None:
    """Draw the key points that are sure; 17 of them are a person, whose limbs are drawn too."""
    shown = {index: (point.x, point.y) for index, point in enumerate(box.points) if _is_sure(point, style)}
    if len(box.points) == 17:
        limbs = [fixed_point((shown[a], shown[b])) for a, b in _SKELETON if a in shown and b in shown]
        cv2.polylines(canvas, limbs, False, DARK, style.line + 2, cv2.LINE_8, 4)
        cv2.polylines(canvas, limbs, False, colour, style.line, cv2.LINE_AA, 4)
    # A small object's points would hide it.
    radius = min(style.line + 1, round((box.y1 - box.y0) / 24)) if math.isfinite(box.y1 - box.y0) else 0
    if radius < 1:
        return
    for x, y in shown.values():
        centre = round(x), round(y)
        cv2.circle(canvas, centre, radius + 1, DARK, -1)
        cv2.circle(canvas, centre, radius, colour, -1)


def _is_sure(point: KeyPoint, style: Style) -> bool:
    """Return whether a point is in the frame and its score is high enough; False for `nan`."""
    return point.score >= _SURE_POINT and 0 <= point.x < style.width and 0 <= point.y < style.height


def _put_label(
    style: Style, box: Box, within_frame: tuple[int, int, int, int], colour: Colour, places: Places, crowded: bool
) -> None:
    """Place a box's label: above the box, inside or below; without score or without a free place not at all."""
    font = style.small if crowded or style.detail == 0 else style.body
    x0, y0, x1, y1 = within_frame
    # A label on a box of a few pixels says nothing, and hides its neighbours.
    if max(x1 - x0, y1 - y0) < font.line:
        return
    name = _name_plate(box.label, box.track, font, style.width // 2, colour)
    left, above, below = x0 - (style.line + 1) // 2, y0 - name.height, y1 + 1
    plates = [name]
    if style.detail:
        plates.insert(0, Plate(*name.pieces, tag(percent(box.score), font, DARK, colour)))
    for plate in plates:
        right = x1 + 1 - plate.width
        corners = ((left, above), (right, above), (left, y0), (left, below), (left, below - plate.height))
        if places.put(plate, corners):
            return


@lru_cache(maxsize=1024)
def _name_plate(label: str, track: int, font: Font, room: int, colour: Colour) -> Plate:
    """Return a plate of label and track, either of which may be absent; the label is at most `room` pixels wide."""
    texts = [font.fit(label, room), f"#{track}" if track else ""]
    return Plate(*(tag(text, font, DARK, colour) for text in texts if text or not track))
