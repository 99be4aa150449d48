"""Follows objects from frame to frame: a Kalman filter for each, and the most likely pairs of objects and boxes.

It is of the SORT and ByteTrack kind. Intervals are times, not numbers of frames, so that frames may be dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from camapp.core.predictions import Box, Point
from camapp.tasks.assignment import assign

Vector = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Maximum number of objects, and of boxes of one frame that are followed: those with the best scores.
MAX_TRACKS = 200
# Seconds without a box after which an object that was seen once, or more often, is given up.
TENTATIVE_S, LOST_S = 0.3, 2.0
# Seconds without a box for which an object still counts.
HOLD_S = 0.6
# At low rates, these times are at least this number of intervals: a single miss is always allowed for.
INTERVALS = 1.5
# Columns of all arrays: x and y of the centre, width, height. Units: the root of the object's area, seconds.
# Variance of a box; of the velocity of a new object; spectral density of the acceleration.
MEASURED = np.array([0.04, 0.04, 0.06, 0.06]) ** 2
FIRST_VELOCITY = np.array([2.5, 2.5, 0.5, 0.5]) ** 2
ACCELERATION = np.array([0.3, 0.3, 0.02, 0.02])
# A side that is shorter by more standard deviations is partly hidden; its length is corrected by this share only.
HIDDEN, SHRINKAGE = 2.0, 0.03
# Distance from the border of the view at which a box may be cut off, pixels.
BORDER_PX = 2.0
# Largest cost of a side; degrees of freedom of Student's distribution for the centre, which allows for sudden turns.
MAX_SIDE_COST, FREEDOM = 9.0, 6.0
# Squared deviation over variance from which an object has turned or stopped: its state becomes less certain.
SURPRISE = 3.0
# Cost of leaving an object and a box without a partner. From 17 to 26 the id switches of tests/benchmarks/track_ids.py
# change little; below, sudden turns are lost, and above, lost objects catch the boxes of others.
UNPAIRED = 23.0
# The camera has moved if the median object has moved this far, in units of its size, and there are so many.
CAMERA_MOVED, CAMERA_OBJECTS = 0.1, 4
# A new object within this distance of where another was lost continues it; units of its size, and that per second.
CONTINUED, CONTINUED_PER_S = 0.5, 0.5


@dataclass(frozen=True, slots=True)
class Followed:
    """Describes an object of now: filtered, in pixels of the view.

    Attributes:
        foot: middle of its lower edge.
        size: root of its area.
        seen: whether it has a box in this frame; else the place is that of its motion so far.
    """

    number: int
    label: str
    foot: Point
    size: float
    seen: bool


class Tracker:
    """Numbers the objects of successive frames; objects of different labels are different objects."""

    def __init__(self) -> None:
        self._last_number = 0
        self._codes: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all objects; their numbers are not given again."""
        self._now_ns, self._interval_ns, self._is_first = 0, 0, True
        # Each row is an object. Places in pixels, velocities in pixels per second, and their variances and covariance;
        # the columns are independent of each other.
        self._place, self._velocity, self._pp, self._pv, self._vv = np.empty((5, 0, 4))
        self._last_place = np.empty((0, 4))
        self._born_ns, self._seen_ns, self._number, self._code = np.empty((4, 0), np.int64)

    def update(self, boxes: Sequence[Box], now_ns: int, size: tuple[int, int], sure: float = 0.0) -> list[Box]:
        """Follow the objects to this frame and return its boxes, numbered.

        Args:
            boxes: what was found in the frame, after non-maximum suppression.
            now_ns: time of the frame; if it is before the last one's, all objects are forgotten.
            size: (width, height) of the view; an object that left it without a box is given up.
            sure: score from which a box can be a new object. One below continues an object, or is left out.

        Returns:
            The boxes in the same order. The track of one is 0 until its object is seen again, but in the first frame.
        """
        self._predict(now_ns, size)
        scores = np.array([box.score for box in boxes])
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.float64).reshape(-1, 4)
        found = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
        usable = np.isfinite(found).all(axis=1) & (found[:, 2:] > 0).all(axis=1) & np.isfinite(scores)
        found[~usable] = 0
        best = np.argsort(np.where(usable, -scores, np.inf), kind="stable")[: min(MAX_TRACKS, usable.sum())]
        high, low = best[scores[best] >= sure], best[scores[best] < sure]
        codes = np.array([self._codes.setdefault(box.label, len(self._codes)) for box in boxes], np.int64)
        # The edges that lie at the border of the view, where the object may go on.
        cut = np.concatenate([corners[:, :2] <= BORDER_PX, corners[:, 2:] >= np.array(size) - BORDER_PX], axis=1)
        cost, away = self._cost(found, cut, codes)
        objects, columns = assign(cost[:, high], UNPAIRED)
        if self._camera_moved(away[objects, high[columns], :2]):
            cost, away = self._cost(found, cut, codes)
            objects, columns = assign(cost[:, high], UNPAIRED)
        owner = np.full(len(boxes), -1)
        owner[high[columns]] = objects
        free = np.setdiff1d(np.flatnonzero(self._number > 0), objects)
        objects, columns = assign(cost[np.ix_(free, low)], UNPAIRED)
        owner[low[columns]] = free[objects]
        matched = np.flatnonzero(owner >= 0)
        self._correct(owner[matched], away[owner[matched], matched])
        new = high[owner[high] < 0][: MAX_TRACKS - len(self._number)]
        owner[new] = len(self._number) + np.arange(len(new))
        self._add(found[new], codes[new])
        if self._is_first:
            self._give_numbers(owner[new])
        self._is_first = False
        numbers = np.append(self._number, 0)[owner]
        kept = (owner >= 0) | ~(scores < sure)
        return [replace(box, track=int(n)) for box, n, keep in zip(boxes, numbers, kept, strict=True) if keep]

    @property
    def objects(self) -> list[Followed]:
        """Return the objects of now, those included that are missed for a short time."""
        labels = list(self._codes)
        rows = np.flatnonzero((self._number > 0) & (self._now_ns - self._seen_ns <= self._limit(HOLD_S)))
        place, sides = self._place[rows], np.sqrt(self._area()[rows, 0])
        return [
            Followed(int(self._number[row]), labels[self._code[row]], (x, y + height / 2), side, seen)
            for row, (x, y, _, height), side, seen in zip(
                rows, place.tolist(), sides.tolist(), (self._seen_ns[rows] == self._now_ns).tolist(), strict=True
            )
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of objects of now by label."""
        return dict(Counter(followed.label for followed in self.objects))

    def _limit(self, seconds: float) -> float:
        return max(seconds * 1e9, INTERVALS * self._interval_ns)

    def _area(self) -> Vector:
        return (self._place[:, 2] * self._place[:, 3])[:, None]

    def _predict(self, now_ns: int, size: tuple[int, int]) -> None:
        """Move all objects to this time, and give up those that are gone."""
        if now_ns < self._now_ns:
            self.reset()
        seen_before = self._seen_ns == self._now_ns
        self._interval_ns, self._now_ns = now_ns - self._now_ns, now_ns
        dt = self._interval_ns / 1e9
        density = ACCELERATION * self._area()
        self._place = self._place + dt * self._velocity
        self._pp = self._pp + 2 * dt * self._pv + dt**2 * self._vv + dt**3 / 3 * density
        self._pv = self._pv + dt * self._vv + dt**2 / 2 * density
        self._vv = self._vv + dt * density
        in_view = ((self._place[:, :2] >= 0) & (self._place[:, :2] <= size)).all(axis=1) | seen_before
        in_view &= (self._place[:, 2:] > 0).all(axis=1)
        limit = np.where(self._number > 0, self._limit(LOST_S), self._limit(TENTATIVE_S))
        self._keep(in_view & (now_ns - self._seen_ns <= limit))

    def _cost(self, found: Vector, cut: Flags, codes: Whole) -> tuple[Vector, Vector]:
        """Return the cost of each pair of object (row) and box (column), and how far it moves the object (..., 4).

        The cost is -2 log likelihood, apart from a constant.
        """
        spread = self._pp + MEASURED * self._area()
        away = found[None] - self._place[:, None]
        # A box that ends where its object is covered, or the view ends, has one edge in the right place: the one that
        # moved less, or the one not at the border. The whole object has moved as that edge has.
        centre, side = away[..., :2], away[..., 2:]
        start, end = centre - side / 2, centre + side / 2
        moved_less = np.abs(start) < np.abs(end)
        by_start = np.where(cut[:, :2] == cut[:, 2:], moved_less, cut[:, 2:])
        shorter = (side < -HIDDEN * np.sqrt(spread[:, None, 2:])) | ((side < 0) & (cut[:, :2] != cut[:, 2:]))
        centre = np.where(shorter, np.where(by_start, start, end), centre)
        off = (centre**2 / spread[:, None, :2]).sum(axis=2)
        cost = FREEDOM * np.log1p(off / FREEDOM)
        cost += np.minimum(side**2 / spread[:, None, 2:], MAX_SIDE_COST).sum(axis=2)
        cost += np.log(spread / self._area() / MEASURED)[:, :2].sum(axis=1)[:, None]
        cost[self._code[:, None] != codes] = np.inf
        return cost, np.concatenate([centre, np.where(shorter, SHRINKAGE * side, side)], axis=2)

    def _camera_moved(self, away: Vector) -> bool:
        """Return whether the matched objects, (n, 2) off their places, have moved together; if so, move all."""
        if len(away) < CAMERA_OBJECTS:
            return False
        shift = np.median(away, axis=0)
        moved = bool(np.hypot(*shift) > CAMERA_MOVED * np.sqrt(np.median(self._area())))
        if moved:
            self._place[:, :2] += shift
            self._last_place[:, :2] += shift
        return moved

    def _correct(self, rows: Whole, away: Vector) -> None:
        """Move the objects of these rows as their boxes say, and number those seen for the second time."""
        noise = MEASURED * self._area()[rows]
        surprise = np.maximum(1.0, away**2 / (self._pp[rows] + noise) / SURPRISE)
        pp, pv, vv = (surprise * variance[rows] for variance in (self._pp, self._pv, self._vv))
        self._place[rows] += pp / (pp + noise) * away
        self._velocity[rows] += pv / (pp + noise) * away
        self._pp[rows] = noise / (pp + noise) * pp
        self._pv[rows] = noise / (pp + noise) * pv
        self._vv[rows] = vv - pv / (pp + noise) * pv
        self._last_place[rows] = self._place[rows]
        self._seen_ns[rows] = self._now_ns
        self._give_numbers(rows[self._number[rows] == 0])

    def _give_numbers(self, rows: Whole) -> None:
        for row in rows:
            self._number[row] = self._continued(row) or self._last_number + 1
            self._last_number = max(self._last_number, int(self._number[row]))

    def _continued(self, row: int) -> int:
        """Return the number of the lost object that a new one continues, and give up that one; 0 if there is none."""
        lost = (self._number > 0) & (self._seen_ns < self._born_ns[row]) & (self._code == self._code[row])
        reach = CONTINUED + CONTINUED_PER_S * (self._now_ns - self._seen_ns) / 1e9
        away = self._last_place[:, :2] - self._place[row, :2]
        distance = np.where(lost, np.hypot(*away.T) / np.sqrt(self._area()[row]) / reach, np.inf)
        nearest = int(distance.argmin())
        if distance[nearest] > 1:
            return 0
        number, self._number[nearest] = int(self._number[nearest]), 0
        return number

    def _add(self, found: Vector, codes: Whole) -> None:
        """Begin an object with each box."""
        area, still = (found[:, 2] * found[:, 3])[:, None], np.zeros_like(found)
        now, none = np.full(len(found), self._now_ns), np.zeros(len(found), np.int64)
        new = (found, found, still, MEASURED * area, still, FIRST_VELOCITY * area, now, now, none, codes)
        for name, rows in zip(_ARRAYS, new, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), rows]))

    def _keep(self, rows: Flags) -> None:
        if not rows.all():
            for name in _ARRAYS:
                setattr(self, name, getattr(self, name)[rows])


_ARRAYS = ("_place", "_last_place", "_velocity", "_pp", "_pv", "_vv", "_born_ns", "_seen_ns", "_number", "_code")
