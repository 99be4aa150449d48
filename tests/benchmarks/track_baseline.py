"""Detects white lines with classical methods, for comparison: ridge filter, inverse perspective, RANSAC parabolas."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.ground_camera import GroundCamera
from camapp.core.image import Pixels

Line = NDArray[np.float64]

# Width in pixels to which images are scaled.
WIDTH = 320
# Columns and rows of the view from above.
BIRD = (240, 320)
# The camera's pose is unknown: these values suit landscape images of small cars, and portrait images of telephones.
# Pitch and field of view in degrees, then the range of the view from above to each side and ahead, in camera heights.
LANDSCAPE, PORTRAIT = (20.0, 75.0, 8.0, 10.0), (31.0, 70.0, 4.0, 12.0)
# In camera heights.
NEAREST = 0.3
MAX_LINES = 6
TRIES = 120
# In pixels of the view from above.
TOLERANCE = 3.0
# Minimum number of points of a line.
MIN_POINTS = 55


def baseline_lines(pixels: Pixels) -> list[Line]:
    """Return the white lines of an RGB image, (n, 2) pixels each, from near to far."""
    height, width = pixels.shape[:2]
    size = (WIDTH, round(WIDTH * height / width))
    pitch, across, aside, ahead = LANDSCAPE if width > height else PORTRAIT
    camera = GroundCamera.of(size, 1.0, math.radians(pitch), math.radians(across))
    view = bird_view(ridges(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)), camera, aside, ahead)
    points = np.argwhere(view > 90)[:, ::-1].astype(np.float64)
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(MAX_LINES):
        if len(points) < MIN_POINTS:
            break
        inside, along = _ransac(points, rng)
        if inside.sum() < MIN_POINTS:
            break
        lines.append(_in_image(points[inside], along, camera, aside, ahead) * (width / size[0], height / size[1]))
        points = points[~inside]
    return [line for line in lines if len(line) > 1]


def ridges(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the response to bright, colourless bars on a darker ground, 0 to 255."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    grey = cv2.GaussianBlur(hsv[..., 2], (0, 0), 1.0)
    answer = np.zeros(grey.shape, np.uint8)
    for side in (9, 17, 31):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        answer = np.maximum(answer, cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, kernel))
    strong = np.clip(answer.astype(np.float32) * 255 / max(float(np.percentile(answer, 99.5)), 40.0), 0, 255)
    strong[hsv[..., 1] > 90] = 0
    return strong.astype(np.uint8)


def bird_view(image: NDArray[np.uint8], camera: GroundCamera, aside: float, ahead: float) -> NDArray[np.uint8]:
    """Return the ground from above, `aside` to both sides and `ahead`, with the car at the lower edge."""
    columns, rows = BIRD
    x, y = np.meshgrid(np.linspace(-aside, aside, columns), np.linspace(ahead, NEAREST, rows))
    pixels, seen = camera.project(np.stack([x, y], axis=-1))
    pixels = np.where(seen[..., None], pixels, -1).astype(np.float32)
    return np.asarray(cv2.remap(image, pixels[..., 0], pixels[..., 1], cv2.INTER_LINEAR), np.uint8)


def _ransac(points: Line, rng: np.random.Generator) -> tuple[NDArray[np.bool_], int]:
    """Return the points near the best parabola and its axis: y (1) or x (0)."""
    best, best_along = np.zeros(len(points), bool), 1
    for turn in range(TRIES):
        along = 1 if turn % 3 else 0
        chosen = points[rng.choice(len(points), 3, replace=False)]
        if np.ptp(chosen[:, along]) < 20 or len(set(chosen[:, along])) < 3:
            continue
        curve = np.polyfit(chosen[:, along], chosen[:, 1 - along], 2)
        if abs(curve[0]) > 0.006:
            continue
        inside = np.abs(np.polyval(curve, points[:, along]) - points[:, 1 - along]) < TOLERANCE
        if inside.sum() > best.sum():
            best, best_along = inside, along
    return best, best_along


def _in_image(points: Line, along: int, camera: GroundCamera, aside: float, ahead: float) -> Line:
    curve = np.polyfit(points[:, along], points[:, 1 - along], 2)
    low, high = np.percentile(points[:, along], (2, 98))
    at = np.linspace(low, high, 40)
    other = np.polyval(curve, at)
    columns, rows = (other, at) if along else (at, other)
    x = (columns / (BIRD[0] - 1) * 2 - 1) * aside
    y = ahead + (NEAREST - ahead) * rows / (BIRD[1] - 1)
    ground = np.stack([x, y], axis=1)
    pixels, seen = camera.project(ground)
    shown = seen & (pixels >= 0).all(axis=1) & (pixels < camera.size).all(axis=1)
    line = pixels[shown]
    return line if len(line) < 2 or line[0, 1] >= line[-1, 1] else line[::-1]
