"""Renders a track as seen from a car that drives laps on it, and random single views, each with its truth."""

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
from camapp.scenes.photograph import Look, Mask, hidden, photograph, runs
from camapp.scenes.scene import Scene, SceneOptions
from camapp.scenes.trackside import KINDS, View, marks, paint, random_look, random_view

# The truth is what a person would draw in an image stretched to 4:3, as for the net; lengths are in units of its width.
EVEN = (1.0, 0.75)
# Minimum width of a clearly visible line.
CLEAR = 0.0017
# Minimum width of a faint line; thinner ones are invisible.
FAINT = 0.0009
# A line must be brighter than the ground beside it by this many grey levels...
CONTRAST = 4.0
# ...plus this share of the standard deviation of that ground.
CONTRAST_PER_DEVIATION = 0.22
# Two lines look like one if the motion blur fills this share of the gap between them.
SMEARED = 0.6
# Two lines with a smaller gap look like one.
MIN_GAP = 0.005
# A line is continued over a shorter interruption; the gaps of a dashed line may have any length.
MAX_INTERRUPTION = 0.15
# Shorter lines are not part of the truth.
MIN_LENGTH = 0.1
# Minimum share of a line's paint that must be clear.
MIN_CLEAR_SHARE = 0.5
# Number of places of a lap with marks that are not lines.
MARKED_PLACES = 4
# Lines must be visible in a thumbnail of this size in pixels to be part of the truth.
THUMBNAIL = (240, 180)


class TrackScene(Scene):
    """Shows laps of a closed course with `count` lanes; `seed` chooses course, surface, camera and weather."""

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
        # Patches and glare are fixed to the camera: they would move along with the car.
        self.look = replace(look, patches=(), glare=(), haze=min(look.haze, 0.2), reach=40.0, seed=options.seed)
        self._speed = rng.uniform(1.5, 3.0)
        self.seconds = float(self.course.along[-1]) / self._speed
        self._lane = int(rng.integers(lanes))
        self._phase = rng.uniform(0, math.tau, 3)
        places = np.linspace(0, self.course.along[-1], MARKED_PLACES, endpoint=False)
        unrelated = [stripe for place in places for stripe in marks(kind, self.course, rng, start=float(place))]
        self.stripes = (*unrelated, *lines)

    def render(self, index: int) -> tuple[Pixels, Truth]:
        """Return the image of an index (RGB uint8, newly allocated), its lines and the position in the lane."""
        return self.seen_from(self.pose(index / self.options.fps), index)

    def pose(self, seconds: float) -> Pose:
        """Return the pose of the car, which sways in its lane."""
        sway = [math.sin(seconds * rate + phase) for rate, phase in zip((0.9, 0.37, 1.3), self._phase, strict=True)]
        left, right = self.course.borders[self._lane : self._lane + 2]
        offset = (left + right) / 2 + 0.12 * (right - left) * (sway[0] + sway[1])
        along = math.fmod(seconds * self._speed, float(self.course.along[-1]))
        return self.course.pose(along, offset, math.radians(3.0) * (sway[2] + sway[0]))

    def seen_from(self, pose: Pose, moment: int = 0) -> tuple[Pixels, Truth]:
        """Return the image and the truth from any pose."""
        stripes = tuple(stripe.seen_from(pose) for stripe in self.stripes)
        view = View(self.camera, stripes, self.look, self.course.values(pose))
        image = photograph(stripes, self.look, self.camera, moment)
        return image, truth_of(view, image)


def random_image(
    seed: int, size: tuple[int, int], kind: str | None = None, shape: tuple[int, int] | None = None
) -> tuple[Pixels, Truth, View]:
    """Return an image of a random track (RGB uint8), its truth and its view; the same seed gives the same image.

    `size` and `shape` are (width, height): an image of `shape`, if given, is stretched to `size`. `kind` None is a
    random one.
    """
    rng = np.random.default_rng([seed, 5])
    view = random_view(rng, shape or size, kind)
    if shape is not None:
        view = replace(view, camera=view.camera.resized(size))
    image = photograph(view.stripes, view.look, view.camera)
    return image, truth_of(view, image), view


def truth_of(view: View, image: Pixels) -> Truth:
    """Return the lines in pixels of the image, each from near to far.

    The label is 'line', or 'faint' for parts too thin or too similar to the ground to be certain.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape[1] > THUMBNAIL[0] or grey.shape[0] > THUMBNAIL[1]:
        grey = cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.6), np.float32)
    masks = hidden(view.look, view.camera)
    stretches = [part for stripe in view.stripes if stripe.is_line for part in _stretches(stripe, view, grey, masks)]
    stretches.sort(key=lambda part: -part.clear_length)
    lines: list[Polyline] = []
    accepted = np.zeros((0, 2))
    for number, part in enumerate(stretches):
        merge_distance = _merge_distance(part, view.look)
        clear = part.clear & ~_is_merged(part, accepted, merge_distance)
        middle = part.points
        for other in stretches[number + 1 :]:
            middle = _merged_points(middle, part, other, merge_distance)
        for start, stop, label in _spans(clear, part.along, part.painted):
            lines.append(_polyline(middle[start:stop], label, view.camera.size))
            if label == "line":
                accepted = np.concatenate([accepted, part.even[np.linspace(start, stop - 1, 120).astype(int)]])
    return Truth(lines=tuple(lines), values=view.values)


@dataclass(frozen=True)
class _Stretch:
    """A visible, continuous part of a stripe: (n, 2) pixels, the same in the 4:3 image, and which points are clear.

    `painted` is the share of it that is not the gaps of a dashed line.
    """

    points: Floats
    even: Floats
    along: Floats
    thick: Floats
    clear: NDArray[np.bool_]
    painted: float

    @property
    def clear_length(self) -> float:
        return float((np.diff(self.along) * self.clear[1:]).sum())


def _stretches(stripe: Stripe, view: View, grey: Floats, hidden_by: tuple[Mask, Mask]) -> list[_Stretch]:
    camera, look = view.camera, view.look
    size = np.array(camera.size)
    pixels, seen = camera.project(stripe.path)
    (left, _), (right, _) = (camera.project(edge) for edge in stripe.edges)
    # The line ends between two samples: it is clipped to the image on a finer path.
    fine = np.linspace(0, len(pixels) - 1, 8 * len(pixels))
    index = np.arange(len(pixels))

    def finer(values: Floats) -> Floats:
        return np.stack([np.interp(fine, index, values[:, axis]) for axis in (0, 1)], axis=1)

    points, aside = finer(pixels), finer(right - left)
    even, across = points / size * EVEN, aside / size * EVEN
    ahead = np.gradient(even, axis=0)
    # Thickness is measured across the line: for a far line across the view, the shift of its edges is much longer.
    thick = np.abs(across[:, 0] * ahead[:, 1] - across[:, 1] * ahead[:, 0]) / np.maximum(np.hypot(*ahead.T), 1e-9)
    distance = np.interp(fine, index, np.hypot(*stripe.path.T))
    shown = np.interp(fine, index, seen.astype(float)) == 1
    shown &= (points > 0).all(axis=1) & (points < size).all(axis=1) & (distance < look.reach)
    columns, rows = np.clip(points, 0, size - 1).astype(int).T
    by_car, by_things = (mask[rows, columns] > 0 for mask in hidden_by)
    shown &= ~by_car
    # A defocused line must be thicker to be visible.
    shown &= thick > max(FAINT, 0.3 * look.blur)
    painted = 1.0 if stripe.dash is None else stripe.dash[0] / sum(stripe.dash)
    parts = []
    for start, stop in runs(shown):
        if stop - start < 2:
            continue
        part = slice(start, stop)
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(even[part], axis=0).T))])
        clear = thick[part] > max(CLEAR, 0.8 * look.blur)
        scale = np.array(grey.shape[::-1]) / size
        # A thing that hides a line interrupts it, as faint paint does.
        clear &= ~by_things[part]
        clear &= _stands_out(points[part] * scale, aside[part] * scale, along, grey)
        parts.append(_Stretch(points[part], even[part], along, thick[part], clear, painted))
    return parts


def _merge_distance(part: _Stretch, look: Look) -> Floats:
    """Return the distance below which another line looks like one with this, in widths of the 4:3 image."""
    ahead = np.gradient(part.even, axis=0)
    across = np.abs(look.motion[0] * ahead[:, 1] - look.motion[1] * ahead[:, 0])
    # Motion blur across a line fills the gap beside it.
    smeared = SMEARED * (across / np.maximum(np.hypot(*ahead.T), 1e-9))
    gap: Floats = part.thick + (MIN_GAP + look.blur) + smeared
    return gap


def _is_merged(part: _Stretch, accepted: Floats, merge_distance: Floats) -> NDArray[np.bool_]:
    """Return which points are so close to lines already in the truth that both look like one."""
    if not len(accepted):
        return np.zeros(len(part.even), bool)
    samples = _sample_indices(part)
    nearest = _distances(part.even[samples], accepted).min(axis=1)
    close: NDArray[np.bool_] = np.interp(np.arange(len(part.even)), samples, nearest) < merge_distance
    return close


def _distances(points: Floats, others: Floats) -> Floats:
    """Return the distances (n, m) between two sets of points."""
    x, y = points.T[:, :, None] - others.T[:, None]
    distances: Floats = np.sqrt(x * x + y * y)
    return distances


def _sample_indices(part: _Stretch) -> NDArray[np.intp]:
    """Return the indices of up to a hundred points that represent the stretch."""
    return np.unique(np.linspace(0, len(part.even) - 1, 100).astype(np.intp))


def _merged_points(points: Floats, part: _Stretch, other: _Stretch, merge_distance: Floats) -> Floats:
    """Return the points of a line, moved to the middle between it and another one if both look like one."""
    reach = merge_distance.max()
    if (part.even.max(axis=0) + reach < other.even.min(axis=0)).any():
        return points
    if (other.even.max(axis=0) + reach < part.even.min(axis=0)).any():
        return points
    samples, other_samples = _sample_indices(part), _sample_indices(other)
    distance = _distances(part.even[samples], other.even[other_samples])
    nearest = distance.argmin(axis=1)
    share = np.where((distance.min(axis=1) < merge_distance[samples]) & other.clear[other_samples][nearest], 0.5, 0.0)
    if not share.any():
        return points
    shift = (other.points[other_samples][nearest] - part.points[samples]) * share[:, None]
    # Smoothed, since lines merge gradually.
    shift = cv2.blur(shift, (1, 7), borderType=cv2.BORDER_REPLICATE)
    index = np.arange(len(points))
    middle: Floats = points + np.stack([np.interp(index, samples, shift[:, axis]) for axis in (0, 1)], axis=1)
    return middle


def _spans(clear: NDArray[np.bool_], along: Floats, painted: float) -> list[tuple[int, int, str]]:
    """Return (start, stop, label) of the parts of the truth: lines with their gaps bridged, the rest faint."""
    lines: list[list[int]] = []
    for start, stop in runs(clear):
        if lines and (painted < 1 or along[start] - along[lines[-1][1] - 1] < MAX_INTERRUPTION):
            lines[-1][1] = stop
        else:
            lines.append([start, stop])
    step = np.diff(along, prepend=0.0)
    spans, last = [], 0
    for start, stop in lines:
        length = along[stop - 1] - along[start]
        if length < MIN_LENGTH or (step * clear)[start:stop].sum() < MIN_CLEAR_SHARE * painted * length:
            continue
        spans += [(last, start + 1, "faint"), (start, stop, "line")]
        last = stop - 1
    spans.append((last, len(clear), "faint"))
    return [(start, stop, label) for start, stop, label in spans if stop - start > 1]


def _stands_out(points: Floats, aside: Floats, along: Floats, grey: Floats) -> NDArray[np.bool_]:
    """Return which points of a line are brighter than the ground beside it, averaged along the line."""
    # The ground is sampled beyond the edge, at least two pixels away.
    aside = aside * np.maximum(1.0, 2.0 / np.maximum(np.hypot(*aside.T), 1e-6))[:, None]
    # Evenly spaced in the image: the samples are denser far away.
    even = np.linspace(0, along[-1], max(2, int(along[-1] / 0.004)))
    window = 25

    def mean(values: Floats) -> Floats:
        padded = np.pad(values, window, mode="edge")
        middle: Floats = np.convolve(padded, np.ones(window) / window, mode="same")[window:-window]
        return middle

    on, left, right = (np.interp(even, along, _levels(grey, points + side * aside)) for side in (0, -1, 1))
    # The darker side counts: on the other side of a double tape's stripe is its second stripe.
    darker = np.where(mean(left) < mean(right), left, right)
    deviation = np.sqrt(np.maximum(mean(darker**2) - mean(darker) ** 2, 0))
    clear = mean(on) - mean(darker) > CONTRAST + CONTRAST_PER_DEVIATION * deviation
    shown: NDArray[np.bool_] = np.interp(along, even, clear.astype(float)) > 0.5
    return shown


def _levels(grey: Floats, points: Floats) -> Floats:
    x, y = np.ascontiguousarray(points.T - 0.5, np.float32)
    levels = cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(levels, np.float32).ravel()


def _polyline(points: Floats, label: str, size: tuple[int, int]) -> Polyline:
    """Return a polyline with few points, from near to far."""
    steps = np.hypot(*(np.diff(points, axis=0) / size).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    samples = np.linspace(0, along[-1], max(2, int(along[-1] / 0.015) + 1))
    path = [np.interp(samples, along, points[:, axis]) for axis in (0, 1)]
    if path[1][0] < path[1][-1]:
        path = [axis[::-1] for axis in path]
    return Polyline(tuple((float(x), float(y)) for x, y in zip(*path, strict=True)), label)
