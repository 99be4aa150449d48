"""Finds how a camera sits from points of known place on the ground: named, clicked, or a chessboard's corners."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from camapp.capture.images import read_image
from camapp.core.arrays import Floats, Pixels
from camapp.core.errors import SettingsError
from camapp.core.ground_camera import GroundCamera
from camapp.core.settings import ALIASES, load_cameras, parse_size

FEWEST = 4
DISTINCT = 0.01  # of 0 to about 0.3: how well the points tell one view of the ground from another
WORST = 0.01  # of the image's width: points that fit no better were measured wrongly
STEPS = 60
UNKNOWN = 7  # pitch, roll, log of height and of focal length; where the points' own axes lie: x, y, turn


CORNERS = ("the near left corner", "the near right one", "the far right one", "the far left one")


def run_calibration(
    image: Path,
    points: Sequence[str],
    board: str | None,
    square: float,
    bend: float,
    into: Path,
    rectangle: str | None = None,
) -> str:
    """What `camapp calibrate-track` does; the line to print.

    Raises:
        SettingsError: the image, the points, the clicks or the chessboard do not do, or the file cannot be written.
    """
    try:
        seen = read_image(image)
        size = seen.width, seen.height
        if bool(points) + bool(board) + bool(rectangle) != 1:
            raise ValueError(
                "name either four --point X,Y=RIGHT,AHEAD or more, or a --rectangle WxD to click, or a --chessboard CxR"
            )
        if board:
            pixels, ground = chessboard(seen.rgb(), *parse_size(board), square)
        elif rectangle:
            from camapp.commands.clicks import ask_for  # only here: nothing else needs a window

            ground = corners(rectangle)
            pixels = ask_for(seen.rgb(), CORNERS)
        else:
            pairs = np.array([parse_point(point) for point in points])
            pixels, ground = pairs[:, 0], pairs[:, 1]
        camera = fit_camera(size, pixels, ground, math.radians(bend))
    except (ValueError, OSError) as error:
        raise SettingsError(f"{image}: {getattr(error, 'strerror', None) or error}") from error
    try:
        store(camera, into)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{into}: {getattr(error, 'strerror', None) or error}") from error
    return (
        f"{into}: the camera is {camera.height:.3f} m over the ground, looks down by {math.degrees(camera.pitch):.1f} "
        f"degrees, leans by {math.degrees(camera.roll):.1f} and sees {math.degrees(camera.across):.1f}; "
        f"use it with --config {into}"
    )


def fit_camera(size: tuple[int, int], pixels: Floats, ground: Floats, bend: float = 0.0) -> GroundCamera:
    """The camera that sees points of the ground at those pixels.

    Args:
        size: (width, height) of the image.
        pixels: (n, 2), n at least 4.
        ground: (n, 2) metres, to the right and ahead of any point, along any direction.
        bend: barrel distortion of the lens, radians.

    Raises:
        ValueError: too few points, on one line, folded over themselves, or seen so by no camera.
    """
    if len(pixels) != len(ground) or len(pixels) < FEWEST:
        raise ValueError(f"a calibration needs at least {FEWEST} points, each with its pixel and its place")
    if not (np.isfinite(pixels).all() and np.isfinite(ground).all()):
        raise ValueError("the points of a calibration are finite numbers")
    _check_spread(pixels, ground)
    best, error = None, math.inf
    middle = ground.mean(axis=0)
    for pitch in (0.2, 0.5, 0.9):
        for turn in (0.0, math.pi / 2, math.pi, -math.pi / 2):
            reach = float(np.hypot(*(ground - middle).T).max())
            start = np.array([pitch, 0.0, math.log(reach), math.log(max(size)), 0.0, 2.0 * reach, turn])
            found, off = _refine(start, size, pixels, ground - middle, bend)
            if off < error:
                best, error = found, off
    if best is None or error > WORST * size[0]:
        raise ValueError(
            f"no camera sees these points so: the best is {error:.0f} pixels off; measure and pair them again"
        )
    return _camera(best, size, bend)


def chessboard(image: Pixels, columns: int, rows: int, square: float) -> tuple[Floats, Floats]:
    """Pixels (n, 2) and places (n, 2) of the inner corners of a chessboard that lies on the ground.

    Args:
        image: RGB.
        columns: of inner corners.
        rows: of inner corners.
        square: side of a field, metres.

    Raises:
        ValueError: it is not to be seen.
    """
    if min(columns, rows) < 3:
        raise ValueError(f"a chessboard of {columns} x {rows} inner corners is too small: 3 x 3 at least")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, corners = cv2.findChessboardCorners(grey, (columns, rows))
    if not found:
        raise ValueError(f"no chessboard of {columns} x {rows} inner corners in the image; is all of it in view?")
    near = (5, 5)
    corners = cv2.cornerSubPix(
        grey, corners, near, (-1, -1), (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    )
    x, y = np.meshgrid(np.arange(columns) * square, np.arange(rows) * square)
    ground = np.stack([x.ravel(), y.ravel()], axis=1)
    pixels = np.asarray(corners, np.float64).reshape(-1, 2) + 0.5  # OpenCV counts from a pixel's middle
    outline = [0, columns - 1, columns * rows - 1, columns * (rows - 1)]
    if _area(pixels[outline]) * _area(ground[outline]) > 0:
        ground[:, 0] *= -1  # the corners were counted the other way round
    return pixels, ground


def corners(text: str) -> Floats:
    """'0.6x1.2' -> the corners (4, 2) of a rectangle so wide and deep, metres, in the order of `CORNERS`.

    Raises:
        ValueError: it is no such size.
    """
    try:
        width, depth = (float(part) for part in text.split("x"))
        if not (0 < width < math.inf and 0 < depth < math.inf):
            raise ValueError
    except ValueError:
        raise ValueError(f"'{text}': a rectangle is WIDTHxDEPTH in metres, such as 0.6x1.2") from None
    return np.array([[0, 0], [width, 0], [width, depth], [0, depth]])


def parse_point(text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """'320,400=0.1,0.5' -> ((320, 400), (0.1, 0.5)): a pixel, and metres to the right and ahead.

    Raises:
        ValueError: it is written otherwise.
    """
    try:
        (x, y), (right, ahead) = ([float(part) for part in side.split(",")] for side in text.split("="))
    except ValueError:
        raise ValueError(
            f"'{text}': a point is X,Y=RIGHT,AHEAD in pixels and metres, such as 320,400=0.1,0.5"
        ) from None
    return (x, y), (right, ahead)


def store(camera: GroundCamera, file: Path) -> None:
    """Write the camera's settings into a TOML file, in the place of those it had; the rest of it stays.

    Raises:
        OSError: it cannot be read or written.
        SettingsError: it would be no settings file, or other values in it would outrank these.
    """
    values = {
        "camera_height": camera.height,
        "camera_pitch": math.degrees(camera.pitch),
        "camera_roll": math.degrees(camera.roll),
        "camera_hfov": math.degrees(camera.across),
        "camera_distortion": math.degrees(camera.bend),
    }
    old = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    # Before any table: what follows one's head belongs to it.
    tables = next((i for i, line in enumerate(old) if line.lstrip().startswith("[")), len(old))
    replaced = {*values, *(former for former, name in ALIASES.items() if name in values)}
    kept = [line for line in old[:tables] if line.partition("=")[0].strip() not in replaced]
    lines = [*kept, *(f"{name} = {round(value, 4)}" for name, value in values.items()), *old[tables:]]
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        _check_settings(partial, values)
        os.replace(partial, file)
    except SettingsError as error:
        raise SettingsError(str(error).replace(str(partial), str(file))) from None
    finally:
        partial.unlink(missing_ok=True)


def _check_settings(file: Path, values: Mapping[str, float]) -> None:
    """Refuse a file that `run` would not take, or in which it would not find these values."""
    for camera in load_cameras({}, file, environment={}):
        for name, value in values.items():
            if not math.isclose(getattr(camera, name), value, abs_tol=1e-3):
                raise SettingsError(
                    f"{file}: [[camera]] {camera.name} has a {name} of its own, which outranks the one found; remove it"
                )


def _check_spread(pixels: Floats, ground: Floats) -> None:
    """Refuse points that lie on a line, or whose outline is folded in one and not in the other."""
    for points, what in ((pixels, "in the image"), (ground, "on the ground")):
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if spread[1] < 0.02 * spread[0]:
            raise ValueError(f"the points lie on one line {what}: choose them as the corners of an area")
    # A camera over the ground never mirrors it: any three points turn the other way in pixels, where y runs down.
    hull = cv2.convexHull(ground.astype(np.float32), returnPoints=False).ravel()
    turns = [_area(pixels[hull[[i, j, k]]]) * _area(ground[hull[[i, j, k]]]) for i, j, k in _triples(len(hull))]
    if max(turns) >= 0:
        raise ValueError("the points fold over themselves: are two of them swapped, or left and right mixed up?")
    if _distinctness(pixels, ground) < DISTINCT:
        raise ValueError("two of the points are the same, or three lie on one line: choose them as corners of an area")


def _distinctness(pixels: Floats, ground: Floats) -> float:
    """How far the equations of the plane's view are from singular: 0 if points on one line, or the same, leave it open.

    Hartley and Zisserman, Multiple View Geometry, 4.1, with their normalisation.
    """
    (x, y), (right, ahead) = (((at - at.mean(axis=0)) / at.std()).T for at in (pixels, ground))
    one, none = np.ones_like(x), np.zeros_like(x)
    rows = [
        np.stack([right, ahead, one, none, none, none, -x * right, -x * ahead, -x], axis=1),
        np.stack([none, none, none, right, ahead, one, -y * right, -y * ahead, -y], axis=1),
    ]
    strength = np.linalg.svd(np.concatenate(rows), compute_uv=False)
    return float(strength[7] / strength[0])


def _triples(count: int) -> Sequence[tuple[int, int, int]]:
    return [(i, (i + 1) % count, (i + 2) % count) for i in range(count)]


def _area(outline: Floats) -> float:
    """Twice the signed area."""
    x, y = outline.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())


def _camera(values: Floats, size: tuple[int, int], bend: float) -> GroundCamera:
    focal = math.exp(values[3])
    return GroundCamera(size, (focal, focal), math.exp(values[2]), float(values[0]), float(values[1]), bend)


def _off(values: Floats, size: tuple[int, int], pixels: Floats, ground: Floats, bend: float) -> Floats:
    """Pixels between where a camera sees the points and where they are."""
    sine, cosine = math.sin(values[6]), math.cos(values[6])
    places = ground @ np.array([[cosine, -sine], [sine, cosine]]) + values[4:6]
    seen, _ = _camera(values, size, bend).project(places)
    answer: Floats = (seen - pixels).ravel()
    return answer


def _refine(
    values: Floats, size: tuple[int, int], pixels: Floats, ground: Floats, bend: float
) -> tuple[Floats | None, float]:
    """Levenberg and Marquardt's steps to a camera; None if it leaves what cameras can be."""
    damping, off = 1e-2, _off(values, size, pixels, ground, bend)
    for _ in range(STEPS):
        slopes = np.empty((len(off), UNKNOWN))
        for i in range(UNKNOWN):
            moved = values.copy()
            moved[i] += 1e-6
            slopes[:, i] = (_off(moved, size, pixels, ground, bend) - off) / 1e-6
        square = slopes.T @ slopes
        # Of all cameras that see the points alike, the one with the least roll.
        step = np.linalg.lstsq(square + damping * np.diag(np.diag(square) + 1e-9), -slopes.T @ off, rcond=None)[0]
        there = values + step
        if not (abs(there[0]) < 1.5 and abs(there[1]) < 1.5 and abs(there[2]) < 6 and abs(there[3]) < 14):
            return None, math.inf
        new = _off(there, size, pixels, ground, bend)
        if (new**2).sum() < (off**2).sum():
            values, off, damping = there, new, damping / 5
        else:
            damping *= 5
    return values, float(np.hypot(*off.reshape(-1, 2).T).max())
