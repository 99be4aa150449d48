"""Makes what looks like a lane line and is none, and what hides one: coloured tape, mirrored lamps and so on."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.ground_camera import GroundCamera
from camapp.scenes.course import Course, Rgb, Stripe
from camapp.scenes.photograph import Band, Joints, Thing

Rng = np.random.Generator

# Tape and paint that is not white: yellow twice, since it is the most common.
COLOURS = ((226, 200, 60), (235, 190, 40), (240, 130, 30), (200, 45, 40), (40, 140, 70), (40, 80, 180), (30, 140, 190),
           (150, 110, 70), (190, 60, 130))  # fmt: skip
# Grey levels of silver tape and grey stripes as shares of the ground's: brighter ones look like worn white.
GREY = (0.3, 1.12)
# Black tape.
BLACK = (12, 45)
# Height of the ceilings whose lamps a floor mirrors, metres.
CEILING = (2.3, 4.5)


def coloured(rng: Rng, ground: float = 100.0) -> Rgb:
    """Return a random colour of tape that is not white, on a ground of this level."""
    kind = rng.random()
    if kind < 0.2:
        grey = min(ground * rng.uniform(*GREY), 150.0) * rng.uniform(0.95, 1.05, 3)
        return _rgb(grey)
    if kind < 0.3:
        return _rgb(rng.uniform(*BLACK) * np.ones(3))
    return _rgb(np.array(COLOURS[rng.integers(len(COLOURS))]) * rng.uniform(0.55, 1.15) * rng.uniform(0.85, 1.15, 3))


def tapes(course: Course, ground: float, rng: Rng, instead: bool) -> list[Stripe]:
    """Return stripes of a colour laid like lane lines: on the borders `instead` of lines, else between or outside.

    `ground` is the level of the ground.
    """
    lane = course.borders[1] - course.borders[0]
    colour, width = coloured(rng, ground), lane * rng.uniform(0.02, 0.15)
    long = lane * rng.uniform(0.2, 1.5)
    dash = (long, long * rng.uniform(0.4, 2.0)) if rng.random() < 0.45 else None
    wear = rng.uniform(0, 0.5) if rng.random() < 0.3 else 0.0
    middle = (course.borders[0] + course.borders[1]) / 2
    beside = lane * rng.uniform(0.12, 0.8)
    if instead:
        places: tuple[float, ...] = (*course.borders, middle) if rng.random() < 0.25 else course.borders
    else:
        outside = (course.borders[0] - beside, course.borders[-1] + beside)
        places = (middle,) if rng.random() < 0.65 else outside[: rng.integers(1, 3)]
    return [Stripe(course.beside(at), width, colour, False, 0.97, wear, dash) for at in places]


def coverings(course: Course, high: float, rng: Rng, instead: bool) -> list[Stripe]:
    """Return a mat, a tarpaulin or a path along the course, whose edges are no lines.

    It may be white only `instead` of lines, and only if it is broad for a camera at this height.
    """
    lane = course.borders[1] - course.borders[0]
    half = course.borders[-1] + lane * (rng.uniform(0.2, 1.2) if rng.random() < 0.6 else rng.uniform(-0.3, 0.05))
    if half * float(np.abs(course.curvature).max()) > 0.95:
        return []
    tone = rng.uniform(25, 245 if instead and half > 1.5 * high else 150) * np.ones(3)
    if rng.random() < 0.5:
        tone = tone * rng.uniform(0.5, 1.0, 3)
    middle = rng.normal(0, 0.1) * lane
    return [Stripe(course.beside(middle), 2 * half, _rgb(tone), False, rng.uniform(0.7, 1.0))]


def scenery(kind: str, camera: GroundCamera, rng: Rng, empty: bool) -> dict[str, Any]:
    """Return the attributes of a `Look` for one view: what stands on the ground, is mirrored in it, or is the car."""
    indoors = kind == "floor"
    parts: dict[str, Any] = {}
    if rng.random() < (0.4 if indoors else 0.3):
        parts["things"] = [_thing(indoors, camera, rng) for _ in range(rng.integers(1, 5))]
    if indoors and rng.random() < (0.6 if empty else 0.3):
        parts |= {"lamps": _lamps(rng), "ceiling": rng.uniform(*CEILING), "gloss": rng.uniform(0.0, 0.5)}
        parts["polish"] = 0.002 + float(rng.exponential(0.005))
    if indoors and rng.random() < 0.3:
        parts["joints"] = _joints(camera, rng)
    if not indoors and rng.random() < 0.3:
        parts["dapple"] = (rng.uniform(0.2, 0.75), float(np.exp(rng.uniform(math.log(0.01), math.log(0.12)))))
    if rng.random() < 0.25:
        parts["body"] = _body(rng)
    return parts


def papers(camera: GroundCamera, rng: Rng) -> list[tuple[Floats, Rgb, float]]:
    """Return sheets of paper and other small flat things on the ground, as patches of a `Look`."""
    patches: list[tuple[Floats, Rgb, float]] = []
    for _ in range(rng.integers(1, 5)):
        long = camera.height * rng.uniform(0.2, 1.6)
        wide = long * rng.uniform(0.4, 1.0)
        corners = np.array([[0, 0], [wide, 0], [wide, long], [0, long]]) @ _turned(rng.uniform(0, math.pi))
        middle = camera.height * np.array([rng.normal(0, 3), rng.uniform(1, 9)])
        tone = rng.uniform(180, 250) if rng.random() < 0.6 else rng.uniform(30, 180)
        patches.append((corners + middle, _rgb(tone * rng.uniform(0.85, 1.0, 3)), float(rng.uniform(0.8, 1.0))))
    return patches


def _thing(indoors: bool, camera: GroundCamera, rng: Rng) -> Thing:
    """Return a wall, a box, a barrel, a cone or a post."""
    kind = rng.random()
    ahead = float(np.exp(rng.uniform(math.log(2), math.log(25)))) * camera.height
    at = np.array([rng.normal(0, 0.6) * ahead, ahead])
    if indoors and kind < 0.3:
        return _wall(camera, rng)
    if not indoors and kind < 0.5:
        colour, other = (
            ((235.0, 90.0, 45.0), (240.0, 240.0, 240.0)) if rng.random() < 0.7 else (coloured(rng), coloured(rng))
        )
        bands = [Band(i / 5, (i + 1) / 5, (colour, other)[i % 2]) for i in range(5)]
        return Thing(at + _ring(rng.uniform(0.22, 0.32)), rng.uniform(0.8, 1.1), tuple(bands), rng.uniform(0.75, 1.0))
    if kind < 0.65:
        # A cone, with or without a white collar.
        high = rng.uniform(0.08, 0.3) if indoors else rng.uniform(0.3, 0.75)
        bands = [Band(0, 1, coloured(rng))]
        if rng.random() < 0.5:
            bands.append(Band(0.45, 0.7, (238.0, 238.0, 238.0)))
        return Thing(at + _ring(high * 0.28), high, tuple(bands), 0.12)
    # A box, a cabinet, a post or a leg.
    wide = camera.height * float(np.exp(rng.uniform(math.log(0.1), math.log(3))))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (wide / 2, wide * rng.uniform(0.2, 0.6))
    tone = rng.choice([rng.uniform(10, 80), rng.uniform(80, 200), rng.uniform(200, 250)]) * rng.uniform(0.8, 1.05, 3)
    bands = [Band(0, 1, _rgb(tone))]
    if rng.random() < 0.5:
        bands.append(Band(0, rng.uniform(0.03, 0.2), _rgb(tone * rng.uniform(0.1, 0.8))))
    for _ in range(rng.integers(0, 3)):
        low = rng.uniform(0.2, 0.9)
        bands.append(Band(low, low + rng.uniform(0.01, 0.1), _rgb(tone * rng.uniform(0.5, 1.3))))
    high = camera.height * float(np.exp(rng.uniform(math.log(0.3), math.log(6))))
    return Thing(at + corners @ _turned(rng.uniform(0, math.pi)), high, tuple(bands))


def _wall(camera: GroundCamera, rng: Rng) -> Thing:
    """Return a wall with a skirting board."""
    side = 1 if rng.random() < 0.5 else -1
    away = side * camera.height * rng.uniform(2.5, 9)
    ahead = np.array([0.0, 40 * camera.height]) @ _turned(rng.normal(0, 0.5))
    start = np.array([away, rng.uniform(0.3, 12) * camera.height])
    base = np.linspace(start, start + ahead, 24)
    tone = rng.uniform(60, 240) * rng.uniform(0.85, 1.0, 3)
    board = rng.choice([rng.uniform(0.1, 0.7), rng.uniform(1.0, 1.5)])
    bands = [Band(0, 1, _rgb(tone)), Band(0, rng.uniform(0.02, 0.06), _rgb(np.clip(tone * board, 0, 250)))]
    return Thing(base, 2.6, tuple(bands[: rng.integers(1, 3)]))


def _lamps(rng: Rng) -> list[tuple[Floats, float]]:
    """Return rows of lamps and windows of a ceiling as (outline, strength)."""
    long, wide = rng.uniform(0.3, 1.6), rng.uniform(0.08, 0.6)
    step, rows, beside = long + rng.uniform(0.6, 3.0), int(rng.integers(1, 4)), rng.uniform(1.2, 3.5)
    turn, strength = _turned(rng.normal(0, 0.25) + (math.pi / 2 if rng.random() < 0.3 else 0.0)), rng.uniform(40, 330)
    shift = rng.uniform((-2, 0), (2, step))
    lamps = []
    for row in range(rows):
        for place in range(int(rng.integers(1, 6))):
            corner = np.array([(row - (rows - 1) / 2) * beside, place * step + 0.6]) + shift
            outline = (corner + np.array([[0, 0], [wide, 0], [wide, long], [0, long]])) @ turn
            lamps.append((outline, strength))
    return lamps


def _joints(camera: GroundCamera, rng: Rng) -> Joints:
    """Return the joints of tiles, or of boards, which have no joints across."""
    width = camera.height * rng.uniform(0.008, 0.05)
    spacing = camera.height * float(np.exp(rng.uniform(math.log(0.5), math.log(6))))
    tone = rng.uniform(10, 70) if rng.random() < 0.75 else rng.uniform(90, 170)
    heading = rng.normal(0, 0.15) if rng.random() < 0.5 else rng.uniform(0, math.pi)
    return Joints(
        spacing, width, heading, _rgb(tone * rng.uniform(0.9, 1.0, 3)), rng.uniform(0.2, 0.9), rng.random() < 0.35
    )


def _body(rng: Rng) -> list[tuple[Floats, Rgb]]:
    """Return parts of the car in view, as outlines in fractions of the image: a frame, wheels, a bonnet, cables."""
    tone = rng.uniform(5, 60) * np.ones(3) if rng.random() < 0.4 else np.array(coloured(rng))
    colour = _rgb(tone if rng.random() < 0.8 else rng.uniform(180, 250) * np.ones(3))
    parts: list[tuple[Floats, Rgb]] = []
    kind = rng.random()
    if kind < 0.4:
        top, thick = rng.uniform(0.62, 0.95), rng.uniform(0.008, 0.035)
        (left, right), lean = np.sort(rng.uniform((0.15, 0.55), (0.45, 0.85))), rng.uniform(-0.02, 0.12)
        corners = np.array([[left - lean, 1.05], [left, top], [right, top], [right + lean, 1.05]])
        parts += [(_bar(start, stop, thick), colour) for start, stop in pairwise(corners)]
        if rng.random() < 0.5:
            inside = np.array([[left + 0.02, 1.1], [left + 0.03, top + 0.08], [right - 0.03, top + 0.08], [right, 1.1]])
            parts.append((inside, _rgb(rng.uniform(8, 110) * np.ones(3))))
    elif kind < 0.65:
        # Wheels at the lower corners.
        for side in (0, 1) if rng.random() < 0.7 else (int(rng.integers(2)),):
            middle = np.array([abs(side - rng.uniform(-0.03, 0.14)), rng.uniform(0.85, 1.0)])
            parts.append((middle + _ring(1.0) * (rng.uniform(0.05, 0.14), rng.uniform(0.1, 0.22)), (18.0, 18.0, 19.0)))
    elif kind < 0.85:
        top, left = rng.uniform(0.72, 0.97), rng.uniform(-0.05, 0.25)
        parts.append((np.array([[left - 0.1, 1.1], [left + 0.05, top], [0.95 - left, top], [1.1 - left, 1.1]]), colour))
    for _ in range(rng.integers(1, 3) if kind > 0.75 else 0):
        start, stop, bow = (rng.uniform((0, 0.9), (1, 1.05)), rng.uniform((0, 0.6), (1, 1.0)), rng.normal(0, 0.15, 2))
        share = np.linspace(0, 1, 9)[:, None]
        path = start + share * (stop - start) + share * (1 - share) * bow * 2
        thick = rng.uniform(0.005, 0.014)
        parts += [(_bar(a, b, thick), colour) for a, b in pairwise(path)]
    return parts


def _bar(start: Floats, stop: Floats, thick: float) -> Floats:
    ahead = (stop - start) / max(float(np.hypot(*(stop - start))), 1e-9)
    aside = np.array([ahead[1], -ahead[0]]) * thick / 2
    return np.array([start - aside, stop - aside, stop + aside, start + aside])


def _ring(radius: float) -> Floats:
    turns = np.linspace(0, math.tau, 12, endpoint=False)
    ring: Floats = radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return ring


def _turned(angle: float) -> Floats:
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _rgb(values: Floats) -> Rgb:
    return float(values[0]), float(values[1]), float(values[2])
