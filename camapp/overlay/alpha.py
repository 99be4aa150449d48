"""What was drawn, as a layer of its own: for screens that lay it over an image which we never touch."""

from __future__ import annotations

import cv2
import numpy as np

from camapp.core.arrays import Pixels

# Rows worked on at a time: what lies between two steps stays in the cache, and is not asked of the kernel anew.
BAND = 48


def with_alpha(on_black: Pixels, on_white: Pixels, out: Pixels | None = None) -> Pixels:
    """What was drawn, without its ground: from the same drawing on a black and on a white image.

    Where both are alike the drawing is opaque; where they differ by 255 there is none.

    Args:
        on_black: (h, w, 3) uint8 BGR.
        on_white: likewise.
        out: where to put it, (h, w, 4) uint8; a new array if not given.

    Returns:
        (h, w, 4) uint8 RGBA, not premultiplied.
    """
    height, width = on_black.shape[:2]
    out = np.empty((height, width, 4), np.uint8) if out is None else out
    for top in range(0, height, BAND):
        black, white = on_black[top : top + BAND], on_white[top : top + BAND]
        alpha = cv2.bitwise_not(cv2.extractChannel(cv2.subtract(white, black), 1))
        blue, green, red = (cv2.divide(channel, alpha, scale=255) for channel in cv2.split(black))
        cv2.merge([red, green, blue, alpha], out[top : top + BAND])
    return out
