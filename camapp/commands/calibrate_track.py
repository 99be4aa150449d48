"""`camapp calibrate-track` finds the pose and field of view of a camera from known points on the ground."""

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

MIN_POINTS = 4
# Smallest condition of the homography's equations, of 0 to about 0.3: below it the points leave the view ambiguous.
MIN_CONDITION = 0.01
# Largest error of a point, as a share of the image's width: beyond it the points were measured wrongly.
MAX_ERROR = 0.01
# The search for the focal length: its range in longer image sides, and candidates in each round. A round narrows the
# range by a factor of 16.
_FOCAL_RANGE, _CANDIDATES, _ROUNDS = (0.03, 30.0), 33, 6

CORNERS = ("the near left corner", "the near right one", "the far right one", "the far left one")


def run_calibration(
    image: Path,
    points: Sequence[str],
    board: str | None,
    square: float,
    distortion: float,
    into: Path,
    rectangle: str | None = None,
) -> str:
    """Calibrate the camera and write its settings; return the line to print.

    Args:
        points: 'X,Y=RIGHT,AHEAD', a pixel and metres.
        board: 'CxR' inner corners of a chessboard on the ground, instead of points.
        distortion: barrel distortion of the lens, degrees.
        rectangle: 'WxD' metres of a rectangle whose corners the user clicks, instead of points.

    Raises:
        SettingsError: the image, the points, the clicks or the chessboard are unusable, or the file cannot be written.
    """
    try:
        seen = read_image(image)
        size = seen.width, seen.height
        if bool(points) + bool(board) + bool(rectangle) != 1:
            raise ValueError(
                "give either four or more --point X,Y=RIGHT,AHEAD, or a --rectangle WxD to click, or a --chessboard CxR"
            )
        if board:
            pixels, ground = chessboard(seen.rgb(), *parse_size(board), square)
        elif rectangle:
            from camapp.commands.clicks import clicked_points

            ground = corners(rectangle)
            pixels = clicked_points(seen.rgb(), CORNERS)
        else:
            pairs = np.array([parse_point(point) for point in points])
            pixels, ground = pairs[:, 0], pairs[:, 1]
        camera = fit_camera(size, pixels, ground, math.radians(distortion))
    except (ValueError, OSError) as error:
        raise SettingsError(f"{image}: {getattr(error, 'strerror', None) or error}") from error
    try:
        store(camera, into)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{into}: {getattr(error, 'strerror', None) or error}") from error
    return (
        f"{into}: camera {camera.height:.3f} m over the ground, pitch {math.degrees(camera.pitch):.1f} degrees, "
        f"roll {math.degrees(camera.roll):.1f}, horizontal field of view {math.degrees(camera.across):.1f}; "
        f"use it with --config {into}"
    )


def fit_camera(size: tuple[int, int], pixels: Floats, ground: Floats, distortion: float = 0.0) -> GroundCamera:
    """Return the camera that sees points of the ground at these pixels.

    For each focal length, cv2.solvePnP finds the pose; the focal length is the one with the least error.

    Args:
        pixels: (n, 2), n at least 4.
        ground: (n, 2) metres, right and ahead, from any origin and along any direction.
        distortion: barrel distortion of the lens, radians.

    Raises:
        ValueError: the points are too few, on one line or folded over themselves, or no camera sees them so.
    """
    if len(pixels) != len(ground) or len(pixels) < MIN_POINTS:
        raise ValueError(f"a calibration needs at least {MIN_POINTS} points, each with its pixel and its place")
    if not (np.isfinite(pixels).all() and np.isfinite(ground).all()):
        raise ValueError("the points of a calibration are finite numbers")
    _check_spread(pixels, ground)
    low, high = (math.log(share * max(size)) for share in _FOCAL_RANGE)
    for _ in range(_ROUNDS):
        candidates = np.linspace(low, high, _CANDIDATES)
        fits = [_fit_pose(size, math.exp(focal), pixels, ground, distortion) for focal in candidates]
        best = int(np.argmin([(error**2).sum() for _, error in fits]))
        step = candidates[1] - candidates[0]
        low, high = candidates[best] - step, candidates[best] + step
    camera, error = fits[best]
    worst = float(error.max())
    if camera is None or worst > MAX_ERROR * size[0]:
        raise ValueError(f"no camera sees these points so: the best has an error of {worst:.0f} pixels; measure again")
    return camera


def _fit_pose(
    size: tuple[int, int], focal: float, pixels: Floats, ground: Floats, distortion: float
) -> tuple[GroundCamera | None, Floats]:
    """Return the camera of a focal length that sees the points best, and each point's error (n,) in pixels."""
    failed = None, np.full(len(pixels), math.inf)
    straight = (pixels - np.array(size) / 2) / focal
    if distortion:
        radius = np.maximum(np.hypot(*straight.T), 1e-9)
        if radius.max() * distortion > math.pi / 2 - 0.01:
            return failed
        straight *= (np.tan(radius * distortion) / (2 * math.tan(distortion / 2)) / radius)[:, None]
    plane = np.column_stack([ground - ground.mean(axis=0), np.zeros(len(ground))])
    _, turn, shift = cv2.solvePnP(plane, straight, np.eye(3), None)
    # Rows are the camera's axes right, down and forward, in coordinates of the ground.
    axes = cv2.Rodrigues(turn)[0]
    position = -axes.T @ shift.ravel()
    ahead = axes[2, :2] / max(np.hypot(*axes[2, :2]), 1e-9)
    try:
        pitch, roll = -math.asin(np.clip(axes[2, 2], -1, 1)), -math.atan2(axes[0, 2], -axes[1, 2])
        camera = GroundCamera(size, (focal, focal), float(position[2]), pitch, roll, distortion)
    except ValueError:
        return failed
    seen, visible = camera.project((plane - position)[:, :2] @ np.array([[ahead[1], ahead[0]], [-ahead[0], ahead[1]]]))
    return (camera, np.hypot(*(seen - pixels).T)) if visible.all() else failed


def chessboard(image: Pixels, columns: int, rows: int, square: float) -> tuple[Floats, Floats]:
    """Find the inner corners of a chessboard on the ground.

    Args:
        image: RGB, uint8 (height, width, 3).
        square: side of a square, metres.

    Returns:
        pixels (n, 2) and places on the ground (n, 2) in metres.

    Raises:
        ValueError: the board is too small, or not in the image.
    """
    if min(columns, rows) < 3:
        raise ValueError(f"a chessboard of {columns} x {rows} inner corners is too small: 3 x 3 at least")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, corners = cv2.findChessboardCorners(grey, (columns, rows))
    if not found:
        raise ValueError(f"no chessboard of {columns} x {rows} inner corners in the image; is it completely in view?")
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    corners = cv2.cornerSubPix(grey, corners, (5, 5), (-1, -1), stop)
    x, y = np.meshgrid(np.arange(columns) * square, np.arange(rows) * square)
    ground = np.stack([x.ravel(), y.ravel()], axis=1)
    # OpenCV's coordinates start at the centre of the first pixel.
    pixels = np.asarray(corners, np.float64).reshape(-1, 2) + 0.5
    outline = [0, columns - 1, columns * rows - 1, columns * (rows - 1)]
    if _area(pixels[outline]) * _area(ground[outline]) > 0:
        # OpenCV has numbered the corners in the mirrored order.
        ground[:, 0] *= -1
    return pixels, ground


def corners(text: str) -> Floats:
    """Return the corners (4, 2) of a rectangle, such as '0.6x1.2' metres, in the order of `CORNERS`.

    Raises:
        ValueError: the text is not WIDTHxDEPTH.
    """
    try:
        width, depth = (float(part) for part in text.split("x"))
        if not (0 < width < math.inf and 0 < depth < math.inf):
            raise ValueError
    except ValueError:
        raise ValueError(f"'{text}': a rectangle is WIDTHxDEPTH in metres, such as 0.6x1.2") from None
    return np.array([[0, 0], [width, 0], [width, depth], [0, depth]])


def parse_point(text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Parse '320,400=0.1,0.5' into ((320, 400), (0.1, 0.5)), a pixel, and metres to the right and ahead.

    Raises:
        ValueError: the text has another form.
    """
    try:
        (x, y), (right, ahead) = ([float(part) for part in side.split(",")] for side in text.split("="))
    except ValueError:
        raise ValueError(
            f"'{text}': a point is X,Y=RIGHT,AHEAD in pixels and metres, such as 320,400=0.1,0.5"
        ) from None
    return (x, y), (right, ahead)


def store(camera: GroundCamera, file: Path) -> None:
    """Write the camera's settings into a TOML file, instead of the camera it had; everything else in it is kept.

    Raises:
        OSError: the file cannot be read or written.
        SettingsError: the result is not a valid settings file, or other values in it outrank these.
    """
    values = {
        "camera_height": camera.height,
        "camera_pitch": math.degrees(camera.pitch),
        "camera_roll": math.degrees(camera.roll),
        "camera_hfov": math.degrees(camera.across),
        "camera_distortion": math.degrees(camera.bend),
    }
    old = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    # The settings go before the first table: lines after its header belong to it.
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
    """Refuse a file that `run` would refuse, or in which it would not find these values."""
    for camera in load_cameras({}, file, environment={}):
        for name, value in values.items():
            if not math.isclose(getattr(camera, name), value, abs_tol=1e-3):
                raise SettingsError(
                    f"{file}: [[camera]] {camera.name} has its own {name}, which outranks the measured one; remove it"
                )


def _check_spread(pixels: Floats, ground: Floats) -> None:
    """Refuse points on one line, and points whose outline is folded in the image or on the ground only."""
    for points, what in ((pixels, "in the image"), (ground, "on the ground")):
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if spread[1] < 0.02 * spread[0]:
            raise ValueError(f"the points lie on one line {what}: choose them as the corners of an area")
    # A camera over the ground does not mirror it: three points have opposite orientations in pixels, where y is down.
    hull = cv2.convexHull(ground.astype(np.float32), returnPoints=False).ravel()
    corners = [np.roll(hull, -start)[:3] for start in range(len(hull))]
    turns = [_area(pixels[three]) * _area(ground[three]) for three in corners]
    if max(turns) >= 0:
        raise ValueError("the points fold over themselves: are two of them swapped, or left and right mixed up?")
    if _condition(pixels, ground) < MIN_CONDITION:
        raise ValueError("two of the points are the same, or three lie on one line: choose them as corners of an area")


def _condition(pixels: Floats, ground: Floats) -> float:
    """Return how far the equations of the homography are from singular: 0 if points coincide or lie on one line.

    See Hartley and Zisserman, Multiple View Geometry, 4.1, with their normalisation.
    """
    (x, y), (right, ahead) = (((at - at.mean(axis=0)) / at.std()).T for at in (pixels, ground))
    one, nil = np.ones_like(x), np.zeros_like(x)
    rows = [
        np.stack([right, ahead, one, nil, nil, nil, -x * right, -x * ahead, -x], axis=1),
        np.stack([nil, nil, nil, right, ahead, one, -y * right, -y * ahead, -y], axis=1),
    ]
    strength = np.linalg.svd(np.concatenate(rows), compute_uv=False)
    return float(strength[7] / strength[0])


def _area(outline: Floats) -> float:
    """Return twice the signed area of a polygon."""
    x, y = outline.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())
