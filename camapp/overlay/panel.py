"""What panels are made of: rows of text and bars, collected on a dark plate; and tags, text on a coloured one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np

from camapp.overlay.style import INK, SOFT, TRACK
from camapp.overlay.text import Colour, Font, Layer

PANEL_OPACITY = 190  # of 255: white letters stay readable over a white image, and the image stays visible

Placed = tuple[Layer, int, int]


class Board:
    """Collects rows of text and bars on a panel, from the top down; `layer` gives the panel.

    Args:
        inner: width of the content, in pixels.
        pad: pixels around the content.
    """

    def __init__(self, inner: int, pad: int) -> None:
        self._inner = max(1, inner)
        self._pad = pad
        self._y = 0
        self._ground: list[Placed] = []
        self._items: list[Placed] = []

    def advance(self, pixels: int) -> None:
        """Go on that much further down."""
        self._y += pixels

    def put(self, layer: Layer, x: int, drop: int = 0) -> None:
        """Anything, `drop` pixels below the row's top."""
        self._items.append((layer, x + self._pad, self._y + self._pad + drop))

    def caption(self, x: int, text: str, font: Font, colour: Colour = SOFT) -> None:
        """Text that stays the same from one drawing to the next: it becomes part of the ground, drawn once."""
        self._ground.append((font.layer(text, colour), x + self._pad, self._y + self._pad - 1))

    def text(self, x: int, text: str, font: Font, colour: Colour, *, right: bool = False, drop: int = 0) -> None:
        """Capitals start `drop` pixels below the row's top; `right`: x is where the text ends."""
        layer = font.layer(text, colour)
        self.put(layer, x - layer.width if right else x, drop - 1)

    def bar(
        self, x0: int, x1: int, height: int, share: float, colour: Colour, *, drop: int = 0, flow: bool = True
    ) -> None:
        """A track from x0 to x1 filled up to `share`; `flow` moves on to below it."""
        width = max(1, x1 - x0)
        drop = drop - height // 2 if drop else 0
        self.put(_solid(width, height, TRACK), x0, drop)
        filled = round(width * min(max(share, 0.0), 1.0))
        if filled:
            self.put(_solid(filled, height, colour), x0, drop)
        if flow:
            self.advance(height)

    def stack(self, width: int, height: int, parts: list[tuple[float, Colour]]) -> None:
        """A bar divided in proportion to its parts."""
        self.put(_solid(width, height, TRACK), 0)
        total, done = sum(size for size, _ in parts) or 1.0, 0.0
        for size, colour in parts:
            x0, x1 = round(width * done / total), round(width * (done + size) / total)
            if x1 > x0:
                self.put(_solid(x1 - x0, height, colour), x0)
            done += size
        self.advance(height)

    def dot(self, x: int, size: int, colour: Colour) -> None:
        """A small square, part of the ground like a caption."""
        side = max(3, round(size * 0.8))
        self._ground.append((_solid(side, side, colour), x + self._pad, self._y + self._pad + (size - side) // 2))

    def layer(self) -> Layer:
        """The panel, as far down as was gone."""
        width, height = self._inner + 2 * self._pad, self._y + 2 * self._pad
        ground = _ground(width, height, max(2, self._pad // 2), tuple(self._ground))
        return _stacked(ground, self._items)


def _stacked(ground: Layer, items: Iterable[Placed]) -> Layer:
    out = Layer(ground.colour.copy(), ground.keep.copy())
    for layer, x, y in items:
        layer.lay_over(out, x, y)
    return out


@lru_cache(maxsize=16)
def _ground(width: int, height: int, radius: int, captions: tuple[Placed, ...]) -> Layer:
    return _stacked(_plate(width, height, radius), captions)


@lru_cache(maxsize=256)
def _solid(width: int, height: int, colour: Colour) -> Layer:
    return Layer.of(np.full((height, width), 255, np.uint8), colour)


@lru_cache(maxsize=16)
def _plate(width: int, height: int, radius: int) -> Layer:
    """The dark ground of a panel, with round corners."""
    shape = np.zeros((height * 4, width * 4), np.uint8)
    r, right, bottom = radius * 4, width * 4 - 1, height * 4 - 1
    cv2.rectangle(shape, (r, 0), (right - r, bottom), (PANEL_OPACITY,), -1)
    cv2.rectangle(shape, (0, r), (right, bottom - r), (PANEL_OPACITY,), -1)
    for x in (r, right - r):
        for y in (r, bottom - r):
            cv2.circle(shape, (x, y), r, (PANEL_OPACITY,), -1)
    return Layer.of(np.asarray(cv2.resize(shape, (width, height), interpolation=cv2.INTER_AREA), np.uint8), INK)


@lru_cache(maxsize=512)
def tag(text: str, font: Font, colour: Colour, fill: Colour) -> Layer:
    """Text on a filled plate."""
    words = font.layer(text, colour)
    pad = max(2, font.cap // 3)
    plate = Layer.clear(words.width + 2 * pad, font.cap + 2 * pad + 1)
    plate.colour[:] = fill
    plate.keep[:] = 0
    words.lay_over(plate, pad, pad - 1)
    return plate
