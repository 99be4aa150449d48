"""Parses regions, zones and counting lines, which are given as fractions of the image."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from camapp.core.predictions import Point

T = TypeVar("T")
Roi = tuple[float, float, float, float]

# Names are parts of file names, URLs and MQTT topics.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
NAME_RULE = "letters, digits, - and _, at most 63 of them"
# Limits that keep the image legible and the topics few.
MAX_PLACES, MAX_CORNERS = 32, 64


@dataclass(frozen=True)
class Zone:
    """An area of the image by its corners, in order; the last one is joined to the first."""

    name: str
    corners: tuple[Point, ...]


@dataclass(frozen=True)
class CountingLine:
    """A line that counts what crosses it."""

    name: str
    start: Point
    end: Point


@dataclass(frozen=True)
class Region:
    """A part of the image that is watched as a camera of its own, with its own model unless that is ""."""

    name: str
    roi: Roi
    model: str


def parse_regions(texts: Sequence[str]) -> tuple[Region, ...]:
    """Parse each 'NAME=x,y,width,height' or 'NAME=x,y,width,height:MODEL'; raises ValueError likewise."""
    return tuple(Region(name, *rest) for name, rest in _named(texts, _rectangle).items())


def check_roi(roi: Roi) -> None:
    """Raise ValueError unless the rectangle (x, y, width, height) lies in the image and is not empty."""
    x, y, width, height = roi
    if min(roi) < 0 or min(width, height) <= 0 or max(x + width, y + height) > 1:
        raise ValueError("must lie in the image: x + width and y + height at most 1, both above 0")


def parse_zones(texts: Sequence[str]) -> tuple[Zone, ...]:
    """Parse each 'NAME=x,y x,y x,y ...'; raises ValueError if one is not allowed, or two have the same name."""
    return tuple(Zone(name, points) for name, points in _named(texts, _corners).items())


def parse_lines(texts: Sequence[str]) -> tuple[CountingLine, ...]:
    """Parse each 'NAME=x,y,x,y'; raises ValueError if one is not allowed, or two have the same name."""
    return tuple(CountingLine(name, *points) for name, points in _named(texts, _ends).items())


def place_name(text: str) -> str:
    """Return the name in 'NAME=...'."""
    return text.partition("=")[0].strip()


def turn(a: Point, b: Point, c: Point) -> float:
    """Return twice the area of the triangle: above 0 if, in an image, c lies right of the way from a to b."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def segments_meet(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Return whether the segments a-b and c-d have a point in common."""
    sides = turn(a, b, c), turn(a, b, d), turn(c, d, a), turn(c, d, b)
    if sides[0] * sides[1] < 0 and sides[2] * sides[3] < 0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(side == 0 and _between(*points) for side, points in zip(sides, ends, strict=True))


def _between(a: Point, b: Point, c: Point) -> bool:
    """Return whether c, which is in line with a and b, lies between them."""
    return all(min(a[i], b[i]) <= c[i] <= max(a[i], b[i]) for i in (0, 1))


def _named(texts: Sequence[str], parse: Callable[[str], T]) -> dict[str, T]:
    if len(texts) > MAX_PLACES:
        raise ValueError(f"{len(texts)} are given; at most {MAX_PLACES} are allowed")
    found: dict[str, T] = {}
    for text in texts:
        name, sign, rest = (part.strip() for part in text.partition("="))
        if not sign or not NAME.fullmatch(name):
            raise ValueError(f"'{text}' does not begin with NAME=; a name is {NAME_RULE}")
        if name in found:
            raise ValueError(f"two are named '{name}'; give each a different name")
        try:
            found[name] = parse(rest)
        except ValueError as error:
            raise ValueError(f"'{name}' {error}") from None
    return found


def _rectangle(text: str) -> tuple[Roi, str]:
    numbers, sign, model = (part.strip() for part in text.partition(":"))
    if sign and not model:
        raise ValueError("ends with a colon; name the model behind it")
    ((x, y), (width, height)) = _points(numbers, 2, "needs x,y,width,height, and :MODEL if it has its own")
    check_roi((x, y, width, height))
    return (x, y, width, height), model


def _corners(text: str) -> tuple[Point, ...]:
    points = [_points(part, 1, "needs corners x,y separated by spaces")[0] for part in text.split()]
    if len(points) > 1 and points[0] == points[-1]:
        # Some programs write the first corner again at the end.
        points.pop()
    if not 3 <= len(points) <= MAX_CORNERS:
        raise ValueError(f"has {len(points)} corners; a zone has 3 to {MAX_CORNERS}")
    if len(set(points)) < len(points):
        raise ValueError("has the same corner twice")
    edges = list(zip(points, points[1:] + points[:1], strict=True))
    for (i, (a, b)), (j, (c, d)) in combinations(enumerate(edges), 2):
        neighbours = j - i in (1, len(edges) - 1)
        if segments_meet(a, b, c, d) if not neighbours else _folds_back(*((a, b, d) if j - i == 1 else (c, d, b))):
            raise ValueError("crosses or touches itself; name the corners in their order around the zone")
    return tuple(points)


def _folds_back(a: Point, b: Point, c: Point) -> bool:
    """Return whether the way from b to c goes back over the way from a to b."""
    return turn(a, b, c) == 0 and (b[0] - a[0]) * (c[0] - b[0]) + (b[1] - a[1]) * (c[1] - b[1]) < 0


def _ends(text: str) -> tuple[Point, ...]:
    start, end = _points(text, 2, "needs two ends x,y,x,y")
    if start == end:
        raise ValueError("begins where it ends")
    return start, end


def _points(text: str, count: int, need: str) -> list[Point]:
    """Parse numbers separated by commas."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{need}, not '{text}'") from None
    if len(numbers) != 2 * count:
        raise ValueError(f"{need}, not '{text}'")
    if outside := [number for number in numbers if not 0 <= number <= 1]:
        raise ValueError(f"leaves the image at {outside[0]:g}; numbers are fractions of the image, 0 to 1")
    return list(zip(numbers[::2], numbers[1::2], strict=True))
