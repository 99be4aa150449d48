"""Renders people that walk to and fro on a square and pass in front of each other; the truth numbers them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels
from camapp.core.frames import Truth
from camapp.core.predictions import Box
from camapp.scenes.scene import Scene, SceneOptions

Colour = tuple[int, int, int]
Vector = NDArray[np.float64]

# Rows, as shares of the image's height: where the ground ends, and the feet of the farthest and nearest person.
HORIZON, FAR, NEAR = 0.2, 0.42, 0.97
# Height of the nearest person as a share of the image's height, and width of a person's box as a share of its height.
TALLEST, SLIM = 0.42, 0.36
# Height of a person in metres, which converts walking speed (metres per second, minimum and maximum) to pixels.
METRES, SPEED = 1.7, (0.8, 1.7)
SKIN = ((236, 200, 176), (204, 152, 118), (150, 100, 72), (96, 66, 50))
CLOTHES = ((34, 40, 58), (150, 40, 46), (58, 96, 140), (70, 92, 66), (196, 178, 140), (112, 110, 116), (214, 214, 208))
DARK: tuple[Colour, ...] = ((30, 32, 40), (44, 56, 86), (66, 58, 54), (82, 84, 90))
HAIR: tuple[Colour, ...] = ((28, 22, 20), (82, 54, 34), (150, 112, 62), (120, 118, 116))


@dataclass(frozen=True)
class Person:
    """Describes a walker: size, way on the ground and look.

    Attributes:
        stature: height as a share of the tallest person's.
        ways: (start, end) across and away from the camera, as shares of the room, 0 to 1.
        rates: walks to and fro per second along these ways.
        phases: where it is on them at the beginning, 0 to 1.
    """

    stature: float
    ways: tuple[tuple[float, float], tuple[float, float]]
    rates: tuple[float, float]
    phases: tuple[float, float]
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour


class CrossingScene(Scene):
    """Shows people in front of a wall; those behind others are hidden in part or whole, but not in the truth.

    Boxes of the truth are those of the whole person, numbered by `track` and ordered from far to near.
    """

    counts = (1, 60)

    def __init__(self, options: SceneOptions) -> None:
        super().__init__(options)
        rng = np.random.default_rng([options.seed, 3])
        self._people = [_person(rng, options) for _ in range(options.count or 8)]
        self._square = _square(*options.size)

    def truth(self, index: int) -> Truth:
        """Return the boxes of an index, without an image."""
        time = index / self.options.fps
        boxes = []
        for number, person in enumerate(self._people, 1):
            x, foot, height = _stance(person, time, self.options.size)
            half = SLIM * height / 2
            boxes.append(Box(x - half, foot - height, x + half, foot, "person", 1.0, number))
        return Truth(str(len(boxes)), tuple(sorted(boxes, key=lambda box: box.y1)))

    def render(self, index: int) -> tuple[Pixels, Truth]:
        """Return the image of an index (RGB uint8, newly allocated) and its people."""
        image = self._square.copy()
        truth = self.truth(index)
        time = index / self.options.fps
        for box in truth.boxes:
            _draw(image, self._people[box.track - 1], box, time)
        return image, truth


def _person(rng: np.random.Generator, options: SceneOptions) -> Person:
    """Return a person whose walking speed is a person's, whatever the size of the image."""
    width, height = options.size
    across, ahead = rng.uniform(0, 0.35), rng.uniform(0, 0.9)
    ways = (across, across + rng.uniform(0.4, 0.65)), (ahead, min(1.0, ahead + rng.uniform(0.05, 0.5)))
    # A person in the middle of the ground: pixels per metre.
    metre = 0.6 * TALLEST * height / METRES
    rate = rng.uniform(*SPEED) * metre / (2 * (ways[0][1] - ways[0][0]) * width)
    looks = [_pick(rng, colours) for colours in (SKIN, HAIR, CLOTHES, DARK)]
    return Person(
        rng.uniform(0.88, 1.0), ways, (rate, rate * rng.uniform(0.2, 0.6)), (rng.uniform(), rng.uniform()), *looks
    )


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _swing(turns: float) -> float:
    """Return the place on a way to and fro, 0 to 1: even speed, and a short slow turn at each end."""
    return 0.5 + 0.5 * math.asin(0.98 * math.sin(2 * math.pi * turns)) / math.asin(0.98)


def _stance(person: Person, time: float, size: tuple[int, int]) -> tuple[float, float, float]:
    """Return (x, row of the feet, height) in pixels; the whole person is in the image."""
    width, height = size
    across, ahead = (
        start + (end - start) * _swing(rate * time + phase)
        for (start, end), rate, phase in zip(person.ways, person.rates, person.phases, strict=True)
    )
    foot = height * (FAR + (NEAR - FAR) * ahead)
    tall = min(person.stature * TALLEST * (foot - HORIZON * height) / (NEAR - HORIZON), width / SLIM)
    half = SLIM * tall / 2
    return half + (width - 2 * half) * across, foot, tall


def _draw(image: Pixels, person: Person, box: Box, time: float) -> None:
    """Draw a walker that fills its box: legs and arms swing once in a second, the far ones darker."""
    tall, x, foot = box.y1 - box.y0, (box.x0 + box.x1) / 2, box.y1
    swing = math.sin(2 * math.pi * 0.9 * (time + person.phases[0]))
    forward = math.copysign(1, math.cos(2 * math.pi * (person.rates[0] * time + person.phases[0])))

    def at(dx: float, up: float) -> Vector:
        return np.array([x + forward * dx * tall, foot - up * tall])

    def limb(points: list[Vector], colour: Colour, thick: float) -> None:
        for one, other in pairwise(points):
            _capsule(image, one, other, thick * tall, colour)

    _ellipse(image, at(0, 0.012), (0.17 * tall, 0.028 * tall), tuple(int(v * 0.55) for v in (150, 142, 132)))
    for side in (-1, 1):
        shade = 0.75 if side < 0 else 1.0
        trousers, shirt = (_shaded(colour, shade) for colour in (person.trousers, person.shirt))
        ankle = at(side * swing * 0.12, 0.055 + 0.03 * max(0.0, side * swing))
        limb([at(side * 0.035, 0.48), at(side * (0.04 + 0.02 * swing), 0.27), ankle], trousers, 0.085)
        limb([ankle, ankle + np.array([forward * 0.045, 0.015]) * tall], (28, 26, 26), 0.05)
        if side < 0:
            limb([at(-0.1, 0.78), at(-0.135 - 0.03 * swing, 0.62), at(-0.12 - 0.1 * swing, 0.49)], shirt, 0.06)
    limb([at(0, 0.76), at(0, 0.5)], person.shirt, 0.2)
    limb([at(-0.07, 0.79), at(0.07, 0.79)], person.shirt, 0.09)
    limb([at(0, 0.87), at(0, 0.82)], person.skin, 0.06)
    arm = [at(0.1, 0.78), at(0.135 + 0.03 * swing, 0.62), at(0.12 + 0.1 * swing, 0.49)]
    limb(arm, _shaded(person.shirt, 0.9), 0.06)
    limb([arm[-1], arm[-1]], person.skin, 0.05)
    _ellipse(image, at(0, 0.93), (0.058 * tall, 0.07 * tall), person.hair)
    _ellipse(image, at(0.006, 0.915), (0.046 * tall, 0.055 * tall), person.skin)


def _shaded(colour: Colour, share: float) -> Colour:
    red, green, blue = (round(share * value) for value in colour)
    return red, green, blue


def _capsule(image: Pixels, one: Vector, other: Vector, thick: float, colour: Colour) -> None:
    """Draw a line with round ends."""
    start, end = np.rint(one * 16).astype(int).tolist(), np.rint(other * 16).astype(int).tolist()
    cv2.line(image, start, end, colour, max(1, round(thick)), cv2.LINE_AA, 4)


def _ellipse(image: Pixels, middle: Vector, radii: tuple[float, float], colour: tuple[int, ...]) -> None:
    x, y = np.rint(middle * 16).astype(int).tolist()
    axes = max(1, round(radii[0] * 16)), max(1, round(radii[1] * 16))
    cv2.ellipse(image, (x, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, 4)


def _square(width: int, height: int) -> Pixels:
    """Return the empty square: a wall with windows, and paving that grows finer towards the wall."""
    rows = np.linspace(0, 1, height)[:, None, None]
    wall = np.array((196, 190, 180)) - 24 * rows / HORIZON
    ground = np.array((126, 120, 112)) + 40 * (rows - HORIZON)
    image: Pixels = np.empty((height, width, 3), np.uint8)
    image[...] = np.where(rows < HORIZON, wall, ground)
    top = round(HORIZON * height)
    step = max(16, width // 8)
    for left in range(step // 4, width, step):
        cv2.rectangle(image, (left, top // 5), (left + step // 2, 3 * top // 4), (92, 104, 118), -1)
    for far in np.geomspace(0.02, 1 - HORIZON, 12):
        cv2.line(image, (0, round((HORIZON + far) * height)), (width, round((HORIZON + far) * height)), (112, 106, 98))
    for share in np.linspace(-3, 4, 29):
        near = round((0.5 + (share - 0.5) * 4) * width)
        cv2.line(image, (round(share * width), top), (near, height), (112, 106, 98), 1, cv2.LINE_AA)
    cv2.rectangle(image, (0, top - max(1, height // 90)), (width, top), (84, 80, 76), -1)
    return image
