"""Arrays as OpenCV decodes them, made into 8-bit pictures."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.picture import Layout, Picture, Pixels


def silence_opencv() -> None:
    """Keep OpenCV's own lines, and those of its FFmpeg, off stderr: our errors say it better."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    getattr(cv2.utils, "logging", cv2).setLogLevel(0)  # OpenCV 5 moved it there


def as_picture(array: NDArray[Any]) -> Picture:
    """(h, w[, 1 to 4]) uint8 or uint16, grey or B first; alpha is laid over white.

    Raises:
        ValueError: pixels of another kind.
    """
    if array.ndim == 2 and array.dtype == np.uint8:
        return Picture(array, Layout.GRAY, array.shape[1], array.shape[0])
    if array.dtype == np.uint16:
        # 65535 / 255 = 257, so that white stays white.
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"its pixels are {array.dtype}; 8 and 16 bit can be read")
    channels = array.shape[2] if array.ndim == 3 else 1
    if channels in (2, 4):
        array = _over_white(array)
        channels -= 1
    if channels == 1:
        return Picture.of(array.reshape(array.shape[:2]), Layout.GRAY)
    if channels == 3:
        return Picture.of(array, Layout.BGR)
    raise ValueError(f"it has {channels} channels; 1 to 4 can be read")


def fit_within(picture: Picture, size: tuple[int, int] | None) -> Picture:
    """The picture made no larger than `size` (width, height), aspect kept; smaller ones stay as they are."""
    if size is None or (picture.width <= size[0] and picture.height <= size[1]):
        return picture
    scale = min(size[0] / picture.width, size[1] / picture.height)
    fitted = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return Picture.of(
        np.asarray(cv2.resize(picture.data, fitted, interpolation=cv2.INTER_AREA), np.uint8), picture.layout
    )


def _over_white(array: Pixels) -> Pixels:
    alpha = array[..., -1:].astype(np.uint32)
    mixed = (array[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)
