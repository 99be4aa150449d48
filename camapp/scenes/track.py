"""A track seen from a car that drives laps on it, and single views of any track, with the truth of both."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats, Pixels
from camapp.core.frames import Truth
from camapp.core.ground_camera import GroundCamera
from camapp.core.predictions import Polyline
from camapp.scenes.course import DEFAULT_LANE, Course, Pose, Stripe, circuit
from camapp.scenes.photograph import Look, bumper_mask, photograph, runs
from camapp.scenes.scene import Scene, SceneOptions
from camapp.scenes.trackside import KINDS, View, marks, paint, random_look, random_view

# What a person would draw, looking at any image stretched to 4:3 as the net does; lengths in its widths.
EVEN = (1.0, 0.75)
CLEAR = 0.0017  # width of a line from which anyone would see it
FAINT = 0.0009  # and under which it is not there
CONTRAST = 4.0  # levels by which a line must be brighter than the ground beside it,
UNREST = 0.22  # and by so much of the standard deviation of that ground
SMEARED = 0.6  # of the gap that the camera's motion would fill, from which two lines look like one
APART = 0.005  # gap between two lines under which they look like one
GAP = 0.15  # bare ground over which a line is drawn on; between dashes it may be any length
SHORTEST = 0.1  # shorter lines are no truth
SEEN_SHARE = 0.5  # of a line must be clear
MARKED = 4  # places of a lap with marks that are no lines
GLANCE = (240, 180)  # pixels of the image in which lines must stand out: what is lost in a thumbnail is no truth


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
        lines = paint(kind, self.course, rng)
        self.camera: GroundCamera = GroundCamera.of(
            options.size, rng.uniform(0.25, 0.7), math.radians(rng.uniform(14, 22)), math.radians(rng.uniform(65, 85))
        )
        look = random_look(kind, self.camera, rng, stray=0.0)
        # What lies on the ground or dazzles would travel along with the car.
        self.look = replace(look, patches=(), glare=(), haze=min(look.haze, 0.2), reach=40.0, seed=options.seed)
        self._speed = rng.uniform(1.5, 3.0)
        self.seconds = float(self.course.along[-1]) / self._speed
        self._lane = int(rng.integers(lanes))
        self._phase = rng.uniform(0, math.tau, 3)
        places = np.linspace(0, self.course.along[-1], MARKED, endpoint=False)
        others = [stripe for place in places for stripe in marks(kind, self.course, rng, start=float(place))]
        self.stripes = (*others, *lines)

    def render(self, index: int) -> tuple[Pixels, Truth]:
        """The image of that index, its lines and where the car is: RGB uint8, new memory."""
        return self.seen_from(self.pose(index / self.options.fps), index)

    def pose(self, seconds: float) -> Pose:
        """Where the car is: it keeps to its lane as a child would, not as a rail."""
        sway = [math.sin(seconds * rate + phase) for rate, phase in zip((0.9, 0.37, 1.3), self._phase, strict=True)]
        left, right = self.course.borders[self._lane : self._lane + 2]
        offset = (left + right) / 2 + 0.12 * (right - left) * (sway[0] + sway[1])
        along = math.fmod(seconds * self._speed, float(self.course.along[-1]))
        return self.course.pose(along, offset, math.radians(3.0) * (sway[2] + sway[0]))

    def seen_from(self, pose: Pose, moment: int = 0) -> tuple[Pixels, Truth]:
        """The image and the truth from any pose."""
        stripes = tuple(stripe.seen_from(pose) for stripe in self.stripes)
        view = View(self.camera, stripes, self.look, self.course.values(pose))
        image = photograph(stripes, self.look, self.camera, moment)
        return image, truth_of(view, image)


def random_image(
    seed: int, size: tuple[int, int], kind: str | None = None, shape: tuple[int, int] | None = None
) -> tuple[Pixels, Truth, View]:
    """One image of any track: RGB uint8, its truth, and what it was taken of. The same seed, the same image.

    Args:
        seed: everything follows from it.
        size: (width, height) of the image.
        kind: one of `trackside.KINDS`; None chooses.
        shape: (width, height) of the camera's image, which is stretched to `size`; None is `size` itself.
    """
    rng = np.random.default_rng([seed, 5])
    view = random_view(rng, size, kind) if shape is None else _stretched(random_view(rng, shape, kind), size)
    image = photograph(view.stripes, view.look, view.camera)
    return image, truth_of(view, image), view


def _stretched(view: View, size: tuple[int, int]) -> View:
    return replace(view, camera=view.camera.resized(size))


def truth_of(view: View, image: Pixels) -> Truth:
    """Lines in the image's pixels from near to far.

    Label 'line', or 'faint' where one is too thin or too much like the ground for anyone to be sure.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape[1] > GLANCE[0] or grey.shape[0] > GLANCE[1]:
        grey = cv2.resize(grey, GLANCE, interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.6), np.float32)
    stretches = [part for stripe in view.stripes if stripe.is_line for part in _stretches(stripe, view, grey)]
    stretches.sort(key=lambda part: -part.clear_length)
    lines: list[Polyline] = []
    told = np.zeros((0, 2))
    for number, part in enumerate(stretches):
        room = _room(part, view.look)
        clear = part.clear & ~_beside(part, told, room)
        middle = part.points
        for other in stretches[number + 1 :]:
            middle = _between(middle, part, other, room)
        for start, stop, label in _spans(clear, part.along, part.dashed):
            lines.append(_polyline(middle[start:stop], label, view.camera.size))
            if label == "line":
                told = np.concatenate([told, part.even[np.linspace(start, stop - 1, 120).astype(int)]])
    return Truth(lines=tuple(lines), values=view.values)


@dataclass(frozen=True)
class _Stretch:
    """An unbroken part of a stripe in the image: (n, 2) pixels, the same in the 4:3 image, and what shows of it."""

    points: Floats
    even: Floats
    along: Floats
    thick: Floats
    clear: NDArray[np.bool_]
    dashed: bool

    @property
    def clear_length(self) -> float:
        return float((np.diff(self.along) * self.clear[1:]).sum())


def _stretches(stripe: Stripe, view: View, grey: Floats) -> list[_Stretch]:
    camera, look = view.camera, view.look
    size = np.array(camera.size)
    pixels, seen = camera.project(stripe.path)
    (left, _), (right, _) = (camera.project(edge) for edge in stripe.edges)
    # Ends between two samples belong to the line: clip to the image on a finer path.
    fine = np.linspace(0, len(pixels) - 1, 8 * len(pixels))
    index = np.arange(len(pixels))

    def finer(values: Floats) -> Floats:
        return np.stack([np.interp(fine, index, values[:, axis]) for axis in (0, 1)], axis=1)

    points, aside = finer(pixels), finer(right - left)
    even, across = points / size * EVEN, aside / size * EVEN
    ahead = np.gradient(even, axis=0)
    # A far line that runs across the view is as thick as its edges are apart, not as long as they are shifted.
    thick = np.abs(across[:, 0] * ahead[:, 1] - across[:, 1] * ahead[:, 0]) / np.maximum(np.hypot(*ahead.T), 1e-9)
    away = np.interp(fine, index, np.hypot(*stripe.path.T))
    shown = np.interp(fine, index, seen.astype(float)) == 1
    shown &= (points > 0).all(axis=1) & (points < size).all(axis=1) & (away < look.reach)
    if look.bumper:
        mask = bumper_mask(replace(look, bumper=look.bumper[:1]), camera.size)  # rods hide too little to count
        at = np.clip(points, 0, size - 1).astype(int)
        shown &= mask[at[:, 1], at[:, 0]] == 0
    # What is out of focus must be thicker to be seen.
    shown &= thick > max(FAINT, 0.3 * look.blur)
    parts = []
    for start, stop in runs(shown):
        if stop - start < 2:
            continue
        part = slice(start, stop)
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(even[part], axis=0).T))])
        clear = thick[part] > max(CLEAR, 0.8 * look.blur)
        scale = np.array(grey.shape[::-1]) / size
        clear &= _stands_out(points[part] * scale, aside[part] * scale, along, grey)
        parts.append(_Stretch(points[part], even[part], along, thick[part], clear, stripe.dash is not None))
    return parts


def _room(part: _Stretch, look: Look) -> Floats:
    """How near another line must run to look like one with this, in the 4:3 image's widths."""
    ahead = np.gradient(part.even, axis=0)
    across = np.abs(look.motion[0] * ahead[:, 1] - look.motion[1] * ahead[:, 0])
    # The camera's motion fills the gap beside a line that it moves across.
    smeared = SMEARED * (across / np.maximum(np.hypot(*ahead.T), 1e-9))
    room: Floats = part.thick + (APART + look.blur) + smeared
    return room


def _beside(part: _Stretch, told: Floats, room: Floats) -> NDArray[np.bool_]:
    """Where a stretch runs so close to lines told of already that both look like one."""
    if not len(told):
        return np.zeros(len(part.even), bool)
    some = _some(part)
    nearest = _apart(part.even[some], told).min(axis=1)
    close: NDArray[np.bool_] = np.interp(np.arange(len(part.even)), some, nearest) < room
    return close


def _apart(points: Floats, others: Floats) -> Floats:
    """Distances (n, m) between two sets of points."""
    x, y = points.T[:, :, None] - others.T[:, None]
    distances: Floats = np.sqrt(x * x + y * y)
    return distances


def _some(part: _Stretch) -> NDArray[np.intp]:
    """Places of up to a hundred of its points, which tell where it runs."""
    return np.unique(np.linspace(0, len(part.even) - 1, 100).astype(np.intp))


def _between(points: Floats, part: _Stretch, other: _Stretch, room: Floats) -> Floats:
    """The points of a line, in the middle of it and another one where both look like one."""
    most = room.max()
    if (part.even.max(axis=0) + most < other.even.min(axis=0)).any():
        return points
    if (other.even.max(axis=0) + most < part.even.min(axis=0)).any():
        return points
    some, others = _some(part), _some(other)
    away = _apart(part.even[some], other.even[others])
    nearest = away.argmin(axis=1)
    share = np.where((away.min(axis=1) < room[some]) & other.clear[others][nearest], 0.5, 0.0)
    if not share.any():
        return points
    shift = (other.points[others][nearest] - part.points[some]) * share[:, None]
    shift = cv2.blur(shift, (1, 7), borderType=cv2.BORDER_REPLICATE)  # two lines that meet do so smoothly
    every = np.arange(len(points))
    middle: Floats = points + np.stack([np.interp(every, some, shift[:, axis]) for axis in (0, 1)], axis=1)
    return middle


def _spans(clear: NDArray[np.bool_], along: Floats, dashed: bool) -> list[tuple[int, int, str]]:
    """(start, stop, label) of the parts to tell of: lines over their gaps, and faint what is left."""
    lines: list[list[int]] = []
    for start, stop in runs(clear):
        if lines and (dashed or along[start] - along[lines[-1][1] - 1] < GAP):
            lines[-1][1] = stop
        else:
            lines.append([start, stop])
    step = np.diff(along, prepend=0.0)
    spans, last = [], 0
    for start, stop in lines:
        length = along[stop - 1] - along[start]
        if length < SHORTEST or (step * clear)[start:stop].sum() < SEEN_SHARE * length:
            continue
        spans += [(last, start + 1, "faint"), (start, stop, "line")]
        last = stop - 1
    spans.append((last, len(clear), "faint"))
    return [(start, stop, label) for start, stop, label in spans if stop - start > 1]


def _stands_out(points: Floats, aside: Floats, along: Floats, grey: Floats) -> NDArray[np.bool_]:
    """Where a line is brighter than the ground beside it, averaged along a fair part of it."""
    # The ground begins beyond the edge, and no nearer than a pixel or two.
    aside = aside * np.maximum(1.0, 2.0 / np.maximum(np.hypot(*aside.T), 1e-6))[:, None]
    # By distance in the image, not by sample: far ones crowd together.
    even = np.linspace(0, along[-1], max(2, int(along[-1] / 0.004)))
    window = 25

    def mean(values: Floats) -> Floats:
        padded = np.pad(values, window, mode="edge")
        middle: Floats = np.convolve(padded, np.ones(window) / window, mode="same")[window:-window]
        return middle

    on, left, right = (np.interp(even, along, _levels(grey, points + way * aside)) for way in (0, -1, 1))
    # Beside a double tape's one lies the other.
    darker = np.where(mean(left) < mean(right), left, right)
    unrest = np.sqrt(np.maximum(mean(darker**2) - mean(darker) ** 2, 0))
    clear = mean(on) - mean(darker) > CONTRAST + UNREST * unrest
    shown: NDArray[np.bool_] = np.interp(along, even, clear.astype(float)) > 0.5
    return shown


def _levels(grey: Floats, points: Floats) -> Floats:
    x, y = np.ascontiguousarray(points.T - 0.5, np.float32)
    levels = cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(levels, np.float32).ravel()


def _polyline(points: Floats, label: str, size: tuple[int, int]) -> Polyline:
    """Thinned out, from near to far."""
    steps = np.hypot(*(np.diff(points, axis=0) / size).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    places = np.linspace(0, along[-1], max(2, int(along[-1] / 0.015) + 1))
    path = [np.interp(places, along, points[:, axis]) for axis in (0, 1)]
    if path[1][0] < path[1][-1]:
        path = [axis[::-1] for axis in path]
    return Polyline(tuple((float(x), float(y)) for x, y in zip(*path, strict=True)), label)
