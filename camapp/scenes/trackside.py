"""Makes random tracks: taped floors, chalked grass, rubber, asphalt; with cameras, weather, marks and clutter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats
from camapp.core.ground_camera import GroundCamera
from camapp.scenes.course import DEFAULT_LANE, Course, Pose, Rgb, Stripe, bending
from camapp.scenes.decoys import coverings, papers, scenery, tapes
from camapp.scenes.photograph import Look

Rng = np.random.Generator

KINDS = ("floor", "grass", "rubber", "asphalt")
YELLOW = (226.0, 200.0, 60.0)
# Share of views without any line.
EMPTY_SHARE = 0.17


@dataclass(frozen=True)
class View:
    """Everything that one image shows, with the `values` that the track task should report (`Course.values`).

    The stripes are in the car's ground frame.
    """

    camera: GroundCamera
    stripes: tuple[Stripe, ...]
    look: Look
    values: dict[str, float]


def random_view(rng: Rng, size: tuple[int, int], kind: str | None = None) -> View:
    """Return a random view of a random track, of a random kind if None is given; one in six has no line at all."""
    kind = kind or str(rng.choice(KINDS, p=(0.45, 0.25, 0.14, 0.16) if size[0] > size[1] else (0.2, 0.45, 0.2, 0.15)))
    empty = rng.random() < EMPTY_SHARE
    road = kind == "asphalt" and not empty and rng.random() < 0.35
    camera = random_camera(kind, size, rng, road)
    course, pose = _course(kind, camera, rng, road)
    lines = [] if empty else paint(kind, course, rng)
    if not empty and rng.random() < (0.6 if kind == "floor" else 0.3):
        lines += _distant_part(kind, course, rng)
    look = random_look(kind, camera, rng, stray=0.7 if empty else 0.15)
    look = replace(look, **scenery(kind, camera, rng, empty))
    if rng.random() < (0.3 if kind == "floor" else 0.08):
        look = replace(look, patches=[*look.patches, *papers(camera, rng)])
    decoys: list[Stripe] = []
    if rng.random() < (0.4 if empty else 0.15):
        decoys += coverings(course, camera.height, rng, empty)
    if rng.random() < (0.6 if empty and kind == "floor" else 0.25):
        decoys += tapes(course, float(np.mean(look.ground)), rng, empty)
    stripes = [*decoys, *marks(kind, course, rng, empty), *lines]
    return View(camera, tuple(stripe.seen_from(pose) for stripe in stripes), look, {} if empty else course.values(pose))


def random_camera(kind: str, size: tuple[int, int], rng: Rng, road: bool = False) -> GroundCamera:
    """Return a random camera, on a small car or carried over a running track, or behind a windscreen on a `road`."""
    rarely = (0.35 if kind == "grass" else 0.6) * (0.4 if size[1] > size[0] else 1.0)
    low = kind == "floor" or (rng.random() < rarely and not road)
    height = float(
        np.exp(rng.uniform(math.log(0.1), math.log(0.45)) if low else rng.uniform(math.log(0.5), math.log(1.8)))
    )
    if low and rng.random() < 0.6:
        bend, across = rng.uniform(0.4, 1.25), math.radians(rng.uniform(85, 150))
    else:
        bend, across = rng.uniform(0, 0.3), math.radians(rng.uniform(45, 85))
    camera = GroundCamera.of(size, height, 0.0, across, bend=bend)
    # Beyond this the corners would look backwards.
    while math.hypot(*size) / 2 / camera.focal[0] * bend > 1.35:
        across *= 0.94
        camera = GroundCamera.of(size, height, 0.0, across, bend=bend)
    # The horizon is in the upper part of the image, in portrait images often at the top; the lens gives its angle.
    up = rng.uniform(0.3 if size[1] > size[0] and rng.random() < 0.6 else 0.02, 0.5) * size[1] / camera.focal[1]
    pitch = math.atan(math.tan(up * bend) / (2 * math.tan(bend / 2)) if bend > 0.01 and up * bend < 1.4 else up)
    roll = math.radians(rng.normal(0, 2.5 if low else 1.5))
    return GroundCamera.of(size, height, min(pitch, 0.9), across, roll, bend)


def _course(kind: str, camera: GroundCamera, rng: Rng, road: bool) -> tuple[Course, Pose]:
    winding = kind == "grass" and rng.random() < 0.35
    if kind == "floor":
        lane = camera.height * float(np.exp(rng.uniform(math.log(1.2), math.log(5))))
        lanes = int(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05]))
    else:
        lane = DEFAULT_LANE * (rng.uniform(0.75, 1.25) if rng.random() < 0.4 else 1.0)
        if camera.height < 0.5 and rng.random() < 0.5:
            lane = rng.uniform(0.4, 1.0)
        lanes = int(rng.integers(1, 9)) if kind != "asphalt" else int(rng.integers(1, 4))
        if road:
            lane = rng.uniform(2.5, 3.8)
        elif winding:
            # A robots' course: one wide lane that winds over a lawn.
            lane, lanes = camera.height * rng.uniform(1.2, 4.5), 1
    half = lanes * lane / 2
    borders = tuple(float(edge) for edge in np.linspace(-half, half, lanes + 1))
    max_curvature = 0.75 / (half + lane)
    if kind == "floor":
        # Hairpins, too tight for a car to follow the middle of its lane.
        if lanes == 1 and rng.random() < 0.35:
            max_curvature = 1.6 / lane
        bends = np.clip(rng.normal(0, 0.45 / lane) + rng.normal(0, 0.5 / lane, 5), -max_curvature, max_curvature)
        if lanes == 1 and rng.random() < 0.12:
            # A hairpin or a sharp corner after a straight.
            turn = [0.05, 1.6, rng.uniform(-0.2, 1.6), 0.0, 0.0, 0.0]
            bends = rng.choice([-1, 1]) / lane * np.concatenate([[0.0], np.roll(turn, rng.integers(3))])
        reach = 14 * lane
    elif winding:
        bends = np.clip(rng.normal(0, 0.35 / lane, 6), -0.9 / lane, 0.9 / lane)
        reach = 14 * lane
    else:
        bend = rng.normal(0, 0.05 / lane) if rng.random() < 0.6 else 0.0
        bends = np.clip(bend + rng.normal(0, 0.025 / lane, 4) * (rng.random() < 0.5), -max_curvature, max_curvature)
        reach = 60 * lane
    course = bending(reach, bends, borders, back=4 * lane)
    chosen = rng.integers(lanes)
    offset = (borders[chosen] + borders[chosen + 1]) / 2 + rng.uniform(-0.42, 0.42) * lane
    spread = (14 if rng.random() < 0.6 else 55) if kind == "floor" else (6 if rng.random() < 0.8 else 25)
    if winding:
        spread = 30
    turned = math.radians(float(np.clip(rng.normal(0, spread), -95, 95)))
    if kind == "floor" and rng.random() < 0.2:
        offset += rng.uniform(-1, 1) * lane
    return course, course.pose(0.0, offset, turned)


def paint(kind: str, course: Course, rng: Rng) -> list[Stripe]:
    """Return the lines on a course's borders, with random width, colour, wear and dashes."""
    lane = course.borders[1] - course.borders[0]
    width = lane * (rng.uniform(0.05, 0.16) if kind == "floor" else rng.uniform(0.025, 0.09))
    if kind != "floor":
        # Paint on wide lanes is no broader.
        width = min(width, rng.uniform(0.05, 0.12))
    white = rng.uniform(205, 255) * np.array([1, rng.uniform(0.96, 1), rng.uniform(0.88, 1)])
    colour = (float(white[0]), float(white[1]), float(white[2]))
    wear = rng.uniform(0, 0.6) if rng.random() < (0.15 if kind == "floor" else 0.35) else 0.0
    cover = rng.uniform(0.4, 0.95) if kind in ("grass", "asphalt") else rng.uniform(0.85, 1)
    inner = None
    if rng.random() < {"floor": 0.2, "asphalt": 0.45}.get(kind, 0.06):
        on = lane * rng.uniform(0.3, 1.5)
        inner = (on, on * rng.uniform(0.4, 3.0 if kind == "asphalt" else 1.2))
    double = kind == "floor" and rng.random() < 0.45
    # Tape is often laid in straight pieces, with sharp corners.
    corners = _corners(course, rng) if kind == "floor" and rng.random() < 0.35 else None
    stripes = []
    for i, border in enumerate(course.borders):
        outer = i in (0, len(course.borders) - 1)
        dash = None if outer and rng.random() < 0.8 else inner
        if double and outer and rng.random() < 0.75:
            apart = width * rng.uniform(1.3, 2.2)
            offsets = [border - apart / 2, border + apart / 2]
        else:
            offsets = [border]
        paths = [course.beside(at) for at in offsets]
        if corners is not None:
            paths = [_straightened(path, corners) for path in paths]
        stripes += [Stripe(path, width, colour, cover=cover, wear=wear, dash=dash) for path in paths]
    return stripes


def _corners(course: Course, rng: Rng) -> NDArray[np.intp]:
    """Return the indices of the points of a course between which tape is straight."""
    lane = course.borders[1] - course.borders[0]
    places = course.along[0] + np.cumsum(lane * rng.uniform(0.3, 1.6, 80))
    inner = np.searchsorted(course.along, places[places < course.along[-1]])
    return np.unique(np.concatenate([[0], inner, [len(course.along) - 1]]))


def _straightened(path: Floats, corners: NDArray[np.intp]) -> Floats:
    """Return a path that is straight between some of its points; it has the same number of points."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    return np.stack([np.interp(along, along[corners], path[corners, axis]) for axis in (0, 1)], axis=1)


def _distant_part(kind: str, course: Course, rng: Rng) -> list[Stripe]:
    """Return the lines of another, distant part of the same circuit."""
    lane = course.borders[1] - course.borders[0]
    max_curvature = rng.choice([0.7, 1.6]) / lane
    bends = np.clip(rng.normal(0, 0.6 * max_curvature, 4), -max_curvature, max_curvature)
    other = bending(12 * lane, bends, (-lane / 2, lane / 2))
    beyond = max(abs(course.borders[0]), abs(course.borders[-1])) + lane * rng.uniform(1.0, 2.5)
    side = 1 if rng.random() < 0.5 else -1
    away = rng.uniform(-1, 5) * lane
    # It starts beside the course and leads away from it, so that lines do not cross near the car.
    start = course.pose(away, side * beyond)
    turn = start.heading + side * math.radians(rng.uniform(0, 130))
    sine, cosine = math.sin(turn), math.cos(turn)
    frame = np.array([[cosine, -sine], [sine, cosine]])
    return [
        Stripe(stripe.path @ frame + (start.x, start.y), stripe.width, stripe.colour, cover=stripe.cover)
        for stripe in paint(kind, other, rng)
    ]


def marks(kind: str, course: Course, rng: Rng, empty: bool = False, start: float = 0.0) -> list[Stripe]:
    """Return marks that are not lane lines, over a dozen lane widths: stop lines, numbers, kerbs, seams and cracks.

    They begin `start` metres along the course, which is `empty` if it has no lines.
    """
    lane = course.borders[1] - course.borders[0]
    stripes: list[Stripe] = []

    def across(along: float, low: float, high: float, width: float, colour: Rgb) -> Stripe:
        index = _index_at(course, start + along)
        ends = np.array([course.beside(offset)[index] for offset in np.linspace(low, high, 12)])
        return Stripe(ends, width, colour, is_line=False, cover=0.95)

    if rng.random() < (0.3 if kind == "floor" else 0.08):
        tone = rng.uniform(0.6, 1.1)
        colour = (YELLOW[0] * tone, YELLOW[1] * tone * rng.uniform(0.85, 1.1), YELLOW[2] * rng.uniform(0.3, 1.4))
        stripes.append(
            across(
                rng.uniform(0.1, 6) * lane,
                course.borders[0],
                course.borders[-1],
                rng.uniform(0.05, 0.9) * lane,
                colour,
            )
        )
    if kind != "floor" and not empty and rng.random() < 0.3:
        edge = rng.choice(course.borders)
        reach = lane * rng.uniform(0.1, 0.5) * rng.choice([-1, 1])
        for _ in range(rng.integers(1, 4)):
            along = rng.uniform(0.5, 12) * lane
            stripes.append(
                across(along, min(edge, edge + reach), max(edge, edge + reach), 0.04 * lane, (235.0, 235.0, 232.0))
            )
    # Start, finish and hand-over lines.
    if kind != "floor" and not empty and rng.random() < 0.12:
        low, high = sorted(rng.uniform(-1.5, 1.5, 2) * lane + (course.borders[0], course.borders[-1]))
        stripes.append(
            across(rng.uniform(0.8, 12) * lane, low, high, rng.uniform(0.03, 0.09) * lane, (235.0, 235.0, 232.0))
        )
    # Kerbs run along the whole course.
    if not start and kind != "floor" and rng.random() < (0.45 if empty else 0.12):
        stripes += _kerbs(course, lane, rng)
    if not empty and rng.random() < (0.12 if kind == "floor" else 0.25):
        stripes += _lane_number(course, lane, rng, start)
    for _ in range(rng.poisson(0.8)):
        heading, length = rng.uniform(0, math.pi), 12 * lane
        aside, along = rng.uniform(-3, 3) * lane, rng.uniform(0, 8) * lane
        middle = course.beside(aside)[_index_at(course, start + along)]
        reach = np.linspace(-length, length, 40)[:, None] * [math.sin(heading), math.cos(heading)]
        wobble = np.cumsum(rng.normal(0, 0.01 * lane, (40, 2)), axis=0) * (kind != "floor")
        dark = rng.uniform(0, 50)
        path = middle + reach + wobble
        stripes.append(
            Stripe(path, 0.012 * lane * rng.uniform(0.5, 2), (dark, dark, dark), False, rng.uniform(0.2, 0.8))
        )
    return stripes


def _kerbs(course: Course, lane: float, rng: Rng) -> list[Stripe]:
    """Return kerbs along a path: stones or bricks, end to end, of any colour except white."""
    stripes = []
    stone = lane * rng.uniform(0.05, 0.4)
    tone = rng.uniform(30, 165) * np.array([1, rng.uniform(0.45, 1), rng.uniform(0.4, 1)])
    for border in (course.borders[0], course.borders[-1]):
        path, width = course.beside(border * rng.uniform(1.02, 1.4)), lane * rng.uniform(0.03, 0.14)
        dash = (stone * rng.uniform(0.7, 0.95), stone * rng.uniform(0.05, 0.3)) if rng.random() < 0.7 else None
        wear = rng.uniform(0, 0.5)
        # Its shadow, or the earth beside it.
        if rng.random() < 0.6:
            dark = width * rng.uniform(1.3, 2.5)
            stripes.append(Stripe(path, dark, (20.0, 18.0, 15.0), False, rng.uniform(0.3, 0.9)))
        stripes.append(Stripe(path, width, _rgb(tone), False, 0.95, wear, dash))
        # Its side, under different light.
        if rng.random() < 0.5:
            aside = course.beside(border * rng.uniform(1.02, 1.4) + width * 0.4)
            stripes.append(Stripe(aside, width * 0.4, _rgb(tone * rng.uniform(0.5, 1.35)), False, 0.9, wear, dash))
    return stripes


def _index_at(course: Course, along: float) -> int:
    return int(np.clip(np.searchsorted(course.along, along), 0, len(course.along) - 1))


# Segments of a digit on a 2 x 4 grid: top, upper right, lower right, bottom, lower left, upper left, middle.
_SEGMENTS = np.array([[[0, 4], [2, 4]], [[2, 4], [2, 2]], [[2, 2], [2, 0]], [[2, 0], [0, 0]], [[0, 0], [0, 2]],
                      [[0, 2], [0, 4]], [[0, 2], [2, 2]]], float)  # fmt: skip
_DIGITS = ("012345", "12", "01643", "01236", "5612", "05623", "056234", "012", "0123456", "012356")


def _lane_number(course: Course, lane: float, rng: Rng, start: float) -> list[Stripe]:
    """Return the lane's number, painted in its middle."""
    place = course.pose(start + rng.uniform(0.8, 6) * lane, course.borders[0] + lane / 2)
    size = lane * rng.uniform(0.06, 0.13)
    frame = np.array(
        [[math.cos(place.heading), -math.sin(place.heading)], [math.sin(place.heading), math.cos(place.heading)]]
    )
    strokes = (_SEGMENTS[[int(segment) for segment in _DIGITS[rng.integers(10)]]] - (1, 2)) * size @ frame
    strokes += (place.x, place.y)
    return [Stripe(np.linspace(start, end, 4), size * 0.5, (235.0, 235.0, 235.0), False) for start, end in strokes]


def random_look(kind: str, camera: GroundCamera, rng: Rng, stray: float = 0.15) -> Look:
    """Return a random look: ground, light, weather and sensor; the camera determines the apparent size of things.

    `stray` is the probability that the ground consists of several parts with edges between them.
    """
    high = camera.height
    reach = high * float(np.exp(rng.uniform(math.log(6), math.log(40)))) if kind == "floor" else 25 + 60 * rng.random()
    fast = rng.random() < (0.4 if high < 0.5 else 0.15)
    angle = rng.normal(0, 0.4) if rng.random() < 0.8 else rng.uniform(0, math.pi)
    smear = rng.exponential(0.018) if fast else 0.0
    rows, columns = (int(side) for side in rng.integers(2, 6, 2))
    uneven = rng.uniform(0.0, 0.3)
    cast = 1 + rng.normal(0, 0.05, 3) + (rng.normal(0, 0.13, 3) if rng.random() < 0.2 else 0)
    return Look(
        **_SURFACES[kind](high, rng),
        reach=reach,
        patches=_patches(high, rng, stray),
        backdrop=1 if kind == "floor" else int(rng.choice([0, 1, 2], p=[0.7, 0.15, 0.15])),
        bumper=_bumper(rng) if rng.random() < (0.45 if kind == "floor" else 0.1) else (),
        light=np.clip(
            rng.normal(rng.uniform(0.6, 1.6 if kind == "grass" else 1.25), uneven, (rows, columns)), 0.25, 1.9
        ),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        haze=float(rng.uniform(0.05, 0.5)) if rng.random() < (0.45 if kind == "grass" else 0.12) else 0.0,
        glare=[
            (rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.15), rng.uniform(30, 190), rng.uniform(0.4, 3))
            for _ in range(rng.poisson(0.7))
        ],
        exposure=_exposure(rng),
        gamma=float(rng.uniform(0.7, 1.35)),
        blur=float(rng.exponential(0.0025)) + (0.001 if kind == "floor" else 0.0),
        motion=(math.cos(angle) * smear, math.sin(angle) * smear),
        sharpened=float(rng.uniform(0.3, 1.8)) if rng.random() < 0.4 else 0.0,
        noise=float(rng.exponential(3.0)),
        jpeg=int(rng.integers(35, 95)) if rng.random() < 0.35 else 0,
        seed=int(rng.integers(1 << 31)),
    )


def _exposure(rng: Rng) -> float:
    """Return the mean level: of some images dark or over-exposed, and 0, for none, of others."""
    low, high = ((75, 150), (25, 75), (150, 190))[rng.choice(3, p=(0.78, 0.12, 0.1))]
    return float(rng.uniform(low, high)) if rng.random() < 0.88 else 0.0


def _floor(high: float, rng: Rng) -> dict[str, Any]:
    tone = rng.uniform(30, 120) if rng.random() < 0.7 else rng.uniform(120, 195)
    ground = tone * (1 + rng.normal(0, 0.06 if rng.random() < 0.4 else 0.02, 3))
    if rng.random() < 0.15:
        # Wood.
        ground = tone * rng.uniform(0.9, 1.2) * np.array([1.15, rng.uniform(0.75, 0.95), rng.uniform(0.35, 0.7)])
    return {"ground": _rgb(ground), "grain": float(rng.exponential(2.5)), "grain_size": high * rng.uniform(0.02, 0.1)}


def _grass(high: float, rng: Rng) -> dict[str, Any]:
    dry = rng.random()
    ground = rng.uniform(0.6, 1.4) * ((1 - dry) * np.array([84, 112, 58]) + dry * np.array([160, 158, 124]))
    if rng.random() < 0.2:
        # Leaves and earth between the blades.
        ground = ground * (1.1, 0.85, rng.uniform(0.8, 1.2))
    return {
        "ground": _rgb(ground),
        "grain": rng.uniform(14, 42),
        "grain_size": rng.uniform(0.006, 0.02),
        "streak": rng.uniform(0.7, 2),
        "ragged": rng.uniform(0.4, 1.8),
    }


def _rubber(high: float, rng: Rng) -> dict[str, Any]:
    colours = ((150, 66, 50), (168, 84, 62), (46, 84, 150), (58, 120, 84), (120, 60, 60), (90, 100, 140))
    ground = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.65, 1.35)
    return {"ground": _rgb(ground), "grain": rng.uniform(3, 18), "grain_size": rng.uniform(0.003, 0.01)}


def _asphalt(high: float, rng: Rng) -> dict[str, Any]:
    ground = rng.uniform(50, 150) * (1 + rng.normal(0, 0.03, 3))
    return {
        "ground": _rgb(ground),
        "grain": rng.uniform(5, 26),
        "grain_size": rng.uniform(0.003, 0.012),
        "ragged": rng.uniform(0, 0.3),
    }


_SURFACES: dict[str, Callable[[float, Rng], dict[str, Any]]] = {
    "floor": _floor,
    "grass": _grass,
    "rubber": _rubber,
    "asphalt": _asphalt,
}


def _rgb(values: Floats) -> Rgb:
    return float(values[0]), float(values[1]), float(values[2])


def _patches(high: float, rng: Rng, stray: float) -> list[tuple[Floats, Rgb, float]]:
    """Return shadows, and with probability `stray` paths and verges: broad areas with edges that are not lines."""
    patches: list[tuple[Floats, Rgb, float]] = []
    if rng.random() < stray:
        for _ in range(rng.integers(1, 4)):
            heading, at = rng.normal(0, 0.6), high * rng.normal(0, 3)
            ahead, right = (
                np.array([math.sin(heading), math.cos(heading)]),
                np.array([math.cos(heading), -math.sin(heading)]),
            )
            # A narrower one would look like a line.
            width = high * rng.uniform(1.4, 6)
            bow = rng.normal(0, 0.3) * high
            outline = [at * right + t * 40 * high * ahead + bow * (3 * t) ** 2 * right for t in np.linspace(-0.2, 1, 6)]
            outline += [point + width * right * rng.uniform(0.8, 1.2) for point in outline[::-1]]
            tone = rng.uniform(40, 215) * rng.uniform([0.95, 0.9, 0.75], [1.1, 1.0, 1.0])
            patches.append((np.array(outline), _rgb(tone), float(rng.uniform(0.3, 1))))
    for _ in range(rng.poisson(0.6)):
        middle = high * np.array([rng.normal(0, 4), rng.uniform(0.5, 12)])
        corners = int(rng.integers(3, 8))
        turns = np.sort(rng.uniform(0, math.tau, corners))
        reach = high * rng.uniform(0.3, 4)
        shadow = middle + reach * np.stack([np.cos(turns) * rng.uniform(1, 3), np.sin(turns)], axis=1)
        patches.append((shadow, (0.0, 0.0, 8.0), float(rng.uniform(0.1, 0.5))))
    return patches


def _bumper(rng: Rng) -> list[Floats]:
    """Return a dark bar along the lower edge of the image, often with two rods."""
    top = rng.uniform(0.88, 0.985)
    left, right = rng.uniform(-0.1, 0.3), rng.uniform(0.7, 1.1)
    parts = [np.array([[left, 1.1], [left + 0.04, top], [right - 0.04, top], [right, 1.1]])]
    if rng.random() < 0.7:
        lean, tall, thick = rng.uniform(-0.02, 0.09), rng.uniform(0.05, 0.22), rng.uniform(0.008, 0.03)
        for x, side in ((rng.uniform(0.2, 0.35), -1), (rng.uniform(0.65, 0.8), 1)):
            parts.append(np.array([[x, top + 0.05], [x + side * lean, top - tall],
                                   [x + side * lean + thick, top - tall], [x + thick, top + 0.05]]))  # fmt: skip
    return parts
