"""Renders handwritten digits, such as those of MNIST, on paper as a camera sees them, to evaluate reading.

All ranges are in `RANGES`; every reported figure is printed with them.
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
# Height of an MNIST digit in its image's pixels.
MNIST_DIGIT = 20
# Distance between the centres of neighbouring digits, in digit heights.
SPACING = 1.15
# Minimum margin of a digit to the border of the image, in pixels.
EDGE = 3
# Maximum number of poses tried until all digits are in the image; each is 1 % farther away than the one before.
POSES = 50
RULINGS = ("plain", "ruled", "squared")

Matrix = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class PaperRanges:
    """Ranges of what varies between images of 640x480; each value is drawn from a uniform distribution.

    Attributes:
        digits: number of digits in a row on a sheet.
        height: height of a digit before the tilt, pixels; if a row leaves the image, the camera is moved away.
        tilt: angle of the sheet to the image plane, in any direction, degrees; it makes the perspective.
        turn: rotation of the sheet in its plane, degrees.
        light: ratio of the brightest to the darkest point, along a line in any direction.
        level: grey level of the brightest paper.
        ink: reflectance of ink relative to that of paper.
        pen: level of the enlarged digit (0 to 1) at which a pen's stroke ends; higher is thinner.
        marker: the same level for a marker.
        blur: standard deviation of the lens blur, pixels.
        noise: standard deviation of the sensor noise, grey levels.
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
    digits: Sequence[Pixels],
    label: str,
    rng: np.random.Generator,
    ranges: PaperRanges = RANGES,
    poses: int = POSES,
) -> tuple[Pixels, Truth]:
    """Render a sheet with these digits, each uint8 (28, 28) as in MNIST, in a row, on a desk, under random light.

    Returns the image, uint8 grey (480, 640), and the box of each digit; `label` has one character for each. At most
    `poses` poses are tried.

    Raises:
        ValueError: the digits do not fit on a sheet or in the image.
    """
    width, height = SIZE
    if max(ranges.height) > height / 2:
        raise ValueError(f"digits {max(ranges.height)} pixels high: at most {height // 2} fit on a sheet")
    digit_height = rng.uniform(*ranges.height)
    step = SPACING * digit_height
    digit_height, step = (value * min(1.0, 0.85 * width / (step * len(digits))) for value in (digit_height, step))
    sheet = _sheet(rng)
    middle = np.array([sheet.shape[1] / 2, sheet.shape[0] / 2])
    level = rng.uniform(*(ranges.marker if rng.random() < 0.5 else ranges.pen))
    darkness = 1 - rng.uniform(*ranges.ink)
    hulls = []
    for i, digit in enumerate(digits):
        mask = _ink(digit, digit_height / MNIST_DIGIT * rng.uniform(0.92, 1.08), level)
        stray = rng.uniform(-0.06, 0.06, 2) * digit_height
        x, y = (middle + stray + ((i - (len(digits) - 1) / 2) * step, 0) - np.array(mask.shape[::-1]) / 2).astype(int)
        area = sheet[y : y + mask.shape[0], x : x + mask.shape[1]]
        area *= 1 - darkness * mask
        hulls.append(cv2.convexHull((np.argwhere(mask > 0.4)[:, ::-1] + (x, y)).astype(np.float32)))
    pose, boxes = _visible_pose(hulls, label, middle, rng, ranges, poses)
    image = cv2.warpPerspective(sheet, pose, SIZE, borderMode=cv2.BORDER_CONSTANT, borderValue=-1.0)
    desk = np.float32(rng.uniform(0.15, 0.7))
    image[image < 0] = desk
    image *= _light_map(rng, ranges)
    blur = rng.uniform(*ranges.blur)
    if blur > 0.1:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = cv2.pow(image, rng.uniform(*ranges.gamma))
    noise = rng.standard_normal((height, width), np.float32)
    image = cv2.addWeighted(image, rng.uniform(*ranges.level), noise, rng.uniform(*ranges.noise), 0)
    return cv2.convertScaleAbs(np.maximum(image, 0)), Truth(label=label, boxes=boxes)


def _sheet(rng: np.random.Generator) -> Floats:
    """Return the reflectance of a blank sheet, 0 to 1; it may be larger or smaller than the image."""
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


def _ink(digit: Pixels, scale: float, level: float) -> Floats:
    """Return the ink (0 to 1) of an enlarged digit with edges as sharp as a pen's, cropped to the ink."""
    large = cv2.resize(digit, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    # The edge of a stroke is about 2 pixels wide in MNIST, and 1.5 on paper here.
    mask = np.clip((large.astype(np.float32) / max(1, int(large.max())) - level) * (scale * 1.2) + 0.5, 0, 1)
    x, y, w, h = cv2.boundingRect((mask > 0).astype(np.uint8))
    return np.asarray(mask[y : y + h, x : x + w], np.float32)


def _visible_pose(
    hulls: list[Floats], label: str, middle: Matrix, rng: np.random.Generator, ranges: PaperRanges, poses: int
) -> tuple[Matrix, tuple[Box, ...]]:
    """Return a homography from sheet to image pixels with which all digits are in the image, and their boxes."""
    width, height = SIZE
    focal = 1.1 * width
    distance = 1.0
    for _ in range(poses):
        tilt, turn = np.deg2rad(rng.uniform(*ranges.tilt)), np.deg2rad(rng.uniform(*ranges.turn))
        direction = rng.uniform(0, 2 * np.pi)
        tilt_matrix, _ = cv2.Rodrigues(np.array([np.cos(direction), np.sin(direction), 0.0]) * tilt)
        turn_matrix, _ = cv2.Rodrigues(np.array([0.0, 0.0, turn]))
        rotation = tilt_matrix @ turn_matrix
        shift = rng.uniform(-0.3, 0.3, 2) * SIZE
        world = np.column_stack([rotation[:, 0], rotation[:, 1], [*shift, focal * distance]])
        centred = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
        pose = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]) @ world @ centred
        boxes = tuple(_box(hull, pose, name) for hull, name in zip(hulls, label, strict=True))
        if all(min(box.x0, box.y0) >= EDGE and box.x1 <= width - EDGE and box.y1 <= height - EDGE for box in boxes):
            return pose, boxes
        distance *= 1.01
    raise ValueError(f"{len(hulls)} digits of these ranges do not fit into {width}x{height}")


def _box(hull: Floats, pose: Matrix, label: str) -> Box:
    points = cv2.perspectiveTransform(hull, pose)[:, 0]
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0) + 1
    return Box(float(x0), float(y0), float(x1), float(y1), label)


def _light_map(rng: np.random.Generator, ranges: PaperRanges) -> Floats:
    """Return the light over the image; 1 is the brightest."""
    width, height = SIZE
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-1, 1, width, dtype=np.float32)[None], np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    # Exponents add, so a row times a column gives light with a linear logarithm.
    across, down = np.cos(angle), np.sin(angle)
    steep = np.log(rng.uniform(*ranges.light)) / 2 / (abs(across) + abs(down))
    row, column = np.exp(steep * (x * across - abs(across))), np.exp(steep * (y * down - abs(down)))
    return np.asarray(row * column, np.float32)
