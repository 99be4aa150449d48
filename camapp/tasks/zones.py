"""Counts tracked objects in zones and across lines.

An object is where it stands: at its foot point, the middle of the lower edge of its box.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from camapp.core.predictions import LineState, Point, ZoneState
from camapp.core.zones import CountingLine, Zone, turn
from camapp.tasks.tracker import Followed

# An object is inside, or on the other side, once its foot point is beyond the border by this share of its size, and a
# pixel: boxes of things that stand still jump about.
MARGIN, MARGIN_PX = 0.08, 1.0
# Objects that were not seen for this long are forgotten; the tracker gives them up earlier.
FORGOTTEN_S = 10.0


@dataclass(slots=True)
class _Visit:
    """What is known of one object at one zone: whether it is inside, and since when."""

    inside: bool
    since_ns: int
    seen_ns: int


class ZoneCounter:
    """Counts the objects of a zone. One that is inside when it is first seen has not entered."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._visits: dict[int, _Visit] = {}
        self._entered: Counter[str] = Counter()
        self._left: Counter[str] = Counter()

    def update(self, objects: Sequence[Followed], now_ns: int, size: Point) -> ZoneState:
        """Take the objects of now in a view of that size in pixels."""
        outline = tuple((x * size[0], y * size[1]) for x, y in self._zone.corners)
        for item in objects:
            if item.seen:
                self._see(item, _depth(_well_in_view(item, size), outline), now_ns)
        _forget(self._visits, now_ns)
        inside = [item for item in objects if (visit := self._visits.get(item.number)) and visit.inside]
        dwell_ns = max((now_ns - self._visits[item.number].since_ns for item in inside), default=0)
        return ZoneState(
            self._zone.name,
            outline,
            dict(Counter(item.label for item in inside)),
            dict(self._entered),
            dict(self._left),
            dwell_ns / 1e9,
        )

    def _see(self, item: Followed, depth: float, now_ns: int) -> None:
        visit = self._visits.get(item.number)
        if visit is None:
            self._visits[item.number] = _Visit(depth > 0, now_ns, now_ns)
            return
        visit.seen_ns = now_ns
        if abs(depth) > _margin(item) and (depth > 0) != visit.inside:
            visit.inside, visit.since_ns = depth > 0, now_ns
            (self._entered if visit.inside else self._left)[item.label] += 1


@dataclass(slots=True)
class _Passage:
    """What is known of one object at one line.

    Attributes:
        side: -1 left, 1 right, 0 not known yet.
        foot: where it was seen last.
        through: whether its way since it was last beyond the margin leads through the line, not around its ends.
    """

    side: int
    foot: Point
    through: bool
    seen_ns: int


class LineCounter:
    """Counts the crossings of a line; see `LineState` for the directions."""

    def __init__(self, line: CountingLine) -> None:
        self._line = line
        self._passages: dict[int, _Passage] = {}
        self._into: Counter[str] = Counter()
        self._out: Counter[str] = Counter()

    def update(self, objects: Sequence[Followed], now_ns: int, size: Point) -> LineState:
        """Take the objects of now in a view of that size in pixels."""
        start, end = ((x * size[0], y * size[1]) for x, y in (self._line.start, self._line.end))
        for item in objects:
            if item.seen:
                self._see(item, start, end, now_ns)
        _forget(self._passages, now_ns)
        return LineState(self._line.name, start, end, dict(self._into), dict(self._out))

    def _see(self, item: Followed, start: Point, end: Point, now_ns: int) -> None:
        offset = turn(start, end, item.foot) / math.dist(start, end)
        side = 0 if abs(offset) <= _margin(item) else 1 if offset > 0 else -1
        passage = self._passages.get(item.number)
        if passage is None:
            self._passages[item.number] = _Passage(side, item.foot, False, now_ns)
            return
        passage.through ^= _leads_through(passage.foot, item.foot, start, end)
        passage.foot, passage.seen_ns = item.foot, now_ns
        if side:
            if side == -passage.side and passage.through:
                (self._into if side > 0 else self._out)[item.label] += 1
            passage.side, passage.through = side, False


class Counting:
    """Counts at all zones and lines of a camera. The totals outlive a lost source, after which objects are new."""

    def __init__(self, zones: Sequence[Zone] = (), lines: Sequence[CountingLine] = ()) -> None:
        self._zones = {zone: ZoneCounter(zone) for zone in zones}
        self._lines = {line: LineCounter(line) for line in lines}

    def take_over(self, previous: Counting) -> None:
        """Continue what `previous` has counted at the zones and lines that are the same."""
        self._zones |= {zone: counter for zone, counter in previous._zones.items() if zone in self._zones}
        self._lines |= {line: counter for line, counter in previous._lines.items() if line in self._lines}

    def update(
        self, objects: Sequence[Followed], now_ns: int, size: Point
    ) -> tuple[tuple[ZoneState, ...], tuple[LineState, ...]]:
        """Return the states after the objects of now, in a view of that size in pixels."""
        zones = tuple(zone.update(objects, now_ns, size) for zone in self._zones.values())
        return zones, tuple(line.update(objects, now_ns, size) for line in self._lines.values())


def _well_in_view(item: Followed, size: Point) -> Point:
    """Return the foot point, moved away from the view's border: a zone that ends there holds what is cut off by it."""
    x, y = (
        min(max(value, room), side - room)
        for value, side in zip(item.foot, size, strict=True)
        for room in (min(2 * _margin(item), side / 2),)
    )
    return x, y


def _leads_through(before: Point, now: Point, start: Point, end: Point) -> bool:
    """Return whether a step leads across the line; a point on the line is right of it."""
    crosses = (turn(start, end, before) < 0) != (turn(start, end, now) < 0)
    return crosses and turn(before, now, start) * turn(before, now, end) <= 0


def _margin(item: Followed) -> float:
    return MARGIN * item.size + MARGIN_PX


def _forget(known: dict[int, _Visit] | dict[int, _Passage], now_ns: int) -> None:
    for number in [number for number, item in known.items() if not 0 <= now_ns - item.seen_ns <= FORGOTTEN_S * 1e9]:
        del known[number]


def _depth(point: Point, outline: Sequence[Point]) -> float:
    """Return the distance of a point from the border of a polygon; below 0 if it is outside."""
    inside, nearest = False, math.inf
    x, y = point
    for (ax, ay), (bx, by) in zip(outline, [*outline[1:], outline[0]], strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            inside = not inside
        dx, dy = bx - ax, by - ay
        share = min(1.0, max(0.0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)))
        nearest = min(nearest, math.hypot(ax + share * dx - x, ay + share * dy - y))
    return nearest if inside else -nearest
