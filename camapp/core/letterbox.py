"""Scales an image to fit into another size without distorting it."""

from __future__ import annotations

import cv2
import numpy as np

from camapp.core.arrays import Pixels


def letterboxed(image: Pixels, width: int, height: int) -> Pixels:
    """Return `image` (uint8, HWC) scaled to fit into (width, height), centred on black."""
    rows, columns = image.shape[:2]
    if (columns, rows) == (width, height):
        return image
    scale = min(width / columns, height / rows)
    inner = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.zeros((height, width, 3), np.uint8)
    out[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner, interpolation=interpolation)
    return out
