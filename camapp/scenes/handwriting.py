"""Draws handwritten digits from strokes, with random jitter, slant and pen pressure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels

Points = NDArray[np.float64]

# Variants of each digit: ';' separates strokes, '|' marks a corner, points are 'x,y' in a box 60 wide and 100 high.
GLYPHS: dict[str, tuple[str, ...]] = {
    "0": (
        "32,2 10,16 2,52 12,88 32,98 52,84 58,48 50,14 30,3",
        "40,6 18,6 4,36 4,70 20,97 42,92 57,62 54,26 36,4 26,8",
    ),
    "1": ("30,0 30,50 29,100", "38,0 31,50 24,100", "14,24 | 34,2 | 33,50 32,100"),
    "2": (
        "6,22 18,4 40,2 54,18 48,42 26,72 4,96 | 32,95 58,97",
        "6,22 20,3 42,4 53,22 45,48 24,76 9,92 4,84 16,78 34,91 60,94",
        "8,14 26,2 46,8 51,28 40,52 22,76 6,97 | 54,95",
    ),
    "3": (
        "6,12 24,1 46,6 50,25 38,42 20,48 | 40,50 56,66 51,90 28,100 4,90",
        "8,8 28,1 48,10 44,32 24,46 46,54 56,74 42,96 20,100 3,90",
        "8,4 | 52,3 | 26,40 46,46 57,68 46,92 24,100 3,91",
    ),
    "4": (
        "12,2 9,28 5,54 | 30,55 57,52 ; 46,4 44,50 41,100",
        "18,0 10,28 2,57 | 58,56 ; 44,30 42,66 40,100",
        "8,4 5,30 14,48 34,48 48,38 | 52,4 | 49,50 44,100",
    ),
    "5": (
        "54,3 | 14,5 | 10,44 30,37 51,48 55,74 38,97 4,92",
        "14,5 9,44 30,38 53,52 54,80 34,98 4,91 ; 13,5 | 57,2",
        "50,4 | 18,4 | 8,45 26,40 46,48 50,72 36,95 2,96",
    ),
    "6": (
        "44,0 22,20 7,54 8,84 28,100 50,88 52,64 34,53 15,62 7,80",
        "36,0 16,28 4,62 12,94 34,99 52,82 46,60 26,58 9,76",
    ),
    "7": (
        "2,7 | 30,6 56,4 | 42,40 30,70 24,100",
        "4,8 30,5 54,6 50,26 34,58 22,100",
        "3,14 | 6,5 | 55,5 | 40,40 26,100",
        "2,7 | 56,5 | 40,44 25,100 ; 18,52 | 52,50",
    ),
    "8": (
        "48,14 28,1 9,14 15,36 40,54 52,76 36,98 10,90 7,70 28,50 46,32 48,12",
        "30,47 11,36 12,8 32,0 50,12 46,36 30,47 6,64 5,88 28,100 53,88 53,64 30,47",
    ),
    "9": (
        "50,22 34,4 11,13 6,36 22,50 43,40 51,18 | 49,58 42,100",
        "52,12 32,2 10,16 8,40 26,50 46,36 52,12 | 52,56 45,88 26,99 9,92",
        "48,20 30,3 8,16 10,42 30,46 47,28 | 46,60 36,100",
    ),
}
# Points per spline segment.
SAMPLES = 8
OVERSAMPLE = 2


@dataclass(frozen=True)
class Hand:
    """The handwriting of one writer, constant over a row of digits.

    Attributes:
        slant: horizontal shift per unit of height; positive leans right.
        aspect: width relative to that of the glyph.
        wobble: standard deviation of the points' jitter as a fraction of the height.
        pen: stroke width as a fraction of the height.
    """

    slant: float
    aspect: float
    wobble: float
    pen: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Hand:
        """Return the handwriting of a random writer."""
        return cls(
            slant=float(rng.normal(0.08, 0.12)),
            aspect=float(rng.uniform(0.8, 1.12)),
            wobble=float(rng.uniform(0.008, 0.028)),
            pen=float(rng.uniform(0.055, 0.12)),
        )


def write_digit(digit: str, height: float, hand: Hand, rng: np.random.Generator) -> Pixels:
    """Return the ink of one handwritten digit '0' to '9': coverage 0..255, uint8, cropped to the ink.

    Strokes are `height` pixels high without the pen's width; `rng` determines the variant, the jitter and the pressure.
    """
    variants = GLYPHS[digit]
    strokes = _strokes(variants[rng.integers(len(variants))], hand, rng)
    scale = height * OVERSAMPLE / 100
    pen = max(hand.pen * height, 1.6) * OVERSAMPLE
    margin = pen + 2 * OVERSAMPLE
    points = [stroke * scale for stroke in strokes]
    all_points = np.concatenate(points)
    origin = all_points.min(axis=0) - margin
    width, height_px = np.ceil((all_points.max(axis=0) - origin + margin) / OVERSAMPLE).astype(int)
    canvas: Pixels = np.zeros((height_px * OVERSAMPLE, width * OVERSAMPLE), np.uint8)
    phase = rng.uniform(0, 2 * np.pi)
    for stroke in points:
        pixels = np.rint((stroke - origin) * 16).astype(int).tolist()
        for i, (start, end) in enumerate(pairwise(pixels)):
            # The pressure varies along the stroke.
            pressure = 1 + 0.13 * np.sin(phase + 5.0 * i / SAMPLES)
            cv2.line(canvas, start, end, (255,), max(1, round(float(pen * pressure))), cv2.LINE_AA, 4)
    ink = np.asarray(cv2.resize(canvas, (int(width), int(height_px)), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    x, y, w, h = cv2.boundingRect(ink)
    return ink[y : y + h, x : x + w]


def _strokes(glyph: str, hand: Hand, rng: np.random.Generator) -> list[Points]:
    """Return smooth polylines of a glyph, height 100, with the jitter and slant of the handwriting."""
    jittered: dict[str, Points] = {}

    def point(text: str) -> Points:
        # Cached by the text, so that strokes that share a point still meet.
        if text not in jittered:
            x, y = map(float, text.split(","))
            x, y = np.array([x, y]) + rng.normal(0, 100 * hand.wobble, 2)
            jittered[text] = np.array([(x - 30) * hand.aspect + (50 - y) * hand.slant, y])
        return jittered[text]

    strokes = []
    for stroke in glyph.split(";"):
        pieces: list[Points] = []
        corner: Points | None = None
        for piece in stroke.split("|"):
            knots = [point(text) for text in piece.split()]
            if corner is not None:
                knots.insert(0, corner)
            corner = knots[-1]
            if len(knots) > 1:
                pieces.append(_spline(np.array(knots)))
        strokes.append(np.concatenate(pieces))
    return strokes


def _spline(knots: Points) -> Points:
    """Return a Catmull-Rom spline through (n, 2) knots."""
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = np.linspace(0, 1, SAMPLES, endpoint=False)[:, None, None]
    p0, p1, p2, p3 = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return np.concatenate([curve.transpose(1, 0, 2).reshape(-1, 2), knots[-1:]])
