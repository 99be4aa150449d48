"""Holds an image in the layout of its device, and converts it on demand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels


class Layout(Enum):
    """Names the order of the bytes in memory; libcamera names formats as little-endian words instead."""

    GRAY = "GRAY"
    RGB = "RGB"
    BGR = "BGR"
    RGBX = "RGBX"
    BGRX = "BGRX"
    I420 = "I420"


# OpenCV's conversion codes by colour and layout; None copies. OpenCV calls the unused byte of a pixel A.
CONVERSIONS: dict[tuple[str, Layout], int | None] = {
    (colour, layout): getattr(cv2, f"COLOR_{layout.value.replace('X', 'A')}2{colour}", None)
    for colour in ("RGB", "BGR", "GRAY")
    for layout in Layout
} | {("RGB", Layout.I420): cv2.COLOR_YUV2RGB_I420, ("BGR", Layout.I420): cv2.COLOR_YUV2BGR_I420}


@dataclass(frozen=True, eq=False)
class Image:
    """Holds the pixels as the device delivered them.

    Attributes:
        data: uint8. GRAY (h, w); RGB/BGR (h, w, 3); RGBX/BGRX (h, w, 4); I420 (h * 3 // 2, stride); the stride
            may exceed the width because libcamera pads rows.
        layout: order of the bytes in `data`.
        width: columns without padding.
        height: rows of the image.
    """

    data: Pixels
    layout: Layout
    width: int
    height: int

    @classmethod
    def of(cls, data: Pixels, layout: Layout) -> Image:
        """Wrap an array without padding; its shape gives width and height."""
        height = data.shape[0] * 2 // 3 if layout is Layout.I420 else data.shape[0]
        return cls(data, layout, data.shape[1], height)

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height)."""
        return self.width, self.height

    def rgb(self) -> Pixels:
        """Return (h, w, 3) uint8, R first. Read only: it may be the device's own buffer."""
        return self.data if self.layout is Layout.RGB else self._rgb

    def bgr(self) -> Pixels:
        """Return (h, w, 3) uint8, B first, as OpenCV draws and shows. Read only."""
        return self.data if self.layout is Layout.BGR else self._bgr

    def gray(self) -> Pixels:
        """Return (h, w) uint8 luma. Read only. Free for I420, whose Y plane it is."""
        if self.layout is Layout.GRAY:
            return self.data
        if self.layout is Layout.I420:
            return self.data[: self.height, : self.width]
        return self._gray

    @cached_property
    def _rgb(self) -> Pixels:
        return self._converted("RGB")

    @cached_property
    def _bgr(self) -> Pixels:
        return self._converted("BGR")

    @cached_property
    def _gray(self) -> Pixels:
        return self._converted("GRAY")

    def _converted(self, colour: str) -> Pixels:
        code = CONVERSIONS[colour, self.layout]
        assert code is not None
        # OpenCV needs width == stride for I420, so whole rows are decoded and cropped afterwards.
        return np.asarray(cv2.cvtColor(self.data, code), dtype=np.uint8)[: self.height, : self.width]


def silence_opencv() -> None:
    """Turn off the messages of OpenCV and its FFmpeg on stderr; our errors replace them."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # OpenCV 5 moved it to utils.logging.
    getattr(cv2.utils, "logging", cv2).setLogLevel(0)


def as_image(array: NDArray[Any]) -> Image:
    """Wrap an array (h, w[, 1 to 4]), uint8 or uint16, grey or B first; alpha is blended over white.

    Raises:
        ValueError: another data type or number of channels.
    """
    if array.ndim == 2 and array.dtype == np.uint8:
        return Image(array, Layout.GRAY, array.shape[1], array.shape[0])
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
        return Image.of(array.reshape(array.shape[:2]), Layout.GRAY)
    if channels == 3:
        return Image.of(array, Layout.BGR)
    raise ValueError(f"it has {channels} channels; 1 to 4 can be read")


def fit_within(image: Image, size: tuple[int, int] | None) -> Image:
    """Shrink an image to at most `size` (width, height) and keep its aspect; smaller ones are returned unchanged."""
    if size is None or (image.width <= size[0] and image.height <= size[1]):
        return image
    scale = min(size[0] / image.width, size[1] / image.height)
    fitted = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return Image.of(np.asarray(cv2.resize(image.data, fitted, interpolation=cv2.INTER_AREA), np.uint8), image.layout)


def _over_white(array: Pixels) -> Pixels:
    alpha = array[..., -1:].astype(np.uint32)
    mixed = (array[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)
