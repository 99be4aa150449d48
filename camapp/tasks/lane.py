"""Computes the lane of a car from lines on the ground (offset, heading, curvature) and filters it over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats

# Lines at a larger angle to the car's direction are not borders of its lane.
MAX_ANGLE = math.radians(60)
# Lines closer than this share of the lane's width are one double tape.
SAME_BORDER = 0.25
# Allowed distance of two borders, as a share of the expected lane width.
WIDTHS = (0.4, 2.0)
# Iterations of the fit; each starts from the heading and curvature of the last one.
STEPS = 4
# Distance ahead up to which lines are used, in camera heights. Beyond it, on small courses, other parts of the track
# come into sight, and pixels are many centimetres long.
REACH = 6.0
# Strength of the priors that the lane is straight, that its curvature is that of the moment before (if there was one),
# and that it is constant. A freer curvature is noise: on four drives by persons, the correlation of their steering with
# what is measured fell from 0.78 to 0.72 without the second, and to 0.6 with a third of 0.002.
PRIOR_CURVATURE, PRIOR_BEFORE, PRIOR_CHANGE = 0.0007, 0.03, 0.1
# Distance in camera heights within which all points have about the same weight.
NEAR = 2.0
# A point fits if its deviation is below this many lane widths plus this share of its distance.
FITS = (0.02, 0.03)
# Maximum of lane width times curvature: no track bends more.
MAX_CURVED = 0.9


@dataclass(frozen=True)
class Lane:
    """Position of a car in its lane.

    Attributes:
        offset: distance to the right of the lane's middle, metres.
        heading: direction of the car to the right of the lane, radians.
        curvature: curvature of the lane's middle, 1/m, positive to the right.
        width: width of the lane, metres.
        confidence: 0 to 1; at most 0.5 if only one border is visible.
        left: index of the line that is the left border, or None.
        right: index of the line that is the right border, or None.
        points: number of line points that agree with this lane.
        borders: distance of each border that was used to the right of the car, ascending, metres.
    """

    offset: float
    heading: float
    curvature: float
    width: float
    confidence: float
    left: int | None = None
    right: int | None = None
    points: int = 0
    borders: tuple[float, ...] = ()


def find_lane(
    lines: Sequence[Floats],
    scores: Sequence[float],
    expected_width: float,
    height: float,
    before: Lane | None = None,
) -> Lane | None:
    """Return the lane around a car at the origin that points along y, or None if no line determines it.

    Args:
        lines: ground points (n, 2) each, metres.
        scores: of the lines, 0 to 1.
        expected_width: of the lane, metres; if two borders are visible, their distance is used instead.
        height: of the camera, metres.
        before: the lane of the moment before.
    """
    # In units of the lane width, so that a tape course and a stadium are fitted alike.
    unit = expected_width
    near = [line[np.hypot(line[:, 0], line[:, 1]) < REACH * height] / unit for line in lines]
    usable = [i for i, line in enumerate(near) if len(line) > 3 and _lengthwise(line)]
    if not usable:
        return None
    nearest = _near_first([near[i] for i in usable])
    # Lines of the neighbouring lanes may bend differently: only the lines nearest to the car are used.
    chosen = [usable[i] for i in nearest]
    fit = _fit([near[i] for i in chosen], NEAR * height / unit, None if before is None else before.curvature * unit)
    if fit is None:
        return None
    heading, bend, positions, fitting = fit
    if abs(bend) > MAX_CURVED or abs(heading) > MAX_ANGLE:
        return None
    curvature, offsets = bend / expected_width, [position * expected_width for position in positions]
    borders = _borders(offsets, [scores[i] for i in chosen], SAME_BORDER * expected_width)
    lane = _lane(borders, chosen, heading, curvature, expected_width)
    # Lines that are not parallel make a poor lane, however clear each of them is.
    return replace(lane, confidence=lane.confidence * float(fitting.mean()), points=int(fitting.sum()))


def _lengthwise(line: Floats) -> bool:
    across, ahead = np.ptp(line, axis=0)
    return bool(ahead > across / math.tan(MAX_ANGLE))


def _near_first(lines: Sequence[Floats], count: int = 4) -> list[int]:
    """Return the indices of the `count` lines that pass nearest to the car, ascending."""
    distances = [float(np.hypot(line[:, 0], line[:, 1]).min()) for line in lines]
    return sorted(np.argsort(distances, kind="stable")[:count].tolist())


def _fit(
    lines: Sequence[Floats], even: float, before: float | None
) -> tuple[float, float, list[float], NDArray[np.bool_]] | None:
    """Return the heading of the car, the curvature of the lines, the offset of each line, and which points fit.

    Lines of one track are concentric: a line at offset d has the curvature k / (1 - k d), and k changes along the way.
    Each iteration rotates the points by the present heading, subtracts what is not linear in the unknowns (offsets,
    slope, curvature and its change), and solves the rest by weighted least squares.

    Args:
        even: distance within which points weigh about the same.
        before: curvature of the moment before, None if unknown.
    """
    which = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    points = np.concatenate(lines)
    # A pixel covers more metres the farther away it is.
    away = np.hypot(points[:, 0], points[:, 1])
    weight = 1 / (even + away) ** 1.5
    count = len(lines)
    heading, curvature, change, offsets = 0.0, 0.0, 0.0, np.zeros(count)

    def residuals() -> tuple[Floats, Floats, Floats]:
        """Return the distance of the points along the lane, beside it less its bend, and the relative curvature."""
        sine, cosine = math.sin(heading), math.cos(heading)
        # In the lane's frame: for a car that points right of its lane, the lane leads to the left.
        x = points[:, 0] * cosine + points[:, 1] * sine
        y = points[:, 1] * cosine - points[:, 0] * sine
        spread = 1 / np.maximum(1 - curvature * offsets, 0.2)[which]
        bend = curvature * spread
        arc = bend * y * y / (1 + np.sqrt(1 - np.clip((bend * y) ** 2, 0, 0.9)))  # of a circle through the foot
        return y, x - arc - change * y**3 / 6, spread

    strengths = np.array([PRIOR_CURVATURE, PRIOR_BEFORE * (before is not None), PRIOR_CHANGE])
    matrix = np.zeros((len(points), count + 3))
    matrix[np.arange(len(points)), which] = 1
    for step in range(STEPS):
        y, rest, spread = residuals()
        square = y * y / 2
        matrix[:, count] = y
        matrix[:, count + 1] = square * spread**2
        matrix[:, count + 2] = square * y / 3
        if step:
            # Down-weight points that fit badly: they belong to something else, or are wrong.
            off = np.abs(rest - offsets[which]) * weight
            middle = float(np.partition(off, len(off) // 2)[len(off) // 2])
            weight = weight / (1 + (off / max(middle * 3, 1e-4)) ** 2)
        weighted = matrix * weight[:, None]
        system = weighted.T @ weighted
        target = weighted.T @ (rest * weight)
        # Points near the car hardly determine the curvature: priors do.
        prior = (strengths * float(weight.sum())) ** 2
        system[[-2, -1], [-2, -1]] += prior[0] + prior[1], prior[2]
        target[-2:] += prior[1] * (before or 0.0) - (prior[0] + prior[1]) * curvature, -prior[2] * change
        try:
            solution = np.linalg.solve(system, target)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(solution).all():
            return None
        offsets = solution[:count]
        heading -= math.atan(solution[count])
        curvature += float(solution[count + 1])
        change += float(solution[count + 2])
    _, rest, _ = residuals()
    fitting = np.abs(rest - offsets[which]) < FITS[0] + FITS[1] * away
    return heading, curvature, [float(offset) for offset in offsets], fitting


@dataclass(frozen=True)
class _Border:
    offset: float
    score: float
    line: int


def _borders(offsets: Sequence[float], scores: Sequence[float], apart: float) -> list[_Border]:
    """Return the borders from left to right; the lines of a double tape are one border."""
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
            # They are not the two borders of one lane: keep the nearer one.
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
        borders=tuple(border.offset for border in borders),
    )


class LaneFilter:
    """Constant-velocity filter of offset and heading; curvature and width are averaged.

    A car cannot jump: a measurement far from the extrapolated state has little weight until it is confirmed.
    """

    # Seconds in which a new measurement replaces most of the old state.
    RESPONSE = 0.08
    # Seconds for which the lane is extrapolated without a measurement.
    HOLD = 0.35

    def __init__(self) -> None:
        self._lane: Lane | None = None
        self._rates = (0.0, 0.0)
        self._now_ns = 0
        self._measured_ns = 0
        self._jumps = 0

    def update(self, lane: Lane | None, now_ns: int) -> tuple[Lane | None, float]:
        """Return the filtered lane, None if the last measurement is older than HOLD, and its age in seconds."""
        elapsed = max(0.0, (now_ns - self._now_ns) / 1e9)
        self._now_ns = now_ns
        if self._lane is None or elapsed > self.HOLD:
            self._start(lane, now_ns)
            return self._lane, 0.0
        predicted = replace(
            self._lane,
            offset=self._lane.offset + self._rates[0] * elapsed,
            heading=self._lane.heading + self._rates[1] * elapsed,
        )
        if lane is None:
            age = (now_ns - self._measured_ns) / 1e9
            if age > self.HOLD:
                self._lane = None
                return None, 0.0
            self._lane = replace(predicted, confidence=predicted.confidence * math.exp(-elapsed / self.HOLD))
            return self._lane, age
        jump = abs(lane.offset - predicted.offset) > 0.25 * lane.width or abs(lane.heading - predicted.heading) > 0.35
        self._jumps = self._jumps + 1 if jump else 0
        if self._jumps >= 3:  # confirmed three times: the car crossed a line, or was carried
            self._start(lane, now_ns)
            return self._lane, 0.0
        share = -math.expm1(-elapsed / self.RESPONSE) * (0.15 if jump else 0.4 + 0.6 * lane.confidence)
        self._lane = self._blend(predicted, lane, share, elapsed)
        self._measured_ns = now_ns
        return self._lane, 0.0

    def _start(self, lane: Lane | None, now_ns: int) -> None:
        self._lane, self._rates, self._measured_ns, self._jumps = lane, (0.0, 0.0), now_ns, 0

    def _blend(self, predicted: Lane, lane: Lane, share: float, elapsed: float) -> Lane:
        def mix(old: float, new: float) -> float:
            return old + share * (new - old)

        if elapsed > 0:
            gain = 0.35 * share * share / elapsed
            gaps = (lane.offset - predicted.offset, lane.heading - predicted.heading)
            # Rates decay, or a lane lost in a bend would be extrapolated off the track.
            rates = [0.97 * rate + gain * gap for rate, gap in zip(self._rates, gaps, strict=True)]
            self._rates = (min(max(rates[0], -3.0), 3.0), min(max(rates[1], -3.0), 3.0))
        return replace(
            lane,
            offset=mix(predicted.offset, lane.offset),
            heading=mix(predicted.heading, lane.heading),
            curvature=mix(predicted.curvature, lane.curvature),
            width=mix(predicted.width, lane.width),
            confidence=mix(predicted.confidence, lane.confidence),
        )
