"""Traces the outlines of masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.predictions import Point
from camapp.tasks.heads.head import Outlines

# Deviation of an outline from its mask, in pixels of the mask, that saves points.
_TOLERANCE = 0.6


def outlines_of(mask: NDArray[np.bool_], origin: Point, scale: Point) -> Outlines:
    """Return the outlines of a mask (h, w), those of its holes too.

    Args:
        origin: place of the mask's corner.
        scale: size of a pixel of the mask.
    """
    shapes, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlines = []
    for shape in shapes:
        # From the middles of pixels.
        points = (cv2.approxPolyDP(shape, _TOLERANCE, True)[:, 0] + 0.5) * scale + origin
        if len(points) > 2:
            outlines.append(tuple((x, y) for x, y in points.tolist()))
    return tuple(outlines)
