"""Draws laps of a track fast enough for a live camera: what does not change is worked out once, a frame paints it.

The course, camera, paint and look are those of `TrackScene`, which is the plain reference. What differs: the texture
stays where it is on the ground, the backdrop turns with the car, and there is neither motion blur nor JPEG. Lines are
drawn from the very points that the truth is computed from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from typing import NamedTuple, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats, Pixels
from camapp.core.frames import Truth
from camapp.core.ground_camera import GroundCamera
from camapp.core.predictions import Polyline
from camapp.scenes.course import Course, Pose, Rgb, Stripe
from camapp.scenes.photograph import (
    COARSE_WIDTH,
    EXPOSURE_GAINS,
    SUPERSAMPLING,
    UNSHARP_BLUR,
    Look,
    Mask,
    backdrop_image,
    painted,
    photograph,
)
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene, truth_of
from camapp.scenes.trackside import View

# From these distances on (metres), every second, fourth, eighth and sixteenth point of a path is enough: points 0.8 m
# apart on a bend of 4 m radius leave it by 2 cm, which 14 m away is less than a pixel of 640.
SPARSE_FROM = (1.5, 3.0, 6.0, 14.0)
# Longest list of points of a mark; these are not made sparser.
MARK_POINTS = 60
# Side of a texture tile, pixels; a power of two.
TILE = 1024
# Grey levels in a tile for a standard deviation of 1.
DEVIATION = 42.5
# Standard deviation of the soft clouds of the ground, in those of its grain; sizes of their pixels, in grains.
CLOUDS, CLOUD_PIXEL = 0.6, 2.0
# Where the grain has faded below this share, it is left out.
FADED = 0.2
# Directions that a backdrop consists of, as a room has four walls, and the pixels over which two of them are blended.
WALLS, SEAM = 4, 24
# Positions of the repeated noise, in each direction.
SHIFTS = 64
# RGB of the bumper in view.
BUMPER = (26.0, 26.0, 26.0)


class LapScene(TrackScene):
    """Shows laps as `TrackScene` does, at a small part of its cost; the lines of a truth are found when first read.

    Args:
        drawn: a closed course of one's own and its stripes in painting order, in place of those of the seed.
    """

    def __init__(self, options: SceneOptions, drawn: tuple[Course, Sequence[Stripe]] | None = None) -> None:
        super().__init__(options)
        if drawn is not None:
            self.course, self.stripes = drawn[0], tuple(drawn[1])
            self._lane = min(self._lane, len(self.course.borders) - 2)
            self.seconds = float(self.course.along[-1]) / self._speed
        # What stands, hangs or shines somewhere would move along with the car.
        self.look = replace(self.look, motion=(0.0, 0.0), jpeg=0, things=(), lamps=(), joints=None, dapple=None)
        self._paths = _Paths(self.stripes, self.look.reach, self.camera)
        self._picture = _Picture(self.camera, self.look, self._gain())

    def seen_from(self, pose: Pose, moment: int = 0) -> tuple[Pixels, Truth]:
        """Return the image and the truth from any pose."""
        parts = self._paths.seen_from(pose)
        image = self._picture.draw(parts, pose, moment)
        view = View(self.camera, tuple(part.stripe for part in parts), self.look, self.course.values(pose))
        return image, Truth(lines=_LinesOf(view, image), values=view.values)

    def _gain(self) -> float:
        """Return the gain of the automatic exposure, which stays as it is at the start."""
        if not self.look.exposure:
            return 1.0
        start = self.pose(0.0)
        raw = replace(self.look, exposure=0.0, gamma=1.0, sharpened=0.0, noise=0.0)
        small = photograph([stripe.seen_from(start) for stripe in self.stripes], raw, self.camera.resized((160, 120)))
        return float(np.clip(self.look.exposure / max(float(small.mean()), 1.0), *EXPOSURE_GAINS))


class _LinesOf(Sequence[Polyline]):
    """Holds the lines of a view, found when first used: most runs use none, and they cost as much as the image."""

    def __init__(self, view: View, image: Pixels) -> None:
        self._view, self._image = view, image

    @cached_property
    def _lines(self) -> tuple[Polyline, ...]:
        return tuple(truth_of(self._view, self._image).lines)

    @overload
    def __getitem__(self, index: int) -> Polyline: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Polyline, ...]: ...

    def __getitem__(self, index: int | slice) -> Polyline | tuple[Polyline, ...]:
        return self._lines[index]

    def __len__(self) -> int:
        return len(self._lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._lines == tuple(other)

    def __hash__(self) -> int:
        return hash(self._lines)


@dataclass(frozen=True)
class _Part:
    """A visible part of a stripe in the car's frame: n points, its edges (n, 2), and which of them are painted."""

    stripe: Stripe
    left: Floats
    right: Floats
    painted: NDArray[np.bool_]


class _Outlined(NamedTuple):
    """A stripe and its outlines, (n, 2) each, in 1/16 of a pixel of `_Picture._mask`."""

    stripe: Stripe
    outlines: list[NDArray[np.int32]]


class _Paths:
    """Holds all stripes of a course in one array, of which a pose selects the visible points."""

    def __init__(self, stripes: Sequence[Stripe], reach: float, camera: GroundCamera) -> None:
        self._stripes, self._reach = stripes, reach
        x, y = np.meshgrid(np.linspace(0, camera.size[0], 33), np.linspace(0, camera.size[1], 25))
        ground, seen = camera.unproject(np.stack([x, y], axis=-1))
        # The view is this many metres wider for each metre ahead, to each side.
        self._spread = float((np.abs(ground[..., 0]) / np.maximum(ground[..., 1], camera.height))[seen].max())
        counts = [len(stripe.path) for stripe in stripes]
        self._owner = np.repeat(np.arange(len(stripes)), counts)
        edges = [stripe.edges for stripe in stripes]
        # (3, n, 2): middle, left and right edge.
        self._points = np.stack(
            [
                np.concatenate([stripe.path for stripe in stripes]),
                np.concatenate([left for left, _ in edges]),
                np.concatenate([right for _, right in edges]),
            ],
            dtype=np.float32,
            casting="same_kind",
        )
        self._painted = np.concatenate([painted(stripe) for stripe in stripes])
        numbers = np.concatenate([np.arange(count) * (count > MARK_POINTS) for count in counts])
        # Ends of stripes and dashes stay.
        numbers[np.cumsum(counts) - 1] = 0
        ends = np.flatnonzero(np.diff(self._painted))
        numbers[ends] = numbers[ends + 1] = 0
        # Whether a point is one of every second, fourth, ...
        self._sparse = [numbers & ((2 << level) - 1) == 0 for level in range(len(SPARSE_FROM))]

    def seen_from(self, pose: Pose) -> list[_Part]:
        """Return the parts of stripes around a pose, in painting order."""
        sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
        turn = np.array([[cosine, sine], [-sine, cosine]], np.float32)
        place = np.array([pose.x, pose.y], np.float32)
        path = (self._points[0] - place) @ turn
        x, y = np.abs(path[:, 0]), path[:, 1]
        square = x * x + y * y
        near = (square < (1.1 * self._reach) ** 2) & (y > -1.0) & (x < 2 + self._spread * (y + 1))
        kept = near.copy()
        for level, start in enumerate(SPARSE_FROM):
            kept &= self._sparse[level] | (square < start * start)
        parts = []
        for stripe, start, end in _runs_of(near, self._owner):
            chosen = start + np.flatnonzero(kept[start:end])
            if len(chosen) > 1:
                left, right = (self._points[1:, chosen] - place) @ turn
                shown = replace(self._stripes[stripe], path=path[chosen])
                parts.append(_Part(shown, left, right, self._painted[chosen]))
        return parts


class _Picture:
    """Draws paint on a ground whose appearance to this camera was worked out once.

    What lies between ground and pixel (light, cast, haze, exposure, tones) acts on each pixel alone. So a textured
    ground is a mixture of its darkest and its brightest image, and a painted one of ground and an image full of paint.
    """

    def __init__(self, camera: GroundCamera, look: Look, gain: float) -> None:
        self._camera, self._look, self._gain = camera, look, gain
        width, height = camera.size
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        ground, seen = camera.unproject(np.stack([x, y], axis=-1))
        distance = np.hypot(ground[..., 0], ground[..., 1])
        beyond = np.asarray(~seen | (distance > look.reach), bool)
        # The ground begins with the row `top`; the backdrop ends above the row `foot`.
        self._top = int(np.argmin(np.all(beyond, axis=1)))
        self._foot = height - int(np.argmax(np.any(beyond, axis=1)[::-1])) if beyond.any() else 0
        self._beyond = beyond[self._top : self._foot]
        # Textures are sampled at every second pixel of every second row: the lens blurs finer ones.
        self._ground = np.ascontiguousarray(ground[self._top :: 2, ::2], np.float32)
        self._shape = height - self._top, width
        light = cv2.resize(look.light.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        self._light = light[..., None] * np.array(look.cast, np.float32)
        self._scale = SUPERSAMPLING if width < COARSE_WIDTH else 1
        self._blur = look.blur * width
        self._unsharp = 2 * round(max(0.6, UNSHARP_BLUR * width) * math.sqrt(3)) + 1
        self._tones = np.rint(255 * (np.arange(256) / 255) ** look.gamma).astype(np.uint8)
        rng = np.random.default_rng([look.seed, 9])
        # Metres of ground ahead that one pixel covers: finer textures fade.
        footprint = ((distance**2 + camera.height**2) / (camera.height * max(camera.focal)))[self._top :]
        # A grain has up to four pixels of the tile, so that these are not seen from near.
        finer = min(4, max(1, round(look.grain_size / (2 * float(footprint.min())))))
        self._grain, self._clouds = _tile(6.0 * finer), _tile(9 * 14.0 / CLOUD_PIXEL)
        self._frays, self._wear = _tile(3.0), _tile(14.0)
        self._grain_pixel = look.grain_size / finer
        fade = 1 / (1 + (0.4 * footprint / look.grain_size) ** 2) ** 0.5
        near = np.rint(255 / (1 + (0.27 * footprint / look.grain_size) ** 2) ** 0.5)
        self._near, self._far = near.astype(np.uint8), ((255 - near) / 2).astype(np.uint8)
        self._grained = int(np.argmax(fade.max(axis=1) > FADED)) & ~1
        colour = np.array(look.ground, np.float32)
        deviation = 127.5 / DEVIATION * look.grain * (colour / 128 + 0.35) * np.hypot(fade, CLOUDS)[..., None]
        self._dark = self._toned(colour - deviation, self._light[self._top :])
        self._span = cv2.subtract(self._toned(colour + deviation, self._light[self._top :]), self._dark)
        self._panorama = self._backdrop(rng)
        self._car: Pixels = np.zeros((height, width, 3), np.uint8)
        shown: Mask = np.zeros((height, width), np.uint8)
        for part, shade in [*((part, BUMPER) for part in look.bumper), *look.body]:
            outline = np.rint(part * camera.size * 16).astype(np.int32)
            cv2.fillPoly(self._car, [outline], shade, cv2.LINE_8, 4)
            cv2.fillPoly(shown, [outline], 1, cv2.LINE_8, 4)
        self._car_shown = np.nonzero(shown)
        noise = rng.normal(0, look.noise, (height + SHIFTS, width + SHIFTS, 3)).astype(np.float32)
        self._brighter, self._darker = (np.clip(np.rint(sign * noise), 0, 255).astype(np.uint8) for sign in (1, -1))
        self._paints: dict[Rgb, Pixels] = {}

    def draw(self, parts: Sequence[_Part], pose: Pose, moment: int) -> Pixels:
        """Return the image, RGB uint8 (height, width, 3)."""
        width, height = self._camera.size
        look, top, foot = self._look, self._top, self._foot
        image: Pixels = np.empty((height, width, 3), np.uint8)
        ground = image[top:]
        self._draw_ground(ground, pose)
        for group in _of_one_paint(self._outlined(parts)):
            if group[0].stripe.is_line:
                self._paint_lines(ground, group, pose)
            else:
                self._paint_marks(ground, group)
        if look.sharpened:
            soft = cv2.blur(ground, (self._unsharp, self._unsharp))
            cv2.addWeighted(ground, 1 + look.sharpened, soft, -look.sharpened, 0, dst=ground)
        if foot:
            start = round(pose.heading * self._camera.focal[0]) % (self._panorama.shape[1] - width)
            scenery = self._panorama[:, start : start + width]
            image[:top] = scenery[:top]
            image[top:foot][self._beyond] = scenery[top:foot][self._beyond]
        image[self._car_shown] = self._car[self._car_shown]
        if look.noise:
            x, y = np.random.default_rng([look.seed, moment]).integers(0, SHIFTS, 2).tolist()
            cv2.add(image, self._brighter[y : y + height, x : x + width], dst=image)
            cv2.subtract(image, self._darker[y : y + height, x : x + width], dst=image)
        return image

    def _draw_ground(self, ground: Pixels, pose: Pose) -> None:
        look, (height, width) = self._look, self._shape
        lower, whole = slice(self._grained, height), slice(0, width)
        texture = self._sample(self._clouds, CLOUD_PIXEL * look.grain_size, pose, (slice(0, height), whole))
        grain = self._sample(self._grain, self._grain_pixel, pose, (lower, whole), self._blur)
        # Each deviates by one, and so must their sum.
        total = math.hypot(1, CLOUDS)
        shift = 127.5 * (1 - (1 + CLOUDS) / total)
        cv2.addWeighted(grain, 1 / total, texture[lower], CLOUDS / total, shift, dst=texture[lower])
        share = cv2.cvtColor(texture, cv2.COLOR_GRAY2RGB)
        cv2.multiply(self._span, share, dst=ground, scale=1 / 255)
        cv2.add(ground, self._dark, dst=ground)

    def _outlined(self, parts: Sequence[_Part]) -> list[_Outlined]:
        """Return the outlines of the stripes that are in view, in painting order."""
        if not parts:
            return []
        edges = [np.concatenate([getattr(part, side) for part in parts]) for side in ("left", "right")]
        pixels, seen = self._camera.project(np.stack(edges))
        points = np.rint(np.clip(pixels - (0, self._top), -9000, 9000) * (16 * self._scale) - 8).astype(np.int32)
        owner = np.repeat(np.arange(len(parts)), [len(part.left) for part in parts])
        shown = seen.all(axis=0) & np.concatenate([part.painted for part in parts])
        found = [_Outlined(part.stripe, []) for part in parts]
        visible = np.array(_runs_of(shown, owner), int).reshape(-1, 3)
        lengths = visible[:, 2] - visible[:, 1]
        # A dashed line has hundreds of outlines: those of one length are made together.
        for length in np.unique(lengths).tolist():
            same = visible[lengths == length]
            left, right = points[:, same[:, 1, None] + np.arange(length)]
            for part, outline in zip(same[:, 0].tolist(), np.concatenate([left, right[:, ::-1]], axis=1), strict=True):
                found[part].outlines.append(outline)
        return [outlined for outlined in found if outlined.outlines]

    def _paint_lines(self, ground: Pixels, group: Sequence[_Outlined], pose: Pose) -> None:
        """Draw lines of one colour, cover and wear on the ground."""
        mask, look, stripe = self._mask(group), self._look, group[0].stripe
        frayed = 0.004 * look.ragged * ground.shape[1]
        box = _box(mask, 3 * (self._blur + frayed))
        if box is None:
            return
        mask = mask[box]
        if look.ragged:
            frays = self._sample(self._frays, look.grain_size * 1.5, pose, box)
            # Far away, a pixel shows the mean of many.
            frays = cv2.add(cv2.multiply(frays, self._near[box], scale=1 / 255), self._far[box])
            soft = _softened(mask, 0.3 + frayed)
            share = look.ragged * 0.45 * 255 / DEVIATION
            rough = cv2.addWeighted(soft, 1 + 0.6 * look.ragged, frays, share, -share * 127.5)
            mask = cv2.bitwise_and(rough, cv2.threshold(soft, 8, 255, cv2.THRESH_BINARY)[1])
        if stripe.wear:
            worn = self._sample(self._wear, stripe.width * 0.12, pose, box)
            share = 0.95 * 255 / DEVIATION
            kept = cv2.addWeighted(worn, -share, worn, 0, 255 * (1.5 - 2.2 * stripe.wear) + share * 127.5)
            mask = cv2.multiply(mask, kept, scale=1 / 255)
        if stripe.colour not in self._paints:
            self._paints[stripe.colour] = self._toned(np.array(stripe.colour, np.float32), self._light[self._top :])
        cover = _softened(cv2.multiply(mask, stripe.cover), self._blur)
        _blend(ground[box], self._paints[stripe.colour][box], cover)

    def _paint_marks(self, ground: Pixels, group: Sequence[_Outlined]) -> None:
        """Draw marks of any colours; each has the light of one of its points."""
        height, width = ground.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        paint = np.zeros((height, width, 3), np.uint8)
        shift = 3 + self._scale
        thick = 1 + 2 * math.ceil(self._blur)
        for stripe, outlines in group:
            x, y = np.mean(outlines[0], axis=0).astype(int) >> shift
            light = self._light[self._top + min(max(y, 0), height - 1), min(max(x, 0), width - 1)]
            colour = self._toned(np.array(stripe.colour, np.float32), light[None, None])[0, 0].tolist()
            cv2.fillPoly(mask, outlines, round(255 * stripe.cover), cv2.LINE_AA, shift)
            # Around it, too, for the blur of the mask.
            cv2.polylines(paint, outlines, True, colour, thick, cv2.LINE_8, shift)
            cv2.fillPoly(paint, outlines, colour, cv2.LINE_8, shift)
        box = _box(mask, 3 * self._blur)
        if box is not None:
            _blend(ground[box], paint[box], _softened(mask[box], self._blur))

    def _mask(self, group: Sequence[_Outlined]) -> Mask:
        """Return the coverage of the ground's part of the image, uint8."""
        height, width = self._shape
        scale = self._scale
        mask: Mask = np.zeros((height * scale, width * scale), np.uint8)
        for _, outlines in group:
            cv2.fillPoly(mask, outlines, 255, cv2.LINE_AA if scale == 1 else cv2.LINE_8, 4)
        if scale == 1:
            return mask
        return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    def _sample(self, tile: Pixels, pixel: float, pose: Pose, box: tuple[slice, slice], blur: float = 0.0) -> Pixels:
        """Return what a repeated tile, with pixels in metres, holds on the ground in a part of the image."""
        sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
        to_tile = np.array([[cosine, sine, pose.x], [-sine, cosine, pose.y]]) / pixel
        rows, columns = (slice(part.start // 2, -(-part.stop // 2)) for part in box)
        # OpenCV's own repetition of the tile takes five times as long.
        places = cv2.transform(self._ground[rows, columns], to_tile).astype(np.int32) & (TILE - 1)
        coarse = cv2.remap(tile, places.astype(np.int16), None, cv2.INTER_NEAREST)
        coarse = _softened(np.asarray(coarse, np.uint8), blur / 2)
        height, width = coarse.shape
        fine = cv2.resize(coarse, (2 * width, 2 * height))
        return np.asarray(fine[: box[0].stop - box[0].start, : box[1].stop - box[1].start], np.uint8)

    def _toned(self, colour: Floats, light: Floats) -> Pixels:
        """Return the pixels of ground of a colour, the same everywhere or one for each pixel, in this light."""
        look = self._look
        image = colour * light
        image *= self._gain * (1 - look.haze)
        image += self._gain * 255 * look.haze
        return np.asarray(cv2.LUT(np.clip(image, 0, 255).astype(np.uint8), self._tones), np.uint8)

    def _backdrop(self, rng: np.random.Generator) -> Pixels:
        """Return the view all around, `foot` rows high; after the last direction follows the first again."""
        width = self._camera.size[0]
        around = round(math.tau * self._camera.focal[0])
        if not self._foot:
            return np.zeros((0, around + width, 3), np.uint8)
        walls = WALLS if self._look.backdrop else 1
        part = -(-around // walls)
        scenery = [backdrop_image(self._look.backdrop, part + SEAM, self._foot, rng) for _ in range(walls)]
        fade = np.linspace(0, 1, SEAM, dtype=np.float32)[:, None]
        # The end of each is blended into the beginning of the next.
        joined = [
            np.concatenate([before[:, part:] * (1 - fade) + wall[:, :SEAM] * fade, wall[:, SEAM:part]], axis=1)
            for before, wall in zip([scenery[-1], *scenery], scenery, strict=False)
        ]
        image = np.concatenate(joined, axis=1)[:, :around]
        image = np.concatenate([image, image[:, :width]], axis=1)
        # Light is fixed to the camera, and the backdrop is not.
        toned = self._toned(image, self._light[: self._foot].mean(axis=1, keepdims=True))
        return _softened(toned, self._blur)


def _runs_of(flags: NDArray[np.bool_], owner: NDArray[np.int_]) -> list[tuple[int, int, int]]:
    """Return (owner, start, stop) of each run of True that has one owner."""
    marked = np.where(flags, owner, -1)
    edges = np.flatnonzero(np.diff(marked, prepend=-1, append=-1))
    starts, stops = edges[:-1], edges[1:]
    return [run for run in zip(marked[starts].tolist(), starts.tolist(), stops.tolist(), strict=True) if run[0] >= 0]


def _of_one_paint(outlined: Sequence[_Outlined]) -> list[list[_Outlined]]:
    """Return successive stripes in groups: lines of one paint, or marks."""

    def paint(item: _Outlined) -> tuple[object, ...]:
        stripe = item.stripe
        return (stripe.colour, stripe.cover, stripe.wear) if stripe.is_line else ()

    return [list(group) for _, group in groupby(outlined, paint)]


def _box(mask: Mask, margin: float) -> tuple[slice, slice] | None:
    """Return the part of a mask that is not empty, with a margin in pixels, from even ones on; None if it is empty."""
    x, y, width, height = cv2.boundingRect(mask)
    more = 2 + math.ceil(margin)
    rows, columns = (
        slice(max(0, start - more) & ~1, min(start + length + more, side))
        for start, length, side in zip((y, x), (height, width), mask.shape, strict=True)
    )
    return (rows, columns) if width else None


def _blend(image: Pixels, paint: Pixels, share: Mask) -> None:
    """Cover an image with paint in place, by a share of 255."""
    wide = cv2.cvtColor(share, cv2.COLOR_GRAY2RGB)
    kept = cv2.multiply(image, cv2.bitwise_not(wide), scale=1 / 255)
    image[:] = cv2.add(kept, cv2.multiply(paint, wide, scale=1 / 255))


@lru_cache(maxsize=8)
def _tile(smooth: float) -> Pixels:
    """Return a seamlessly repeating square of noise around 127.5, whose details are about smooth / 2 pixels wide."""
    spectrum = np.fft.rfft2(np.random.default_rng(99).normal(size=(TILE, TILE)).astype(np.float32))
    fy, fx = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]
    spectrum *= 1 / (1 + (np.hypot(fx, fy) * smooth) ** 2)
    tile = np.fft.irfft2(spectrum, (TILE, TILE))
    levels = (tile - tile.mean()) * (DEVIATION / tile.std()) + 127.5
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _softened(image: Pixels, blur: float) -> Pixels:
    """Return an image blurred with about this standard deviation in pixels: by two means, cheaper than a Gaussian."""
    # A mean over n pixels has the variance (n * n - 1) / 12.
    side = int((math.sqrt(6 * blur * blur + 1) - 1) / 2) * 2 + 1
    for n in (side, side if 24 * blur * blur < side * side + (side + 1) ** 2 - 2 else side + 2):
        if n > 1:
            image = np.asarray(cv2.blur(image, (n, n)), np.uint8)
    return image
