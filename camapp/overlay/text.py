"""Renders text and panels as layers: small cached images that one multiply and one add blend into an image.

Each glyph of OpenCV's stroke font is drawn four times too large, reduced and cached: it looks better than `putText` at
small sizes and takes a twentieth of its time, and nothing depends on which font an OpenCV version draws.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from camapp.core.arrays import Pixels

Colour = tuple[int, int, int]

_OVERSAMPLING = 4
_FONT_FACE = cv2.FONT_HERSHEY_SIMPLEX
_ASCII_SPELLINGS = str.maketrans(
    {
        "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d",
        "°": " deg", "×": "x", "·": "-", "•": "-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"',  # noqa: RUF001
        "µ": "u", "μ": "u", "…": "...", "→": "->", "€": "EUR", "\t": " ", "\n": " ", "\r": " ",
    }
)  # fmt: skip


@lru_cache(maxsize=512)
def plain(text: str) -> str:
    """Return the text in printable ASCII, which is all that OpenCV can draw: without accents, the rest as '?'."""
    bare = unicodedata.normalize("NFKD", text.translate(_ASCII_SPELLINGS))
    return "".join(c if " " <= c <= "~" else "?" for c in bare if not unicodedata.combining(c))


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """An image with transparency: blending it gives target * keep / 255 + colour.

    Attributes:
        colour: (h, w, 3) uint8 BGR, already multiplied by its opacity.
        keep: (h, w, 3) uint8, 255 - opacity: the share of the target that remains.
    """

    colour: Pixels
    keep: Pixels

    @classmethod
    def clear(cls, width: int, height: int) -> Layer:
        """Return a transparent layer."""
        return cls(np.zeros((height, width, 3), np.uint8), np.full((height, width, 3), 255, np.uint8))

    @classmethod
    def of(cls, alpha: Pixels, colour: Colour) -> Layer:
        """Return a layer of one colour with an (h, w) uint8 opacity."""
        wide = np.asarray(cv2.merge([alpha, alpha, alpha]), np.uint8)
        return cls(np.asarray(cv2.LUT(wide, _shades(colour)), np.uint8), np.asarray(cv2.bitwise_not(wide), np.uint8))

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.colour.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.colour.shape[0])

    def lay_on(self, target: Pixels, x: int, y: int) -> None:
        """Blend into a (h, w, 3) uint8 image in place with the top left corner at (x, y), clipped to it."""
        height, width = target.shape[:2]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + self.width, width), min(y + self.height, height)
        if x0 >= x1 or y0 >= y1:
            return
        below = target[y0:y1, x0:x1]
        visible = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        cv2.multiply(below, self.keep[visible], below, 1 / 255)
        cv2.add(below, self.colour[visible], below)

    def merge_into(self, below: Layer, x: int, y: int) -> None:
        """Blend into another layer in place, so that blending that one draws both."""
        self.lay_on(below.colour, x, y)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + self.width, below.width), min(y + self.height, below.height)
        if x0 < x1 and y0 < y1:
            under = below.keep[y0:y1, x0:x1]
            cv2.multiply(under, self.keep[y0 - y : y1 - y, x0 - x : x1 - x], under, 1 / 255)


@dataclass(frozen=True, slots=True)
class Font:
    """A size and weight of text; `cap` is the height of a capital letter in pixels."""

    cap: int
    bold: bool = False

    @property
    def line(self) -> int:
        """Height in pixels of a glyph's cell: a capital, and room for descenders."""
        return self.cap + self.drop + 1

    @property
    def drop(self) -> int:
        """Pixels from the baseline to the bottom of the cell."""
        return -(-self.cap * 2 // 5)

    def width(self, text: str) -> int:
        """Return the width of `text` in pixels."""
        return sum(_advance(self, char) for char in plain(text))

    def fit(self, text: str, width: int) -> str:
        """Return `text` in ASCII, its end replaced by '..' if it is wider than `width` pixels."""
        text = plain(text)
        if self.width(text) <= width:
            return text
        room = width - self.width("..")
        for length, char in enumerate(text):
            room -= _advance(self, char)
            if room < 0:
                return text[:length].rstrip() + ".." if length else ""
        return text

    def wrap(self, text: str, width: int, max_lines: int) -> list[str]:
        """Break text into at most `max_lines` lines of at most `width` pixels; a line that is too long ends in '..'."""
        lines: list[str] = []
        for word in text.split():
            if lines and (len(lines) == max_lines or self.width(f"{lines[-1]} {word}") <= width):
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        return [self.fit(line, width) for line in lines]

    def layer(self, text: str, colour: Colour) -> Layer:
        """Return the text as a layer of height `line`; its capitals start one pixel below the top."""
        return _text_layer(self, plain(text), colour)


@lru_cache(maxsize=64)
def _shades(colour: Colour) -> Pixels:
    """Return (1, 256, 3) uint8, the colour at each opacity."""
    shades: Pixels = np.rint(np.arange(256)[None, :, None] / 255 * np.array(colour)).astype(np.uint8)
    return shades


@lru_cache(maxsize=1024)
def _text_layer(font: Font, text: str, colour: Colour) -> Layer:
    if not text:
        return Layer.clear(1, font.line)
    return Layer.of(np.hstack([_glyph(font, char) for char in text]), colour)


@lru_cache(maxsize=64)
def _stroke(font: Font) -> tuple[float, int]:
    """Return the (font scale, thickness) of the oversampled font."""
    cap = font.cap * _OVERSAMPLING
    thickness = max(1, round(cap * (0.15 if font.bold else 0.1)))
    (_, at_ten), _ = cv2.getTextSize("H", _FONT_FACE, 10.0, 1)
    return (cap - thickness) * 10.0 / at_ten, thickness


@lru_cache(maxsize=2048)
def _advance(font: Font, char: str) -> int:
    scale, _ = _stroke(font)
    (pair, _), _ = cv2.getTextSize(f"|{char}|", _FONT_FACE, scale, 1)
    (bars, _), _ = cv2.getTextSize("||", _FONT_FACE, scale, 1)
    return max(1, round(int(pair - bars) / _OVERSAMPLING))


@lru_cache(maxsize=2048)
def _glyph(font: Font, char: str) -> Pixels:
    scale, thickness = _stroke(font)
    width, height = _advance(font, char), font.line
    large = np.zeros((height * _OVERSAMPLING, width * _OVERSAMPLING), np.uint8)
    base = (font.cap + 1) * _OVERSAMPLING - thickness // 2
    cv2.putText(large, char, (0, base), _FONT_FACE, scale, (255,), thickness, cv2.LINE_AA)
    small: Pixels = np.asarray(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return small.reshape(height, width)
