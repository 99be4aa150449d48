"""Written digits, such as MNIST's, as a camera sees them on paper: the scenes that reading is judged by.

All ranges stand in `RANGES`, and whoever reports a figure prints them with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats, Pixels
from camapp.core.frames import Truth
from camapp.core.predictions import Box

SIZE = (640, 480)
MNIST_DIGIT = 20  # an MNIST digit's own height, in its pixels
SPACING = 1.15  # from one digit's middle to the next one's, in the larger digit boxes
EDGE = 3  # pixels of the image that stay free beside every digit
POSES = 50  # tried until all digits are in the image; the least zoomed is then taken
RULINGS = ("plain", "ruled", "squared")

Matrix = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class PaperRanges:
    """What varies between images of 640x480, each drawn evenly between its two ends.

    Attributes:
        digits: on a sheet, in a row.
        height: of a digit before it is tilted, pixels; a row that leaves the image is looked at from farther away.
        tilt: of the sheet away from the camera, in any direction, degrees; it makes the perspective.
        turn: of the sheet in its plane, degrees.
        light: the brightest place by the darkest, along a line in any direction.
        level: grey level of the brightest paper.
        ink: light that ink gives back, as a share of what the paper does.
        pen: level of the enlarged digit (0 to 1) at which a pen's stroke ends: the higher, the thinner.
        marker: the same of a marker.
        blur: standard deviation of the lens's, pixels.
        noise: standard deviation of the sensor's, grey levels.
        gamma: exponent of the brightness.
    """

    digits: tuple[int, int] = (1, 4)
    height: Range = (60, 160)
    tilt: Range = (0, 30)
    turn: Range = (-30, 30)
    light: Range = (1, 4)
    level: Range = (200, 250)
    ink: Range = (0.1, 0.45)
    pen: Range = (0.45, 0.6)
    marker: Range = (0.15, 0.4)
    blur: Range = (0, 2)
    noise: Range = (0, 10)
    gamma: Range = (0.6, 1.6)

    def __str__(self) -> str:
        spans = (
            f"{item.name} {getattr(self, item.name)[0]:g} to {getattr(self, item.name)[1]:g}" for item in fields(self)
        )
        return f"{SIZE[0]}x{SIZE[1]}; {', '.join(spans)}; paper {', '.join(RULINGS)}; pen or marker"


RANGES = PaperRanges()


def photograph(
    digits: Sequence[Pixels], label: str, rng: np.random.Generator, ranges: PaperRanges = RANGES
) -> tuple[Pixels, Truth]:
    """A sheet with these digits in a row, on a desk, in some light.

    Args:
        digits: each uint8 (28, 28), ink bright on black, as in MNIST.
        label: what they are, a letter each.
        rng: chooses all that varies.
        ranges: how far it varies.

    Returns:
        The image, uint8 grey (480, 640), and each digit's box in it.

    Raises:
        ValueError: the ranges ask for digits that a sheet or the image cannot hold.
    """
    width, height = SIZE
    if max(ranges.height) > height / 2:
        raise ValueError(f"digits {max(ranges.height)} pixels high: at most {height // 2} fit on a sheet")
    tall = rng.uniform(*ranges.height)
    step = SPACING * tall
    tall, step = (value * min(1.0, 0.85 * width / (step * len(digits))) for value in (tall, step))
    sheet = _sheet(rng)
    middle = np.array([sheet.shape[1] / 2, sheet.shape[0] / 2])
    level = rng.uniform(*(ranges.marker if rng.random() < 0.5 else ranges.pen))
    darkness = 1 - rng.uniform(*ranges.ink)
    hulls = []
    for i, digit in enumerate(digits):
        mask = _inked(digit, tall / MNIST_DIGIT * rng.uniform(0.92, 1.08), level)
        stray = rng.uniform(-0.06, 0.06, 2) * tall
        x, y = (middle + stray + ((i - (len(digits) - 1) / 2) * step, 0) - np.array(mask.shape[::-1]) / 2).astype(int)
        place = sheet[y : y + mask.shape[0], x : x + mask.shape[1]]
        place *= 1 - darkness * mask
        hulls.append(cv2.convexHull((np.argwhere(mask > 0.4)[:, ::-1] + (x, y)).astype(np.float32)))
    pose, boxes = _posed(hulls, label, middle, rng, ranges)
    image = cv2.warpPerspective(sheet, pose, SIZE, borderMode=cv2.BORDER_CONSTANT, borderValue=-1.0)
    desk = np.float32(rng.uniform(0.15, 0.7))
    image[image < 0] = desk
    image *= _light(rng, ranges)
    blur = rng.uniform(*ranges.blur)
    if blur > 0.1:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = cv2.pow(image, rng.uniform(*ranges.gamma))
    noise = rng.standard_normal((height, width), np.float32)
    image = cv2.addWeighted(image, rng.uniform(*ranges.level), noise, rng.uniform(*ranges.noise), 0)
    return cv2.convertScaleAbs(np.maximum(image, 0)), Truth(label=label, boxes=boxes)


def _sheet(rng: np.random.Generator) -> Floats:
    """Light that a blank sheet gives back, 0 to 1, larger than the image or smaller."""
    width, height = (round(side * rng.uniform(0.95, 1.5)) for side in SIZE)
    fibres = rng.normal(0, 0.008, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
    sheet = np.asarray(1 - np.abs(cv2.resize(fibres, (width, height))), np.float32)
    ruling = RULINGS[rng.integers(len(RULINGS))]
    if ruling != "plain":
        step, shade, thick = rng.uniform(28, 70), rng.uniform(0.75, 0.93), int(rng.integers(1, 3))
        for y in np.arange(rng.uniform(0, step), height, step):
            sheet[int(y) : int(y) + thick] *= shade
        if ruling == "squared":
            for x in np.arange(rng.uniform(0, step), width, step):
                sheet[:, int(x) : int(x) + thick] *= shade
    return sheet


def _inked(digit: Pixels, scale: float, level: float) -> Floats:
    """Ink from 0 to 1 of a digit enlarged, its edge made as sharp as a pen's, cut close around it."""
    large = cv2.resize(digit, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    # A stroke's edge in MNIST is about two pixels wide; of paper's it is one and a half here.
    mask = np.clip((large.astype(np.float32) / max(1, int(large.max())) - level) * (scale * 1.2) + 0.5, 0, 1)
    x, y, w, h = cv2.boundingRect((mask > 0).astype(np.uint8))
    return np.asarray(mask[y : y + h, x : x + w], np.float32)


def _posed(
    hulls: list[Floats], label: str, middle: Matrix, rng: np.random.Generator, ranges: PaperRanges
) -> tuple[Matrix, tuple[Box, ...]]:
    """A homography from the sheet's pixels to the image's, and the digits' boxes after it, all in the image."""
    width, height = SIZE
    focal = 1.1 * width
    away = 1.0
    for _ in range(POSES):
        tilt, turn = np.deg2rad(rng.uniform(*ranges.tilt)), np.deg2rad(rng.uniform(*ranges.turn))
        towards = rng.uniform(0, 2 * np.pi)
        tilting, _ = cv2.Rodrigues(np.array([np.cos(towards), np.sin(towards), 0.0]) * tilt)
        turning, _ = cv2.Rodrigues(np.array([0.0, 0.0, turn]))
        rotation = tilting @ turning
        shift = rng.uniform(-0.3, 0.3, 2) * SIZE
        world = np.column_stack([rotation[:, 0], rotation[:, 1], [*shift, focal * away]])
        centred = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
        pose = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]) @ world @ centred
        boxes = tuple(_box(hull, pose, name) for hull, name in zip(hulls, label, strict=True))
        if all(min(box.x0, box.y0) >= EDGE and box.x1 <= width - EDGE and box.y1 <= height - EDGE for box in boxes):
            return pose, boxes
        away *= 1.01
    raise ValueError(f"{len(hulls)} digits of these ranges do not fit into {width}x{height}")


def _box(hull: Floats, pose: Matrix, label: str) -> Box:
    points = cv2.perspectiveTransform(hull, pose)[:, 0]
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0) + 1
    return Box(float(x0), float(y0), float(x1), float(y1), label)


def _light(rng: np.random.Generator, ranges: PaperRanges) -> Floats:
    """Light over the image, 1 where it is brightest."""
    width, height = SIZE
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-1, 1, width, dtype=np.float32)[None], np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    # Exponents add, so a row times a column makes light that falls evenly by its logarithm.
    across, down = np.cos(angle), np.sin(angle)
    steep = np.log(rng.uniform(*ranges.light)) / 2 / (abs(across) + abs(down))
    row, column = np.exp(steep * (x * across - abs(across))), np.exp(steep * (y * down - abs(down)))
    return np.asarray(row * column, np.float32)
