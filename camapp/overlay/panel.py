"""Builds panels, rows of text and bars on a dark plate, and tags, text on a coloured plate."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np

from camapp.overlay.style import DARK, SOFT, TRACK
from camapp.overlay.text import Colour, Font, Layer

# Of 255: white text stays readable over a white image, and the image stays visible.
PANEL_OPACITY = 190

# A layer and its x and y on the panel.
PlacedLayer = tuple[Layer, int, int]


class PanelBuilder:
    """Collects rows of text and bars from the top down, `inner` pixels wide with `pad` pixels around them."""

    def __init__(self, inner: int, pad: int) -> None:
        self._inner = max(1, inner)
        self._pad = pad
        self._y = self._bottom = 0
        self._background: list[PlacedLayer] = []
        self._items: list[PlacedLayer] = []

    def row(self, height: int, gap: int = 0) -> None:
        """Begin a row, `gap` pixels below the last one."""
        self._y = self._bottom + gap
        self._bottom = self._y + height

    def put(self, layer: Layer, x: int, drop: int = 0) -> None:
        """Add a layer, `drop` pixels below the row's top."""
        self._items.append((layer, x + self._pad, self._y + self._pad + drop))

    def caption(self, x: int, text: str, font: Font, colour: Colour = SOFT) -> None:
        """Add text that is the same in each drawing: it becomes part of the background, which is drawn once."""
        self._background.append((font.layer(text, colour), x + self._pad, self._y + self._pad - 1))

    def text(self, x: int, text: str, font: Font, colour: Colour, *, right: bool = False, drop: int = 0) -> None:
        """Add text whose capitals start `drop` pixels below the row's top; with `right`, it ends at x."""
        layer = font.layer(text, colour)
        self.put(layer, x - layer.width if right else x, drop - 1)

    def bar(self, x0: int, x1: int, height: int, share: float, colour: Colour, drop: int = 0) -> None:
        """Add a bar from x0 to x1, filled up to `share`, `drop` pixels below the row's top."""
        width = max(1, x1 - x0)
        self.put(_solid(width, height, TRACK), x0, drop)
        filled = round(width * min(max(share, 0.0), 1.0))
        if filled:
            self.put(_solid(filled, height, colour), x0, drop)

    def stack(self, width: int, height: int, parts: list[tuple[float, Colour]]) -> None:
        """Add a bar that is divided in proportion to its parts."""
        self.put(_solid(width, height, TRACK), 0)
        total, done = sum(size for size, _ in parts) or 1.0, 0.0
        for size, colour in parts:
            x0, x1 = round(width * done / total), round(width * (done + size) / total)
            if x1 > x0:
                self.put(_solid(x1 - x0, height, colour), x0)
            done += size

    def dot(self, x: int, size: int, colour: Colour) -> None:
        """Add a small square to the background, like a caption."""
        side = max(3, round(size * 0.8))
        self._background.append((_solid(side, side, colour), x + self._pad, self._y + self._pad + (size - side) // 2))

    def layer(self) -> Layer:
        """Return the panel, down to the last row."""
        width, height = self._inner + 2 * self._pad, self._bottom + 2 * self._pad
        background = _background(width, height, max(2, self._pad // 2), tuple(self._background))
        return _stacked(background, self._items)


def _stacked(background: Layer, items: Iterable[PlacedLayer]) -> Layer:
    out = Layer(background.colour.copy(), background.keep.copy())
    for layer, x, y in items:
        layer.merge_into(out, x, y)
    return out


@lru_cache(maxsize=16)
def _background(width: int, height: int, radius: int, captions: tuple[PlacedLayer, ...]) -> Layer:
    return _stacked(_plate(width, height, radius), captions)


@lru_cache(maxsize=256)
def _solid(width: int, height: int, colour: Colour) -> Layer:
    return Layer.of(np.full((height, width), 255, np.uint8), colour)


@lru_cache(maxsize=16)
def _plate(width: int, height: int, radius: int) -> Layer:
    """Return the dark background of a panel, with round corners."""
    shape = np.zeros((height * 4, width * 4), np.uint8)
    r, right, bottom = radius * 4, width * 4 - 1, height * 4 - 1
    cv2.rectangle(shape, (r, 0), (right - r, bottom), (PANEL_OPACITY,), -1)
    cv2.rectangle(shape, (0, r), (right, bottom - r), (PANEL_OPACITY,), -1)
    for x in (r, right - r):
        for y in (r, bottom - r):
            cv2.circle(shape, (x, y), r, (PANEL_OPACITY,), -1)
    return Layer.of(np.asarray(cv2.resize(shape, (width, height), interpolation=cv2.INTER_AREA), np.uint8), DARK)


@lru_cache(maxsize=2048)
def tag(text: str, font: Font, colour: Colour, fill: Colour) -> Layer:
    """Return text on a coloured plate."""
    letters = font.layer(text, colour)
    pad = max(2, font.cap // 3)
    plate = Layer.clear(letters.width + 2 * pad, font.cap + 2 * pad + 1)
    plate.colour[:] = fill
    plate.keep[:] = 0
    letters.merge_into(plate, pad, pad - 1)
    return plate
