"""Converts an image to the input of a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from camapp.core.arrays import Floats, Pixels
from camapp.core.image import CONVERSIONS, Image, Layout
from camapp.core.predictions import Box, Point
from camapp.core.zones import Roi

if TYPE_CHECKING:
    from engine.model import ModelCard

FITS = ("crop", "letterbox", "stretch")


@dataclass(frozen=True, slots=True)
class Fit:
    """Places a part of an image in the input of a model, in whole pixels; right and bottom edges are exclusive.

    Attributes:
        source: (x0, y0, x1, y1) of the part in the image.
        target: (x0, y0, x1, y1) of the part in the input.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]

    def region(self, scale: Point) -> Box:
        """Return the part in a view whose coordinates are `scale` times those of the image."""
        x0, y0, x1, y1 = self.source
        return Box(x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])


def roi_pixels(size: tuple[int, int], roi: Roi | None) -> tuple[int, int, int, int]:
    """Convert a region in fractions to (x0, y0, x1, y1) in whole pixels, at least one; None is the whole image.

    Raises:
        ValueError: the region leaves the image or has no area.
    """
    width, height = size
    if roi is None:
        return 0, 0, width, height
    x, y, w, h = roi
    if not (0 <= x < 1 and 0 <= y < 1 and 0 < w <= 1 - x + 1e-6 and 0 < h <= 1 - y + 1e-6):
        raise ValueError(f"roi {roi} must lie in the image: x, y, width, height as fractions from 0 to 1")
    x0, y0 = min(int(x * width), width - 1), min(int(y * height), height - 1)
    x1, y1 = min(width, round((x + w) * width)), min(height, round((y + h) * height))
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


@lru_cache(maxsize=64)
def make_fit(
    size: tuple[int, int], model: tuple[int, int], fit: str, roi: Roi | None = None, corner: bool = False
) -> Fit:
    """Fit a region of an image to the input of a model.

    Args:
        size: (width, height) of the image.
        model: (width, height) of the model's input.
        fit: 'crop' takes the largest central part of the model's aspect, 'letterbox' adds bars around the region,
            'stretch' changes the aspect.
        roi: (x, y, width, height) of the region as fractions of the image; None is the whole image.
        corner: whether 'letterbox' puts the image in the upper left corner, not in the middle.

    Raises:
        ValueError: unknown fit, or a region that leaves the image.
    """
    if fit not in FITS:
        raise ValueError(f"unknown fit '{fit}'; allowed are {', '.join(FITS)}")
    x0, y0, x1, y1 = roi_pixels(size, roi)
    width, height = x1 - x0, y1 - y0
    model_width, model_height = model
    if fit == "crop":
        scale = min(width / model_width, height / model_height)
        crop_width, crop_height = max(1, round(model_width * scale)), max(1, round(model_height * scale))
        x0, y0 = x0 + (width - crop_width) // 2, y0 + (height - crop_height) // 2
        return Fit((x0, y0, x0 + crop_width, y0 + crop_height), (0, 0, model_width, model_height))
    if fit == "stretch":
        return Fit((x0, y0, x1, y1), (0, 0, model_width, model_height))
    scale = min(model_width / width, model_height / height)
    shown_width, shown_height = max(1, round(width * scale)), max(1, round(height * scale))
    u0, v0 = (0, 0) if corner else ((model_width - shown_width) // 2, (model_height - shown_height) // 2)
    return Fit((x0, y0, x1, y1), (u0, v0, u0 + shown_width, v0 + shown_height))


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (width, height): averages all source pixels when shrinking, interpolates linearly when enlarging."""
    height, width = pixels.shape[:2]
    # Halve first: averaging by any other factor takes OpenCV 3 to 8 times as long.
    while min(width // size[0], height // size[1]) >= 4:
        width, height = width // 2, height // 2
        pixels = _resized(pixels[: 2 * height, : 2 * width], (width, height), cv2.INTER_AREA)
    if (width, height) == size:
        return pixels
    smaller = size[0] * size[1] < width * height
    return _resized(pixels, size, cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _resized(pixels: Pixels, size: tuple[int, int], interpolation: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, size, interpolation=interpolation), dtype=np.uint8)


def cut(image: Image, source: tuple[int, int, int, int], size: tuple[int, int], colour: str) -> Pixels:
    """Crop and resize an image: uint8 (h, w, 3), or (h, w) for colour 'GRAY'.

    Colours are converted after the resize, on fewer pixels, except I420, whose planes differ in size.
    """
    x0, y0, x1, y1 = source
    if image.layout is Layout.I420:
        whole = {"RGB": image.rgb, "BGR": image.bgr, "GRAY": image.gray}[colour]()
        return resize(whole[y0:y1, x0:x1], size)
    part = resize(image.data[y0:y1, x0:x1], size)
    code = CONVERSIONS[colour, image.layout]
    return part if code is None else np.asarray(cv2.cvtColor(part, code), dtype=np.uint8)


class Preprocessor:
    """Converts images to the input of one model; images may change size and layout at any time."""

    def __init__(
        self,
        card: ModelCard,
        fit: str | None = None,
        roi: Roi | None = None,
        *,
        fill: float | None = None,
        corner: bool = False,
    ) -> None:
        """Prepare for a model.

        Args:
            card: defines input shape, mean, std and colour.
            fit: 'crop', 'letterbox' or 'stretch'; None, as in options without one, is 'crop'.
            roi: (x, y, width, height) of the region to use, as fractions of the image.
            fill: brightness of a letterbox's bars, 0 to 255; None is the card's mean.
            corner: as for `make_fit`.

        Raises:
            ValueError: unknown fit, or a region that leaves the image.
        """
        _, height, width = card.input_shape
        self._size = (width, height)
        self._fit = fit or "crop"
        self._roi = roi
        self._colour = card.colour
        # (pixel / 255 - mean) / std as one multiplication and one addition.
        self._scale = [np.float32(1 / (255 * std)) for std in card.std]
        self._offset = [np.float32(-mean / std) for mean, std in zip(card.mean, card.std, strict=True)]
        bars = [
            0.0 if fill is None else fill * scale + off for scale, off in zip(self._scale, self._offset, strict=True)
        ]
        self._bars = np.array(bars, np.float32)[:, None, None]
        self._corner = corner
        make_fit((width, height), self._size, self._fit, roi)

    def __call__(self, image: Image, out: Floats) -> Fit:
        """Write the image into `out`, float32 (C, H, W)."""
        fit = make_fit(image.size, self._size, self._fit, self._roi, self._corner)
        u0, v0, u1, v1 = fit.target
        pixels = cut(image, fit.source, (u1 - u0, v1 - v0), self._colour)
        if (u1 - u0, v1 - v0) != self._size:
            out[...] = self._bars
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        for plane, scale, offset, target in zip(planes, self._scale, self._offset, out[:, v0:v1, u0:u1], strict=True):
            np.multiply(plane, scale, out=target, dtype=np.float32)
            if offset:
                target += offset
        return fit
