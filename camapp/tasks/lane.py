"""From lines on the ground to the lane a car is in: offset, heading and curvature, and a filter of them over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats

STEEPEST = math.radians(60)  # lines that lie more across than this are not taken for borders of the car's lane
SAME_BORDER = 0.25  # of the lane's width: lines nearer to each other are a double tape
WIDTHS = (0.4, 2.0)  # of the expected lane width: what two borders may be apart
STEPS = 4  # of the fit; each starts from the last one's heading and curvature
CALM_CURVATURE, CALM_CHANGE = 0.0007, 0.002  # how strongly a lane is believed to be straight, and evenly bent
FITS = (0.02, 0.03)  # lane widths, and share of its distance, by which a point of a line may lie off it
MAX_CURVED = 0.9  # of the lane's width times the curvature: no track bends more


@dataclass(frozen=True)
class Lane:
    """Where a car is in its lane (DESIGN.md's names and signs).

    Attributes:
        offset: metres right of the lane's middle.
        heading: radians to the right of the lane.
        curvature: of the lane's middle, 1/m, positive to the right.
        width: metres.
        confidence: 0 to 1; at most a half where one border alone is seen.
        left: index of the line that is the left border, or None.
        right: the same of the right one.
        points: how many points of the lines lie where this lane would have them.
    """

    offset: float
    heading: float
    curvature: float
    width: float
    confidence: float
    left: int | None = None
    right: int | None = None
    points: int = 0


def find_lane(lines: Sequence[Floats], scores: Sequence[float], expected_width: float, reach: float) -> Lane | None:
    """The lane around a car at the origin that looks along y; None if no line tells.

    Args:
        lines: ground points (n, 2) of each line, metres.
        scores: how sure each line is, 0 to 1.
        expected_width: of the lane, metres; where two borders are seen, they tell.
        reach: metres from which on points are not looked at.
    """
    # Measured in lane widths, so that a course of tape and a stadium are fitted alike.
    near = [line[np.hypot(line[:, 0], line[:, 1]) < reach] / expected_width for line in lines]
    usable = [i for i, line in enumerate(near) if len(line) > 3 and _lengthwise(line)]
    if not usable:
        return None
    nearest = _near_first([near[i] for i in usable])
    # Lines beside the next lanes may bend elsewhere; the nearest two on either side decide.
    chosen = [usable[i] for i in nearest]
    fit = _fit([near[i] for i in chosen])
    if fit is None:
        return None
    heading, bend, places, fitting = fit
    if abs(bend) > MAX_CURVED or abs(heading) > STEEPEST:
        return None
    curvature, offsets = bend / expected_width, [place * expected_width for place in places]
    borders = _borders(offsets, [scores[i] for i in chosen], SAME_BORDER * expected_width)
    lane = _lane(borders, chosen, heading, curvature, expected_width)
    # Lines that do not run side by side make a poor lane, however clear each of them is.
    return replace(lane, confidence=lane.confidence * float(fitting.mean()), points=int(fitting.sum()))


def _lengthwise(line: Floats) -> bool:
    across, ahead = np.ptp(line, axis=0)
    return bool(ahead > across / math.tan(STEEPEST))


def _near_first(lines: Sequence[Floats], count: int = 4) -> list[int]:
    """The `count` lines that pass nearest to the car, in their own order."""
    distances = [float(np.hypot(line[:, 0], line[:, 1]).min()) for line in lines]
    return sorted(np.argsort(distances, kind="stable")[:count].tolist())


def _fit(lines: Sequence[Floats]) -> tuple[float, float, list[float], NDArray[np.bool_]] | None:
    """Heading of the car against the lines, their curvature beside it, how far each is to its right; which points fit.

    Lines of one track are concentric: one at offset d bends with k / (1 - k d), and k changes along the way. Each step
    turns the points into the present heading, takes off what is not linear in the unknowns (offsets, slope, curvature
    and its change), and solves the rest by weighted least squares.
    """
    which = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    points = np.concatenate(lines)
    # A pixel is worth more metres the farther off it lies.
    away = np.hypot(points[:, 0], points[:, 1])
    weight = 1 / (0.25 + away) ** 1.5
    count = len(lines)
    heading, curvature, change, offsets = 0.0, 0.0, 0.0, np.zeros(count)

    def against() -> tuple[Floats, Floats, Floats]:
        """How far the points lie along the lane and beside it, less its bend; and how much more each line is bent."""
        sine, cosine = math.sin(heading), math.cos(heading)
        # In the lane's frame: a car that points right of its lane sees the lane lead to the left.
        x = points[:, 0] * cosine + points[:, 1] * sine
        y = points[:, 1] * cosine - points[:, 0] * sine
        spread = 1 / np.maximum(1 - curvature * offsets, 0.2)[which]
        bend = curvature * spread
        arc = bend * y * y / (1 + np.sqrt(1 - np.clip((bend * y) ** 2, 0, 0.9)))  # of a circle through the foot
        return y, x - arc - change * y**3 / 6, spread

    matrix = np.zeros((len(points), count + 3))
    matrix[np.arange(len(points)), which] = 1
    for step in range(STEPS):
        y, rest, spread = against()
        square = y * y / 2
        matrix[:, count] = y
        matrix[:, count + 1] = square * spread**2
        matrix[:, count + 2] = square * y / 3
        if step:
            # Points that fit badly belong to something else, or are wrong.
            off = np.abs(rest - offsets[which]) * weight
            weight = weight / (1 + (off / max(float(np.median(off)) * 3, 1e-4)) ** 2)
        # Points near the car say little of how the lane bends: a weak belief in an even, straight one holds it.
        calm = np.zeros((2, count + 3))
        calm[[0, 1], [count + 1, count + 2]] = np.array([CALM_CURVATURE, CALM_CHANGE]) * float(weight.sum())
        system = np.concatenate([matrix * weight[:, None], calm])
        target = np.concatenate([rest * weight, -calm[:, count + 1 :] @ (curvature, change)])
        solution, *_ = np.linalg.lstsq(system, target, rcond=None)
        if not np.isfinite(solution).all():
            return None
        offsets = solution[:count]
        heading -= math.atan(solution[count])
        curvature += float(solution[count + 1])
        change += float(solution[count + 2])
    _, rest, _ = against()
    fitting = np.abs(rest - offsets[which]) < FITS[0] + FITS[1] * away
    return heading, curvature, [float(offset) for offset in offsets], fitting


@dataclass(frozen=True)
class _Border:
    offset: float
    score: float
    line: int


def _borders(offsets: Sequence[float], scores: Sequence[float], apart: float) -> list[_Border]:
    """Borders from left to right; lines of a double tape are one."""
    borders: list[list[int]] = []
    for i in np.argsort(offsets).tolist():
        if borders and offsets[i] - offsets[borders[-1][-1]] < apart:
            borders[-1].append(i)
        else:
            borders.append([i])
    return [
        _Border(
            float(np.mean([offsets[i] for i in group])),
            max(scores[i] for i in group),
            min(group, key=lambda i: abs(offsets[i])),
        )
        for group in borders
    ]


def _lane(borders: list[_Border], chosen: list[int], heading: float, curvature: float, expected: float) -> Lane:
    left = max((border for border in borders if border.offset < 0), key=lambda border: border.offset, default=None)
    right = min((border for border in borders if border.offset >= 0), key=lambda border: border.offset, default=None)
    width = expected
    if left and right:
        width = right.offset - left.offset
        if not WIDTHS[0] * expected <= width <= WIDTHS[1] * expected:
            # They are not the two borders of one lane: the nearer one tells more.
            left, right = (left, None) if -left.offset < right.offset else (None, right)
            width = expected
    if left and right:
        middle, score = (left.offset + right.offset) / 2, min(left.score, right.score)
    elif left:
        middle, score = left.offset + width / 2, left.score / 2
    else:
        assert right is not None  # there is at least one border
        middle, score = right.offset - width / 2, right.score / 2
    return Lane(
        offset=-middle,
        heading=heading,
        curvature=curvature / max(1 - curvature * middle, 0.2),
        width=width,
        confidence=score,
        left=chosen[left.line] if left else None,
        right=chosen[right.line] if right else None,
    )


class LaneFilter:
    """A constant-velocity filter of offset and heading; curvature and width are averaged.

    A car cannot leap: a measurement far from where the last ones lead counts little until it has been confirmed.
    """

    RESPONSE = 0.08  # seconds in which a new measurement replaces most of the old state
    HOLD = 0.35  # seconds for which the lane is foretold without being seen

    def __init__(self) -> None:
        self._lane: Lane | None = None
        self._rates = (0.0, 0.0)
        self._now = 0
        self._seen = 0
        self._odd = 0

    def update(self, lane: Lane | None, now_ns: int) -> tuple[Lane | None, float]:
        """The filtered lane and the seconds since one was measured; None when that is too long ago."""
        passed = max(0.0, (now_ns - self._now) / 1e9)
        self._now = now_ns
        if self._lane is None or passed > self.HOLD:
            self._start(lane, now_ns)
            return self._lane, 0.0
        foretold = replace(
            self._lane,
            offset=self._lane.offset + self._rates[0] * passed,
            heading=self._lane.heading + self._rates[1] * passed,
        )
        if lane is None:
            age = (now_ns - self._seen) / 1e9
            if age > self.HOLD:
                self._lane = None
                return None, 0.0
            self._lane = replace(foretold, confidence=foretold.confidence * math.exp(-passed / self.HOLD))
            return self._lane, age
        jump = abs(lane.offset - foretold.offset) > 0.25 * lane.width or abs(lane.heading - foretold.heading) > 0.35
        self._odd = self._odd + 1 if jump else 0
        if self._odd >= 3:  # it stays there: the car crossed a line, or was carried
            self._start(lane, now_ns)
            return self._lane, 0.0
        share = -math.expm1(-passed / self.RESPONSE) * (0.15 if jump else 0.4 + 0.6 * lane.confidence)
        self._lane = self._blend(foretold, lane, share, passed)
        self._seen = now_ns
        return self._lane, 0.0

    def _start(self, lane: Lane | None, now_ns: int) -> None:
        self._lane, self._rates, self._seen, self._odd = lane, (0.0, 0.0), now_ns, 0

    def _blend(self, foretold: Lane, lane: Lane, share: float, passed: float) -> Lane:
        def mix(old: float, new: float) -> float:
            return old + share * (new - old)

        if passed > 0:
            gain = 0.35 * share * share / passed
            gaps = (lane.offset - foretold.offset, lane.heading - foretold.heading)
            # Rates fade, or a lane that is lost in a bend would be foretold into the ditch.
            rates = [0.97 * rate + gain * gap for rate, gap in zip(self._rates, gaps, strict=True)]
            self._rates = (min(max(rates[0], -3.0), 3.0), min(max(rates[1], -3.0), 3.0))
        return replace(
            lane,
            offset=mix(foretold.offset, lane.offset),
            heading=mix(foretold.heading, lane.heading),
            curvature=mix(foretold.curvature, lane.curvature),
            width=mix(foretold.width, lane.width),
            confidence=mix(foretold.confidence, lane.confidence),
        )
