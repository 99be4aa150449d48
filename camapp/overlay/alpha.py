"""Makes a transparent image of a drawing, for screens that blend it over a camera image by themselves."""

from __future__ import annotations

import cv2
import numpy as np

from camapp.core.arrays import Pixels

# Rows processed at a time: intermediate arrays stay in the cache, and their memory is reused.
BAND = 48


def with_alpha(on_black: Pixels, on_white: Pixels, out: Pixels | None = None) -> Pixels:
    """Return a drawing without its background, from that drawing on a black and on a white image, (h, w, 3) uint8 BGR.

    Pixels that are equal in both are opaque; those that differ by 255 are transparent. The result is (h, w, 4) uint8
    RGBA, not premultiplied; it is written into `out` if that is given.
    """
    height, width = on_black.shape[:2]
    out = np.empty((height, width, 4), np.uint8) if out is None else out
    for top in range(0, height, BAND):
        black, white = on_black[top : top + BAND], on_white[top : top + BAND]
        alpha = cv2.bitwise_not(cv2.extractChannel(cv2.subtract(white, black), 1))
        blue, green, red = (cv2.divide(channel, alpha, scale=255) for channel in cv2.split(black))
        cv2.merge([red, green, blue, alpha], out[top : top + BAND])
    return out
