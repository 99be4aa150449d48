"""Defines courses: lanes along a curved centre line, their painted lines, and the pose of a car."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from camapp.core.arrays import Floats

Rgb = tuple[float, float, float]

# Maximum turn of an open course from its start, behind and ahead, in radians.
MAX_TURN = (2.6, 3.3)
# Lane width of a running track, in metres.
DEFAULT_LANE = 1.22


@dataclass(frozen=True)
class Pose:
    """Pose of a car on the ground: metres, and radians clockwise from the y axis."""

    x: float
    y: float
    heading: float


@dataclass(frozen=True)
class Stripe:
    """A stripe of paint or tape along a path on the ground.

    Attributes:
        path: (n, 2) metres.
        width: metres.
        colour: RGB, 0 to 255.
        is_line: True for a lane line; other paint is a mark that a detector must ignore.
        cover: opacity, 0 to 1.
        wear: share that is worn off, in patches, 0 to 1.
        dash: (painted, bare) lengths in metres; None for a solid stripe.
    """

    path: Floats
    width: float
    colour: Rgb
    is_line: bool = True
    cover: float = 1.0
    wear: float = 0.0
    dash: tuple[float, float] | None = None

    def seen_from(self, pose: Pose) -> Stripe:
        """Return the stripe in the ground frame of a car at this pose: x to its right, y ahead."""
        sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
        away = self.path - (pose.x, pose.y)
        path = np.stack([away[:, 0] * cosine - away[:, 1] * sine, away[:, 0] * sine + away[:, 1] * cosine], axis=1)
        return replace(self, path=path)

    @property
    def edges(self) -> tuple[Floats, Floats]:
        """Return the left and the right edge, (n, 2) each."""
        ahead = np.gradient(self.path, axis=0)
        ahead = ahead / np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-9)[:, None]
        right = np.stack([ahead[:, 1], -ahead[:, 0]], axis=1) * (self.width / 2)
        return self.path - right, self.path + right


@dataclass(frozen=True)
class Course:
    """Lanes along a centre line.

    Attributes:
        centre: (n, 2) metres.
        heading: (n,) radians clockwise from the y axis.
        curvature: (n,) 1/m, positive to the right.
        along: (n,) metres from the start.
        borders: offsets of the lane borders to the right of the centre line, metres, ascending.
    """

    centre: Floats
    heading: Floats
    curvature: Floats
    along: Floats
    borders: tuple[float, ...]

    def beside(self, offset: float) -> Floats:
        """Return the path at an offset to the right of the centre line, (n, 2)."""
        right = np.stack([np.cos(self.heading), -np.sin(self.heading)], axis=1)
        path: Floats = self.centre + offset * right
        return path

    def pose(self, along: float, offset: float = 0.0, turned: float = 0.0) -> Pose:
        """Return the pose `along` metres from the start and `offset` to the right, turned right by `turned` radians."""
        x, y, heading = (np.interp(along, self.along, values) for values in (*self.beside(offset).T, self.heading))
        return Pose(float(x), float(y), float(heading) + turned)

    def values(self, pose: Pose) -> dict[str, float]:
        """Return the position in the lane as the track task reports it, with its names and signs; {} off the lanes."""
        away = np.array([pose.x, pose.y]) - self.centre
        i = int(np.argmin((away**2).sum(axis=1)))
        sine, cosine = math.sin(self.heading[i]), math.cos(self.heading[i])
        offset = float(away[i, 0] * cosine - away[i, 1] * sine)
        lane = int(np.searchsorted(self.borders, offset)) - 1
        if not 0 <= lane < len(self.borders) - 1:
            return {}
        left, right = self.borders[lane : lane + 2]
        middle = (left + right) / 2
        ahead = float(away[i, 0] * sine + away[i, 1] * cosine)
        turned = pose.heading - float(self.heading[i]) - ahead * float(self.curvature[i])
        bend = float(self.curvature[i])
        return {
            "offset_m": offset - middle,
            "offset_lanes": (offset - middle) / (right - left),
            "heading_deg": math.degrees(math.remainder(turned, math.tau)),
            "curvature_1_m": bend / (1 - bend * middle),
            "lane_width_m": right - left,
        }


def bending(reach: float, curvatures: Floats, borders: tuple[float, ...], back: float = 0.0) -> Course:
    """Return an open course that starts at the origin along y, with `back` metres behind it and `reach` metres ahead.

    The curvatures, 1/m at evenly spaced points of the reach, are linearly interpolated; `borders` are in metres.
    """
    # Dense near the camera, sparse far from it.
    spread = np.sinh(np.linspace(0, 3.5, 150)) / math.sinh(3.5)
    along = np.concatenate([-back * spread[:0:-2], reach * spread])
    curvature = np.interp(along, np.linspace(0, reach, len(curvatures)), curvatures)
    step = np.diff(along)
    heading = np.concatenate([[0.0], np.cumsum(step * (curvature[1:] + curvature[:-1]) / 2)])
    heading -= np.interp(0.0, along, heading)
    middle = (heading[1:] + heading[:-1]) / 2
    moves = np.stack([np.sin(middle), np.cos(middle)], axis=1) * step[:, None]
    centre = np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    centre -= centre[int(np.searchsorted(along, 0.0))]
    # With a full turn the course would overlap its own lines.
    start = int(np.searchsorted(along, 0.0))
    allowed = np.abs(heading) < np.where(np.arange(len(heading)) < start, *MAX_TURN)
    first = start - int(np.argmin(np.append(allowed[start::-1], False))) + 1
    last = start + int(np.argmin(np.append(allowed[start:], False)))
    kept = slice(first, last)
    return Course(centre[kept], heading[kept], curvature[kept], along[kept], borders)


def circuit(length: float, rng: np.random.Generator, borders: tuple[float, ...], step: float = 0.05) -> Course:
    """Return a closed course with left and right bends; its last point equals its first.

    `length` of the centre line, `borders` and the `step` between points are in metres; `rng` determines the shape.
    """
    angles = np.linspace(0, math.tau, 4001)
    # The third harmonic makes bends to the other side; the second makes straights.
    radius = 1 + rng.uniform(0.1, 0.2) * np.cos(2 * angles + rng.uniform(0, math.tau))
    radius += rng.uniform(0.14, 0.2) * np.cos(3 * angles + rng.uniform(0, math.tau))
    loop = np.stack([radius * np.sin(angles), radius * np.cos(angles)], axis=1)
    if rng.random() < 0.5:
        loop = loop[::-1]
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(loop, axis=0).T))])
    scale = length / along[-1]
    even = np.linspace(0, length, max(64, round(length / step)) + 1)
    centre = np.stack([np.interp(even, along * scale, loop[:, axis] * scale) for axis in (0, 1)], axis=1)
    ring = np.concatenate([centre[-2:-1], centre, centre[1:2]])
    moves = np.diff(ring, axis=0)
    turns = np.unwrap(np.arctan2(moves[:, 0], moves[:, 1]))
    heading = (turns[1:] + turns[:-1]) / 2
    curvature = np.gradient(heading, even)
    curvature[0] = curvature[-1] = (curvature[1] + curvature[-2]) / 2
    return Course(centre, heading, curvature, even, borders)
