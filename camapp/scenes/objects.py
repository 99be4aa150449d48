"""Renders a moving test chart: colour bars, a grey wedge and drifting shapes, usable with any classifier."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels
from camapp.core.frames import Truth
from camapp.core.predictions import Box
from camapp.scenes.scene import Scene, SceneOptions

COLOURS = {
    "red": (220, 50, 47),
    "green": (60, 160, 70),
    "blue": (48, 98, 204),
    "yellow": (240, 196, 40),
    "orange": (236, 124, 36),
    "violet": (124, 70, 170),
}
CORNERS = {"circle": 64, "triangle": 3, "square": 4, "pentagon": 5, "star": 10}
BARS = ((235, 235, 235), (235, 235, 16), (16, 235, 235), (16, 235, 16), (235, 16, 235), (235, 16, 16), (16, 16, 235))
BACKGROUND = (204, 206, 210)


class ObjectScene(Scene):
    """Shows coloured shapes that drift and turn over a chart with a frame counter; the label is the largest shape."""

    counts = (1, 8)

    def __init__(self, options: SceneOptions) -> None:
        super().__init__(options)
        rng = np.random.default_rng([options.seed, 0])
        count = options.count or 3
        self._chart = _chart(*options.size)
        kinds = [list(CORNERS)[i % len(CORNERS)] for i in rng.permutation(max(count, len(CORNERS)))[:count]]
        names = [list(COLOURS)[i % len(COLOURS)] for i in rng.permutation(max(count, len(COLOURS)))[:count]]
        self._kinds = kinds
        self._names = names
        self._radii = min(options.size) * rng.uniform(0.09, 0.2, count)
        self._rates = rng.uniform(0.03, 0.11, (count, 2))
        self._phases = rng.uniform(0, 1, (count, 2))
        self._spins = rng.uniform(-1.2, 1.2, count)

    def render(self, index: int) -> tuple[Pixels, Truth]:
        """Return the image of an index (RGB uint8, newly allocated) and its shapes; later shapes are on top."""
        width, height = self.options.size
        time = index / self.options.fps
        image = self._chart.copy()
        _sweep(image, time)
        boxes = []
        for i, (kind, name) in enumerate(zip(self._kinds, self._names, strict=True)):
            radius = float(self._radii[i])
            # A triangle wave, so that shapes bounce off the borders.
            position = np.abs(2 * ((self._rates[i] * time + self._phases[i]) % 1) - 1)
            room = np.array([width, 0.8 * height]) - 2 * radius
            outline = radius + position * room + radius * _outline(kind, float(self._spins[i]) * time)
            cv2.fillPoly(image, [np.rint(outline * 16).astype(np.int32)], COLOURS[name], cv2.LINE_AA, 4)
            (x0, y0), (x1, y1) = outline.min(axis=0), outline.max(axis=0) + 1
            boxes.append(Box(float(x0), float(y0), min(float(x1), width), float(y1), f"{name} {kind}"))
        scale = height / 720
        cv2.putText(
            image,
            f"frame {index}   {time:.2f} s",
            (round(0.02 * width), round(0.8 * height - 14 * scale)),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (40, 40, 44),
            max(1, round(2 * scale)),
            cv2.LINE_AA,
        )
        largest = boxes[int(np.argmax(self._radii))]
        return image, Truth(label=largest.label, boxes=tuple(boxes))


def _outline(kind: str, turn: float) -> NDArray[np.float64]:
    """Return the corners (n, 2) of a shape in the unit circle."""
    corners = CORNERS[kind]
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    reach = np.where(np.arange(corners) % 2, 0.45, 1.0) if kind == "star" else np.ones(corners)
    circle: NDArray[np.float64] = np.column_stack([np.cos(angles), np.sin(angles)])
    return circle * reach[:, None]


def _chart(width: int, height: int) -> Pixels:
    """Return the static part: a grid above colour bars and a grey wedge."""
    chart: Pixels = np.full((height, width, 3), BACKGROUND, np.uint8)
    step = max(8, height // 12)
    chart[::step] = chart[:, ::step] = (184, 188, 194)
    bars = chart[int(0.8 * height) : int(0.92 * height)]
    bars[...] = np.array(BARS, np.uint8)[np.arange(width) * len(BARS) // width]
    wedge = chart[int(0.92 * height) :]
    wedge[...] = (np.arange(width) * 16 // width * 17).astype(np.uint8)[:, None]
    return chart


def _sweep(image: Pixels, time: float) -> None:
    """Draw a black and a white line that cross once in four seconds and make torn or repeated frames visible."""
    height, width = image.shape[:2]
    thick = max(1, width // 320)
    x = int(time / 4 % 1 * (width - 2 * thick))
    image[int(0.8 * height) :, x : x + thick] = 0
    image[int(0.8 * height) :, x + thick : x + 2 * thick] = 255
