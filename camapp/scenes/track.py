"""A track seen from a car that drives laps on it, and single views of any track, with the truth of both."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.ground import GroundCamera
from camapp.picture import Pixels
from camapp.records import Polyline, Truth
from camapp.scenes.course import DEFAULT_LANE, Course, Pose, Stripe, circuit
from camapp.scenes.photograph import bumper_mask, photograph, runs
from camapp.scenes.scene import Scene, SceneOptions
from camapp.scenes.trackside import KINDS, View, paint, random_look, random_view

Floats = NDArray[np.floating]

CLEAR = 0.006  # width of a line, as a fraction of the picture's, from which anyone would see it
FAINT = 0.003  # and under which it is not there
CONTRAST = 5.0  # levels by which a line must be brighter than the ground beside it
SHORTEST = 0.06  # of the picture's height or width: shorter lines are no truth


class TrackScene(Scene):
    """Laps of a closed course. `count` is the number of lanes; `seed` chooses course, surface, camera and weather."""

    counts = (1, 8)

    def __init__(self, options: SceneOptions) -> None:
        super().__init__(options)
        rng = np.random.default_rng([options.seed, 0])
        lanes = options.count or int(rng.choice([1, 2, 4]))
        half = lanes * DEFAULT_LANE / 2
        borders = tuple(float(edge) for edge in np.linspace(-half, half, lanes + 1))
        kind = KINDS[int(rng.integers(len(KINDS)))]
        self.course: Course = circuit(rng.uniform(70, 110) + 12 * half, rng, borders)
        self.stripes = tuple(paint(kind, self.course, rng))
        self.camera = GroundCamera.of(
            options.size, rng.uniform(0.25, 0.7), math.radians(rng.uniform(14, 22)), math.radians(rng.uniform(65, 85))
        )
        look = random_look(kind, self.camera, rng, stray=0.0)
        # What lies on the ground or dazzles would travel along with the car.
        self.look = replace(look, patches=(), glare=(), haze=min(look.haze, 0.2), reach=40.0, seed=options.seed)
        self._speed = rng.uniform(1.5, 3.0)
        self._lane = int(rng.integers(lanes))
        self._phase = rng.uniform(0, math.tau, 3)

    def render(self, index: int) -> tuple[Pixels, Truth]:
        """The picture of that index, its lines and where the car is: RGB uint8, new memory."""
        return self.seen_from(self.pose(index / self.options.fps), index)

    def pose(self, seconds: float) -> Pose:
        """Where the car is: it keeps to its lane as a child would, not as a rail."""
        sway = [math.sin(seconds * rate + phase) for rate, phase in zip((0.9, 0.37, 1.3), self._phase, strict=True)]
        left, right = self.course.borders[self._lane : self._lane + 2]
        offset = (left + right) / 2 + 0.12 * (right - left) * (sway[0] + sway[1])
        along = math.fmod(seconds * self._speed, float(self.course.along[-1]))
        return self.course.pose(along, offset, math.radians(3.0) * (sway[2] + sway[0]))

    def seen_from(self, pose: Pose, moment: int = 0) -> tuple[Pixels, Truth]:
        """The picture and the truth from any pose."""
        stripes = tuple(stripe.seen_from(pose) for stripe in self.stripes)
        view = View(self.camera, stripes, self.look, self.course.values(pose))
        picture = photograph(stripes, self.look, self.camera, moment)
        return picture, truth_of(view, picture)


def random_picture(
    seed: int, size: tuple[int, int], kind: str | None = None, shape: tuple[int, int] | None = None
) -> tuple[Pixels, Truth, View]:
    """One picture of any track: RGB uint8, its truth, and what it was taken of. The same seed, the same picture.

    Args:
        seed: everything follows from it.
        size: (width, height) of the picture.
        kind: one of `trackside.KINDS`; None chooses.
        shape: (width, height) of the camera's picture, which is stretched to `size`; None is `size` itself.
    """
    rng = np.random.default_rng([seed, 5])
    view = random_view(rng, size, kind) if shape is None else _stretched(random_view(rng, shape, kind), size)
    picture = photograph(view.stripes, view.look, view.camera)
    return picture, truth_of(view, picture), view


def _stretched(view: View, size: tuple[int, int]) -> View:
    return replace(view, camera=view.camera.resized(size))


def truth_of(view: View, picture: Pixels) -> Truth:
    """Lines in the picture's pixels from near to far.

    Label 'line', or 'faint' where one is too thin or too much like the ground for anyone to be sure.
    """
    grey = np.asarray(cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 0.6), np.float32)
    lines = [line for stripe in view.stripes if stripe.is_line for line in _visible(stripe, view, grey)]
    return Truth(lines=tuple(lines), values=view.values)


def _visible(stripe: Stripe, view: View, grey: Floats) -> list[Polyline]:
    camera, look = view.camera, view.look
    width, height = camera.size
    pixels, seen = camera.project(stripe.path)
    (left, _), (right, _) = (camera.project(edge) for edge in stripe.edges)
    # Ends between two samples belong to the line: clip to the picture on a finer path.
    fine = np.linspace(0, len(pixels) - 1, 8 * len(pixels))
    index = np.arange(len(pixels))
    points = np.stack([np.interp(fine, index, pixels[:, axis]) for axis in (0, 1)], axis=1)
    # Both edges of a line are as far apart as it is wide; fractions of the picture, as a picture may be stretched.
    thick = np.interp(fine, index, np.hypot(*((right - left) / (width, height)).T))
    away = np.interp(fine, index, np.hypot(*stripe.path.T))
    shown = np.interp(fine, index, seen.astype(float)) == 1
    shown &= (points > 0).all(axis=1) & (points < (width, height)).all(axis=1) & (away < look.reach)
    if look.bumper:
        mask = bumper_mask(replace(look, bumper=look.bumper[:1]), camera.size)  # rods hide too little to count
        at = np.clip(points, 0, (width - 1, height - 1)).astype(int)
        shown &= mask[at[:, 1], at[:, 0]] == 0
    # What is out of focus must be thicker to be seen.
    shown &= thick > max(FAINT, 0.3 * look.blur)
    lines: list[Polyline] = []
    for start, stop in runs(shown):
        clear = thick[start:stop] > max(CLEAR, 0.8 * look.blur)
        aside = np.stack([np.interp(fine[start:stop], index, (right - left)[:, axis]) for axis in (0, 1)], axis=1)
        clear &= _contrast(points[start:stop], aside, grey) > CONTRAST
        for begin, end in runs(clear):
            _add(lines, points[start + begin : start + end], "line", camera.size)
        for begin, end in runs(~clear):
            _add(lines, points[start + begin : start + end], "faint", camera.size)
    return lines


def _contrast(points: Floats, aside: Floats, grey: Floats) -> Floats:
    """How much brighter a line is than the ground beside it, 0 to 255, averaged along a fair part of it."""
    # The ground begins beyond the edge, and no nearer than a pixel or two.
    aside = aside * np.maximum(1.0, 2.0 / np.maximum(np.hypot(*aside.T), 1e-6))[:, None]
    on, left, right = (_levels(grey, points + way * aside) for way in (0, -1, 1))
    brighter = on - np.minimum(left, right)  # beside a double tape's one lies the other
    # By distance in the picture, not by sample: far ones crowd together.
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    even = np.linspace(0, along[-1], max(2, int(along[-1])))
    window = max(3, int(0.1 * max(grey.shape)))
    padded = np.pad(np.interp(even, along, brighter), window, mode="edge")
    mean = np.convolve(padded, np.ones(window) / window, mode="same")[window:-window]
    level: Floats = np.interp(along, even, mean)
    return level


def _levels(grey: Floats, points: Floats) -> Floats:
    x, y = np.ascontiguousarray(points.T - 0.5, np.float32)
    levels = cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(levels, np.float32).ravel()


def _add(lines: list[Polyline], points: Floats, label: str, size: tuple[int, int]) -> None:
    """Thin out and append; a clear line that is too short becomes a faint one."""
    if len(points) < 2:
        return
    steps = np.hypot(*(np.diff(points, axis=0) / size).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if label == "line" and along[-1] < SHORTEST:
        label = "faint"
    places = np.linspace(0, along[-1], max(2, int(along[-1] / 0.015) + 1))
    path = [np.interp(places, along, points[:, axis]) for axis in (0, 1)]
    if path[1][0] < path[1][-1]:
        path = [axis[::-1] for axis in path]
    lines.append(Polyline(tuple((float(x), float(y)) for x, y in zip(*path, strict=True)), label))
