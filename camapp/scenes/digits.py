"""Renders handwritten digits on a sheet of paper that moves and tilts on a desk under changing light."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels
from camapp.core.frames import Truth
from camapp.core.predictions import Box
from camapp.scenes.handwriting import Hand, write_digit
from camapp.scenes.scene import Scene, SceneOptions

SECONDS_PER_SHEET = 2.0
MAX_TILT = np.deg2rad(30)
MAX_YAW = np.deg2rad(9)
# Columns and rows of the light map before it is scaled to the image.
LIGHT_CELLS = (32, 18)
# Margin in pixels by which the noise tile is larger than the image, so that it can be shifted.
NOISE_MARGIN = 64

INKS = ((28, 32, 44), (24, 44, 128), (18, 78, 148), (140, 26, 34), (24, 92, 52), (74, 74, 80))
PAPERS = ((246, 244, 238), (240, 241, 244), (247, 241, 222))
DESKS = ((128, 92, 62), (92, 64, 46), (70, 78, 88), (58, 84, 78))

Matrix = NDArray[np.float64]
Corners = NDArray[np.float32]


@dataclass(frozen=True)
class Sheet:
    """A sheet with handwritten digits.

    Attributes:
        texture: RGB (h, w, 3).
        label: the digits, left to right.
        hulls: convex hull of the ink of each digit, (n, 1, 2) float32, in pixels of the texture. A projection
            keeps hulls convex, so their projected bounds are exactly those of the ink.
    """

    texture: Pixels
    label: str
    hulls: tuple[Corners, ...]


class DigitScene(Scene):
    """Shows one to eight digits on paper, new ones every two seconds; with `ink` False the same scene without its ink.

    The paper's position, tilt (up to 30 degrees) and light (up to 4:1 across the image) are smooth functions of time.
    """

    counts = (1, 8)

    def __init__(self, options: SceneOptions, ink: bool = True) -> None:
        super().__init__(options)
        self._has_ink = ink
        width, height = options.size
        rng = np.random.default_rng([options.seed, 0])
        self._sheet_size = _sheet_size(width, height)
        self._desk = _desk(width, height, rng)
        noise = rng.normal(7, 2.6, (height + NOISE_MARGIN, width + NOISE_MARGIN, 3))
        self._noise: Pixels = np.clip(np.rint(noise), 0, 255).astype(np.uint8)
        # Each moving quantity is the mean of two slow sines.
        self._rates = rng.uniform(0.25, 0.6, (8, 2))
        self._phases = rng.uniform(0, 2 * np.pi, (8, 2))
        self._sheet = lru_cache(maxsize=2)(self._write)
        self._paper = lru_cache(maxsize=None)(self._make_paper)

    def render(self, index: int) -> tuple[Pixels, Truth]:
        """Return the image of an index (RGB uint8, newly allocated) and its digits."""
        width, height = self.options.size
        time = index / self.options.fps
        sheet = self._sheet(int(time / SECONDS_PER_SHEET))
        homography = self.homography(time)
        image = self._desk.copy()
        _draw_sheet(image, sheet.texture, homography)
        light = cv2.resize(self.light_map(time), (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.multiply(image, light, dst=image, scale=1 / 255)
        left, top = np.random.default_rng([self.options.seed, 1, index]).integers(0, NOISE_MARGIN, 2)
        cv2.add(image, self._noise[top : top + height, left : left + width], dst=image)
        boxes = tuple(
            _bounding_box(hull, homography, digit, width, height)
            for hull, digit in zip(sheet.hulls, sheet.label, strict=True)
        )
        return image, Truth(label=sheet.label, boxes=boxes)

    def _sway(self, which: int, time: float) -> float:
        """Return a smooth function of time, from -1 to 1."""
        return float(np.sin(2 * np.pi * self._rates[which] * time + self._phases[which]).mean())

    def homography(self, time: float) -> Matrix:
        """Return the homography from pixels of the sheet to pixels of the image, for a pinhole camera."""
        width, height = self.options.size
        sheet_width, sheet_height = self._sheet_size
        focal = 1.2 * max(width, height)
        tilt = MAX_TILT * abs(self._sway(0, time))
        direction = np.pi * self._sway(1, time)
        tilt_matrix, _ = cv2.Rodrigues(np.array([np.cos(direction), np.sin(direction), 0.0]) * tilt)
        yaw_matrix, _ = cv2.Rodrigues(np.array([0.0, 0.0, MAX_YAW * self._sway(2, time)]))
        rotation = tilt_matrix @ yaw_matrix
        zoom = 0.98 + 0.09 * self._sway(3, time)
        x, y = 0.055 * width * self._sway(4, time), 0.05 * height * self._sway(5, time)
        world = np.column_stack([rotation[:, 0], rotation[:, 1], [x, y, focal / zoom]])
        centred = np.array([[1, 0, -sheet_width / 2], [0, 1, -sheet_height / 2], [0, 0, 1]])
        camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return np.asarray(camera @ world @ centred, dtype=np.float64)

    def light_map(self, time: float) -> Pixels:
        """Return the brightness in coarse cells, warmer if brighter: RGB (rows, columns, 3)."""
        columns, rows = LIGHT_CELLS
        x, y = np.linspace(-1, 1, columns)[None], np.linspace(-1, 1, rows)[:, None]
        angle = np.pi * self._sway(6, time)
        across = (x * np.cos(angle) + y * np.sin(angle)) / (abs(np.cos(angle)) + abs(np.sin(angle)))
        ratio = 1 + 3 * abs(self._sway(7, time))
        brightness = 0.98 * np.power(ratio, (across - 1) / 2)
        # A lens darkens the corners.
        brightness *= 1 - 0.08 * (x * x + y * y)
        warmth = np.array([1.0, 0.985, 0.955])
        cells: NDArray[np.float64] = 255 * brightness[..., None] * warmth
        return cells.astype(np.uint8)

    def _write(self, number: int) -> Sheet:
        """Return sheet `number`: paper, ink and a slightly defocused lens."""
        rng = np.random.default_rng([self.options.seed, 2, number])
        texture = self._paper(int(rng.integers(len(PAPERS))), int(rng.integers(3))).copy()
        # Short numbers are more frequent: new users look at them first.
        count = self.options.count or int(rng.choice([1, 2, 3, 4, 5], p=[0.2, 0.25, 0.3, 0.15, 0.1]))
        label = "".join(str(digit) for digit in rng.integers(0, 10, count))
        height, width = texture.shape[:2]
        hand = Hand.random(rng)
        ink = np.array(INKS[rng.integers(len(INKS))])
        darkness = rng.uniform(0.8, 1.0)
        cell_width = 0.86 * width / count
        digit_height = min(0.46 * height, 1.18 * cell_width) * rng.uniform(0.82, 1.0)
        baseline = height * rng.uniform(0.46, 0.54)
        advance = min(cell_width, 1.15 * digit_height)
        start = width / 2 - advance * count / 2 + rng.uniform(-0.3, 0.3) * (0.86 * width - advance * count)
        hulls = []
        for i, digit in enumerate(label):
            mask = write_digit(digit, digit_height * rng.uniform(0.9, 1.08), hand, rng)
            mask = _shrink_to_fit(mask, int(0.88 * advance), int(0.8 * height))
            x = int(start + advance * (i + 0.5 + rng.uniform(-0.04, 0.04)) - mask.shape[1] / 2)
            y = int(baseline + digit_height * rng.uniform(-0.06, 0.06) - mask.shape[0] / 2)
            area = texture[y : y + mask.shape[0], x : x + mask.shape[1]]
            alpha = (mask[..., None] * (darkness / 255)).astype(np.float32)
            if self._has_ink:
                area[...] = area * (1 - alpha) + ink * alpha
            inked = (np.argwhere(mask > 100)[:, ::-1] + (x, y)).astype(np.float32)
            hulls.append(np.asarray(cv2.convexHull(inked), dtype=np.float32))
        blur = height / 720 * rng.uniform(0.3, 1.6)
        cv2.GaussianBlur(texture, (0, 0), max(blur, 0.3), dst=texture)
        return Sheet(texture, label, tuple(hulls))

    def _make_paper(self, colour: int, ruling: int) -> Pixels:
        """Return a blank (0), ruled (1) or squared (2) sheet."""
        width, height = self._sheet_size
        rng = np.random.default_rng([self.options.seed, 3, colour, ruling])
        fibres = cv2.resize(rng.normal(0, 1.6, (height // 2 + 1, width // 2 + 1)).astype(np.float32), (width, height))
        sheet: Pixels = np.clip(np.array(PAPERS[colour], np.float32) + fibres[..., None], 0, 255).astype(np.uint8)
        thick = max(1, round(height / 400))
        step = height / (11 if ruling == 1 else 20)
        if ruling:
            for y in np.arange(step, height, step):
                cv2.line(sheet, (0, int(y)), (width, int(y)), (196, 210, 228), thick)
        if ruling == 2:
            for x in np.arange(step, width, step):
                cv2.line(sheet, (int(x), 0), (int(x), height), (196, 210, 228), thick)
        return sheet


def _sheet_size(width: int, height: int) -> tuple[int, int]:
    """Return the size of the sheet in pixels, about that of its area in the image."""
    sheet_width = min(0.74 * width, 1.15 * height)
    return int(sheet_width), int(min(0.72 * sheet_width, 0.8 * height))


def _desk(width: int, height: int, rng: np.random.Generator) -> Pixels:
    """Return a table top with streaks along the grain, RGB."""
    grain: NDArray[np.float32] = np.zeros((height, width), np.float32)
    for across, along, strength in ((12, 3, 7.0), (60, 5, 5.0), (240, 9, 4.0)):
        streaks = rng.normal(0, strength, (across, along)).astype(np.float32)
        grain += cv2.resize(streaks, (width, height), interpolation=cv2.INTER_CUBIC)
    colour = np.array(DESKS[rng.integers(len(DESKS))], np.float32)
    return np.clip(colour * (1 + grain[..., None] / 100), 0, 255).astype(np.uint8)


def _shrink_to_fit(mask: Pixels, width: int, height: int) -> Pixels:
    """Scale the mask down if it exceeds its cell."""
    scale = min(width / mask.shape[1], height / mask.shape[0])
    if scale >= 1:
        return mask
    size = max(1, int(mask.shape[1] * scale)), max(1, int(mask.shape[0] * scale))
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw_sheet(image: Pixels, texture: Pixels, homography: Matrix) -> None:
    """Project the sheet with its shadow and smooth edges onto the image; only the region of the sheet is processed."""
    height, width = texture.shape[:2]
    rim: Corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float32)
    corners = np.asarray(cv2.perspectiveTransform(rim, homography), dtype=np.float32)
    drop = image.shape[0] / 60
    x0, y0 = np.maximum(np.floor(corners[0].min(axis=0) - 2), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners[0].max(axis=0) + 3 * drop), image.shape[1::-1]).astype(int)
    window = image[y0:y1, x0:x1]
    inside: Corners = corners - np.array([x0, y0], np.float32)
    _draw_shadow(window, inside + np.array([drop * 0.6, drop], np.float32), drop)
    to_window = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]]) @ homography
    cv2.warpPerspective(
        texture, to_window, (x1 - x0, y1 - y0), dst=window, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
    )
    edge = [float(value) * 0.93 for value in texture[1, 1]]
    # warpPerspective does not antialias the edge; a smooth line hides that.
    cv2.polylines(window, [np.rint(inside[0] * 16).astype(np.int32)], True, edge, 1, cv2.LINE_AA, 4)


def _draw_shadow(window: Pixels, corners: Corners, blur: float) -> None:
    """Draw the soft shadow of the sheet, at an eighth of the size since it has no detail."""
    size = max(1, window.shape[1] // 8), max(1, window.shape[0] // 8)
    scale = np.array([size[0] / window.shape[1], size[1] / window.shape[0]])
    shadow: Pixels = np.full(size[::-1], 255, np.uint8)
    cv2.fillPoly(shadow, [np.rint(corners[0] * scale).astype(np.int32)], (130,))
    cv2.GaussianBlur(shadow, (0, 0), max(blur / 10, 0.5), dst=shadow)
    spread = cv2.resize(shadow, window.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    cv2.multiply(window, cv2.cvtColor(spread, cv2.COLOR_GRAY2RGB), dst=window, scale=1 / 255)


def _bounding_box(hull: Corners, homography: Matrix, label: str, width: int, height: int) -> Box:
    """Return the bounding box of the projected ink, end-exclusive, clipped to the image."""
    points = np.asarray(cv2.perspectiveTransform(hull, homography))[:, 0]
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0) + 1
    return Box(max(0.0, float(x0)), max(0.0, float(y0)), min(float(x1), width), min(float(y1), height), label)
