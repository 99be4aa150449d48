"""Draws zones and counting lines with what they have counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from camapp.core.arrays import Pixels
from camapp.core.predictions import LineState, Prediction, ZoneState
from camapp.overlay.objects import Places, Plate, fixed_point
from camapp.overlay.panel import tag
from camapp.overlay.style import DARK, DIM, GREEN, WHITE, Style
from camapp.overlay.text import Colour


def draw_zones(canvas: Pixels, style: Style, prediction: Prediction, stale: bool, places: Places) -> None:
    """Draw in place; a zone with something in it is green. The counts are put into `places`, before any label."""
    for zone in prediction.zones:
        _draw_zone(canvas, style, zone, DIM if stale else GREEN if any(zone.inside.values()) else WHITE, places)
    for line in prediction.counting_lines:
        _draw_line(canvas, style, line, DIM if stale else WHITE, places)


def _draw_zone(canvas: Pixels, style: Style, zone: ZoneState, colour: Colour, places: Places) -> None:
    outline = fixed_point(zone.outline)
    if len(outline) < 3:
        return
    cv2.polylines(canvas, [outline], True, DARK, style.line + 2, cv2.LINE_8, 4)
    cv2.polylines(canvas, [outline], True, colour, style.line, cv2.LINE_AA, 4)
    counts = f"{sum(zone.inside.values())}"
    if style.detail:
        counts += f" inside, {sum(zone.entered.values())} in, {sum(zone.left.values())} out"
    corners = (outline[np.argsort(outline.sum(axis=(1, 2))), 0] // 16).tolist()
    _put_counts(style, zone.name, counts, colour, places, corners)


def _draw_line(canvas: Pixels, style: Style, line: LineState, colour: Colour, places: Places) -> None:
    """Draw a line with an arrow in the direction that counts as in."""
    ends = fixed_point((line.start, line.end))
    if len(ends) < 2:
        return
    (x0, y0), (x1, y1) = line.start, line.end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    arm = min(2.5 * style.unit, length / 3)
    along = (x1 - x0) / length * arm, (y1 - y0) / length * arm
    # To the right, seen from the start towards the end.
    across = -along[1], along[0]
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    tip = middle[0] + across[0], middle[1] + across[1]
    head = [
        (tip[0] - 0.4 * across[0] + side * 0.3 * along[0], tip[1] - 0.4 * across[1] + side * 0.3 * along[1])
        for side in (-1, 1)
    ]
    strokes = [ends, fixed_point((middle, tip)), fixed_point((head[0], tip, head[1]))]
    cv2.polylines(canvas, strokes, False, DARK, style.line + 2, cv2.LINE_8, 4)
    cv2.polylines(canvas, strokes, False, colour, style.line, cv2.LINE_AA, 4)
    counts = f"{sum(line.into.values())} in, {sum(line.out.values())} out"
    anchors = (ends.mean(axis=0, dtype=np.int64, keepdims=True)[:, 0] // 16).tolist() + (ends[:, 0] // 16).tolist()
    _put_counts(style, line.name, counts, colour, places, anchors)


def _put_counts(
    style: Style, name: str, counts: str, colour: Colour, places: Places, anchors: Iterable[Sequence[int]]
) -> None:
    """Place a name with its counts right of the first anchor (x, y) that has room beside or near it."""
    font = style.body if style.detail else style.small
    plate = Plate(tag(font.fit(name, style.width // 3), font, DARK, colour), tag(counts, font, colour, DARK))
    right, bottom = max(0, style.width - plate.width), max(0, style.height - plate.height)
    gap = style.line + 2
    near = [(min(max(x + gap, 0), right), min(max(y + gap, 0), bottom)) for x, y in anchors]
    places.put(plate, [(x, y + step * plate.height) for x, y in near for step in (0, 1, -1, 2, -2)])
