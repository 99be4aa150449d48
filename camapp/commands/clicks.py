"""Lets the user click points in an image, in a window."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from camapp.core.arrays import Floats, Pixels
from camapp.overlay.text import Font
from camapp.system import displays

TITLE = "camapp: click the ground points"
# Size of the window; a larger image is shown smaller.
MAX_SIZE = (1280, 720)
ENTER, BACKSPACE, ESCAPE = (10, 13), (8, 127), 27
ORANGE, WHITE = (0, 140, 255), (255, 255, 255)
LETTERS, MARGIN = Font(11), 8


def clicked_points(image: Pixels, names: Sequence[str]) -> Floats:
    """Return the pixels (n, 2) that the user clicks, one for each name, in that order.

    Enter ends, once all are clicked; Backspace removes the last one; Escape or closing the window cancels.

    Args:
        image: RGB, uint8 (height, width, 3).

    Raises:
        ValueError: there is no display, or the user cancelled.
    """
    display = displays.probe()
    if not display:
        raise ValueError(f"{display.reason}; or give the points with --point")
    height, width = image.shape[:2]
    scale = min(1.0, MAX_SIZE[0] / width, MAX_SIZE[1] / height)
    shown = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    places: list[tuple[int, int]] = []

    def on_mouse(event: int, x: int, y: int, flags: int, parameter: object) -> None:
        if event == cv2.EVENT_LBUTTONDOWN and len(places) < len(names):
            places.append((x, y))

    cv2.namedWindow(TITLE, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
    try:
        cv2.setMouseCallback(TITLE, on_mouse)
        while True:
            cv2.imshow(TITLE, _drawn(shown, places, names))
            key = cv2.waitKey(30) & 0xFF
            if key == ESCAPE or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
                raise ValueError("nothing was changed: the window was closed before all points were clicked")
            if key in BACKSPACE and places:
                places.pop()
            elif key in ENTER and len(places) == len(names):
                answer: Floats = (np.array(places, np.float64) + 0.5) / scale
                return answer
    finally:
        cv2.destroyAllWindows()


def _drawn(image: Pixels, places: Sequence[tuple[int, int]], names: Sequence[str]) -> Pixels:
    canvas = image.copy()
    if len(places) > 1:
        outline = np.array(places, np.int32).reshape(-1, 1, 2)
        cv2.polylines(canvas, [outline], len(places) == len(names), ORANGE, 1, cv2.LINE_AA)
    for place in places:
        cv2.drawMarker(canvas, place, ORANGE, cv2.MARKER_CROSS, 17, 2, cv2.LINE_AA)
    if len(places) < len(names):
        text = f"Click {names[len(places)]} ({len(places) + 1} of {len(names)}). Backspace: back. Esc: cancel."
    else:
        text = "Enter: done. Backspace: back. Esc: cancel."
    line = LETTERS.layer(text, WHITE)
    canvas[: line.height + 2 * MARGIN] //= 4
    line.lay_on(canvas, MARGIN, MARGIN)
    return canvas
