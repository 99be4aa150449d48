"""Estimates what a user need not measure: the camera's pitch, and the lane's width in camera heights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats
from camapp.core.ground_camera import GroundCamera
from camapp.tasks.lane import Lane, find_lane

# Pitches to compare, degrees.
PITCHES = np.arange(-9.0, 52.0, 3.0)
# Width of the lane in camera heights for the comparison: whether lines are parallel hardly depends on it.
NOMINAL_WIDTH = 2.0
# Frames that are compared with all candidates; each later one is compared with one.
ALL_FOR = 3
# Evidence that counts as much as the expectation; and the most that is kept of a candidate, so that a camera that was
# moved is noticed within a minute.
PRIOR_WEIGHT, MOST_EVIDENCE = 2.0, 60.0
# Loss of agreement for a pitch that differs by 30 degrees from the expected one, and by how much more it is in the
# first image, whose lines may fit a pitch that no camera has. It fades at once: a higher loss for the first seconds
# cost 0.06 to 0.09 of the correlation with a person's steering on one of four drives.
UNEXPECTED, EARLY = 0.08, 4.0
# Least agreement of a pitch that is believed; one at the end of the range never is.
BELIEVED = 0.3
# Evidence from which on an estimate is kept for the next start, or given up: some seconds with two lines.
SURE = 6.0

# Lane widths to count, camera heights: each a tenth more than the one before.
WIDTHS = 0.3 * 1.1 ** np.arange(41)
# Evidence that the expected width counts as, and the share of the evidence that each frame leaves.
WIDTH_PRIOR, WIDTH_KEPT = 0.5, 0.998


class PitchEstimator:
    """Compares pitches by how well all lines then agree with one lane on the ground.

    The borders of a track are parallel on the ground for the right pitch only: for a smaller one they part ahead of the
    car, for a larger one they meet, whatever the lane's width and the camera's height are.

    Args:
        expected: pitch before anything was seen, degrees.
        camera: returns a camera 1 m above the ground for an image size and a pitch in degrees.

    Attributes:
        expected: pitch before anything was seen, degrees.
        pitch: the estimate, degrees; `expected` as long as no pitch makes a lane of the lines.
        agreement: share of the line points that agree with a lane at that pitch, less the share above the horizon.
        is_sure: whether many lines were seen and make a lane at that pitch.
        has_diverged: whether many lines were seen and make a lane at no pitch, or best at one that no car has.
    """

    def __init__(self, expected: float, camera: Callable[[tuple[int, int], float], GroundCamera]) -> None:
        self.pitch = self.expected = expected
        self.agreement = 0.0
        self.is_sure = self.has_diverged = False
        self._camera = camera
        self._means = _Means(len(PITCHES))
        self._next = 0

    def update(self, lines: Sequence[Floats], scores: Sequence[float], size: tuple[int, int]) -> None:
        """Compare the lines of a frame, (n, 2) pixels each, with a candidate."""
        # A single line agrees with a lane at any pitch.
        weight = 1.0 if len(lines) > 1 else 0.25
        for _ in range(len(PITCHES) if self._means.weights.min() < ALL_FOR * weight else 1):
            self._next = (self._next + 1) % len(PITCHES)
            camera = self._camera(size, float(PITCHES[self._next]))
            self._means.add(self._next, _agreement(camera, lines, scores), weight)
        evidence = float(self._means.weights.mean())
        best, self.agreement = self._best(UNEXPECTED * (1 + EARLY / evidence**3))
        believed = self.agreement > BELIEVED and PITCHES[0] < best < PITCHES[-1]
        share = evidence / (evidence + PRIOR_WEIGHT) if believed else 0.0
        self.pitch = self.expected + share * (best - self.expected)
        self.is_sure = believed and evidence > SURE
        self.has_diverged = not believed and evidence > SURE

    def _best(self, unexpected: float) -> tuple[float, float]:
        """Return the best pitch, interpolated between the candidates, and its agreement less the loss."""
        loss = unexpected * ((PITCHES - self.expected) / 30) ** 2
        means = np.where(self._means.weights > 0, self._means.smoothed() - loss, -1.0)
        peak = int(means.argmax())
        shift = 0.0
        if 0 < peak < len(PITCHES) - 1:
            before, at, after = means[peak - 1 : peak + 2]
            curve = before - 2 * at + after
            shift = 0.5 * (before - after) / curve if curve < 0 else 0.0
        return float(PITCHES[peak] + shift * (PITCHES[1] - PITCHES[0])), float(means[peak])


class _Means:
    """Holds the weighted mean of the newest values of each candidate."""

    def __init__(self, count: int) -> None:
        self.weights = np.zeros(count)
        self._sums = np.zeros(count)

    def add(self, index: int, value: float, weight: float) -> None:
        if self.weights[index] > MOST_EVIDENCE:
            self._sums[index] *= 0.5
            self.weights[index] *= 0.5
        self._sums[index] += weight * value
        self.weights[index] += weight

    def smoothed(self) -> NDArray[np.float64]:
        """Return the mean of each candidate and its neighbours, which count half."""
        sums, weights = (np.convolve(values, (0.5, 1.0, 0.5), "same") for values in (self._sums, self.weights))
        means: NDArray[np.float64] = sums / np.maximum(weights, 1e-9)
        return means


def _agreement(camera: GroundCamera, lines: Sequence[Floats], scores: Sequence[float]) -> float:
    """Return the share of points that agree with one near lane, less the share above the horizon: -1 to 1.

    Points beyond the lane's reach do not agree, which raises the estimate by about 2 degrees. Without that it is right
    for a straight lens, but too low near the car for the wide lenses of many small cars: their drivers' steering then
    correlates less with what is measured (0.71 in the place of 0.80).
    """
    grounds = [ground[visible] for ground, visible in map(camera.unproject, lines)]
    total, below = sum(map(len, lines)), sum(map(len, grounds))
    lane = find_lane(grounds, scores, NOMINAL_WIDTH * camera.height, camera.height)
    return (lane.points if lane else 0) / total - (1 - below / total)


class LaneWidthEstimator:
    """Counts the distances of the two borders around the car, and returns the usual one.

    Args:
        expected: width before anything was seen, camera heights.
    """

    def __init__(self, expected: float) -> None:
        self._counts = np.zeros(len(WIDTHS))
        self.width = expected
        self._add(expected, WIDTH_PRIOR)

    def update(self, lane: Lane, height: float) -> None:
        """Add the lane of a frame, measured with a camera at `height` metres."""
        left = max((border for border in lane.borders if border < 0), default=None)
        right = min((border for border in lane.borders if border >= 0), default=None)
        if left is not None and right is not None:
            self._counts *= WIDTH_KEPT
            self._add((right - left) / height, lane.points / (lane.points + 20))

    def _add(self, width: float, weight: float) -> None:
        place = math.log(max(width, WIDTHS[0]) / WIDTHS[0]) / math.log(1.1)
        self._counts += weight * np.maximum(0.0, 1 - np.abs(np.arange(len(WIDTHS)) - min(place, len(WIDTHS) - 1)) / 2)
        peak = int(self._counts.argmax())
        around = slice(max(0, peak - 2), peak + 3)
        self.width = float(np.average(WIDTHS[around], weights=self._counts[around]))
