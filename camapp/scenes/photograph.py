"""Renders painted ground: inverse-mapped ground textures, paint as polygons, then lens and sensor effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats, Pixels
from camapp.core.ground_camera import GroundCamera
from camapp.scenes.course import Rgb, Stripe

Mask = NDArray[np.uint8]

# Side of a repeating texture tile, in pixels.
TILE = 256
# Supersampling factor of paint in narrow images.
SUPERSAMPLING = 2
# Images narrower than this many pixels are supersampled.
COARSE_WIDTH = 400
# Minimum and maximum gain of the camera's automatic exposure.
EXPOSURE_GAINS = (0.35, 3.0)
# Parts of the car hide lines if their area is larger than this share of the image.
BROAD = 0.004
# Strength and standard deviation, as a share of the image's width, of the glow around a mirrored lamp.
GLOW, HALO = 0.5, 0.015
# Standard deviation of the blur in the camera's unsharp mask, as a share of the image's width.
UNSHARP_BLUR = 0.004


@dataclass(frozen=True)
class Band:
    """A coloured part of something that stands, from one share of its height to another."""

    low: float
    high: float
    colour: Rgb


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground.

    Attributes:
        base: outline on the ground, (n, 2) metres, convex.
        height: metres.
        bands: in painting order.
        top: size of the top relative to the base.
    """

    base: Floats
    height: float
    bands: tuple[Band, ...]
    top: float = 1.0


@dataclass(frozen=True)
class Joints:
    """Joints of tiles: `spacing` and `width` in metres, `heading` in radians; of boards if they run one way only."""

    spacing: float
    width: float
    heading: float
    colour: Rgb
    cover: float
    one_way: bool = False


@dataclass(frozen=True)
class Look:
    """Appearance of an image except its lines and its camera's pose.

    Attributes:
        ground: RGB of the surface.
        grain: standard deviation of the surface's texture, 0 to 255.
        grain_size: size of the finest detail of the texture, metres.
        streak: ratio of the detail's length ahead to its width.
        ragged: raggedness of the edges of paint, 0 to 1.
        reach: distance at which the ground ends and the backdrop begins, metres.
        patches: (outline on the ground (n, 2), RGB, opacity): other ground, shadows, areas of paint.
        backdrop: 0 sky and trees, 1 a room, 2 plain.
        joints: of the floor.
        dapple: (strength, size in metres) of sunlight that falls through leaves.
        things: what stands on the ground.
        lamps: (outline (n, 2) metres, strength) of lamps in the ceiling, which the floor mirrors.
        ceiling: height of the lamps, metres.
        polish: blur of what the floor mirrors, as a fraction of the image's width.
        gloss: opacity of the mirror images of things, 0 to 1.
        bumper: outlines (n, 2) of parts of the car in view, as fractions of the image.
        body: (outline, RGB) of more such parts.
        light: coarse brightness map (rows, columns), 1 is neutral.
        cast: RGB gains of the colour cast.
        haze: share of white added everywhere, 0 to 1.
        glare: (x, y, radius, strength, ratio of height to width), lengths as fractions of the image.
        exposure: mean level, 0 to 255, of the automatic exposure within `EXPOSURE_GAINS`; 0 switches it off.
        gamma: exponent of the tones.
        blur: standard deviation of the lens blur, as a fraction of the image's width.
        motion: (x, y) length of the motion blur, as a fraction of the width.
        sharpened: strength of the unsharp mask that small cameras apply.
        noise: standard deviation of the sensor noise, 0 to 255.
        jpeg: JPEG quality, 0 for no compression.
        seed: seed of textures, wear and noise.
    """

    ground: Rgb
    grain: float
    grain_size: float
    streak: float = 1.0
    ragged: float = 0.0
    reach: float = 60.0
    patches: Sequence[tuple[Floats, Rgb, float]] = ()
    backdrop: int = 0
    joints: Joints | None = None
    dapple: tuple[float, float] | None = None
    things: Sequence[Thing] = ()
    lamps: Sequence[tuple[Floats, float]] = ()
    ceiling: float = 2.5
    polish: float = 0.0
    gloss: float = 0.0
    bumper: Sequence[Floats] = ()
    body: Sequence[tuple[Floats, Rgb]] = ()
    light: Floats = field(default_factory=lambda: np.ones((2, 2)))
    cast: Rgb = (1.0, 1.0, 1.0)
    haze: float = 0.0
    glare: Sequence[tuple[float, float, float, float, float]] = ()
    exposure: float = 0.0
    gamma: float = 1.0
    blur: float = 0.0
    motion: tuple[float, float] = (0.0, 0.0)
    sharpened: float = 0.0
    noise: float = 0.0
    jpeg: int = 0
    seed: int = 0


def photograph(stripes: Sequence[Stripe], look: Look, camera: GroundCamera, moment: int = 0) -> Pixels:
    """Render stripes in the camera's ground frame, in painting order, to RGB uint8 (height, width, 3).

    Of the look only the noise depends on the frame index, `moment`.
    """
    canvas = _GroundCanvas(camera, look)
    rng = np.random.default_rng([look.seed, 7])
    image = canvas.surface(rng)
    canvas.joints(image)
    for outline, colour, cover in look.patches:
        canvas.fill_colour(image, canvas.outline(outline), colour, cover)
    for stripe in stripes:
        mask = canvas.stripe(stripe)
        if mask is not None:
            canvas.paint(image, stripe, mask, rng)
    canvas.dapple(image, rng)
    canvas.mirror(image)
    canvas.backdrop(image, rng)
    for thing in _far_to_near(look.things):
        canvas.stand(image, thing)
    shade = 12 + 30 * rng.random()
    for part, colour in [*((part, (shade,) * 3) for part in look.bumper), *look.body]:
        canvas.fill_colour(image, canvas.fill([part * camera.size]), colour, 1.0)
    return _apply_camera(image, look, np.random.default_rng([look.seed, 8, moment]), rng)


def hidden(look: Look, camera: GroundCamera) -> tuple[Mask, Mask]:
    """Return the masks of pixels in which the car, and in which things, hide the ground: uint8 (height, width), 0 or 1.

    Rods and cables are too thin to count.
    """
    width, height = camera.size
    masks: list[Mask] = [np.zeros((height, width), np.uint8) for _ in range(2)]
    broad = [part for part, _ in look.body if cv2.contourArea(part.astype(np.float32)) > BROAD]
    car = [part * camera.size for part in (*look.bumper[:1], *broad)]
    things = [outline for thing in look.things if (outline := _standing(thing, camera, 0.0, 1.0)) is not None]
    for mask, parts in zip(masks, (car, things), strict=True):
        for part in parts:
            cv2.fillPoly(mask, [np.rint(part * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return masks[0], masks[1]


def _far_to_near(things: Sequence[Thing]) -> list[Thing]:
    return sorted(things, key=lambda thing: -float(np.hypot(*thing.base.T).min()))


def _standing(thing: Thing, camera: GroundCamera, low: float, high: float) -> Floats | None:
    """Return the outline in pixels of a thing between two shares of its height; None out of view.

    Negative shares give its mirror image.
    """
    outlines = []
    middle = thing.base.mean(axis=0)
    for share in (low, high):
        base = middle + (thing.base - middle) * (1 - abs(share) * (1 - thing.top))
        (foot, seen), (level, _) = camera.project(base), replace(camera, height=1e-3 * camera.height).project(base)
        # A vertical edge is straight in the image; at the camera's height it meets the horizon.
        outlines.append((foot + (level - foot) * (share * thing.height / camera.height))[seen])
    points = np.concatenate(outlines)
    if len(points) < 3 or not _overlaps(points, camera.size):
        return None
    hull: Floats = cv2.convexHull(np.clip(points, -9000, 9000).astype(np.float32))[:, 0]
    return hull


class _GroundCanvas:
    """Draws on the image of one camera over one ground, through its ground maps."""

    def __init__(self, camera: GroundCamera, look: Look) -> None:
        self.camera = camera
        width, height = camera.size
        self.scale = SUPERSAMPLING if width < COARSE_WIDTH else 1
        x, y = np.meshgrid(np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5)
        ground, seen = camera.unproject(np.stack([x, y], axis=-1))
        self.ground = ground.astype(np.float32)
        self.distance = np.hypot(self.ground[..., 0], self.ground[..., 1])
        self.beyond = ~seen | (self.distance > look.reach)
        self.look = look
        # Metres of ground ahead that one pixel covers: finer textures fade.
        self.footprint = (self.distance**2 + camera.height**2) / (camera.height * max(camera.focal))

    def texture(self, kind: int, metres: float, streak: float, rng: np.random.Generator) -> Floats:
        """Return noise fixed to the ground, float32 (h, w), mean 0, standard deviation at most 1."""
        step = np.float32(1 / metres)
        shift = rng.uniform(0, TILE, 2).astype(np.float32)
        u, v = self.ground[..., 0] * step + shift[0], self.ground[..., 1] * (step / np.float32(streak)) + shift[1]
        for coordinates in (u, v):
            # Three times as fast as np.mod.
            coordinates -= np.floor(coordinates * np.float32(1 / TILE)) * TILE
        values = cv2.remap(_tile(kind), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return np.asarray(values / (1 + (0.4 * self.footprint / (metres * streak)) ** 2) ** 0.5, np.float32)

    def surface(self, rng: np.random.Generator) -> Floats:
        """Return the bare ground, float32 RGB."""
        look = self.look
        fine = self.texture(0, look.grain_size, look.streak, rng) * look.grain
        fine += self.texture(1, look.grain_size * 9, 1.0, rng) * (look.grain * rng.uniform(0.2, 0.8))
        fine += self.texture(1, look.grain_size * 70, 1.0, rng) * (look.grain * rng.uniform(0.1, 0.6))
        tint = np.array(look.ground, np.float32) / 128 + 0.35
        return np.array(look.ground, np.float32) + fine[..., None] * tint

    def joints(self, image: Floats) -> None:
        """Draw the joints of tiles or boards."""
        joints = self.look.joints
        if joints is None:
            return
        sine, cosine = math.sin(joints.heading), math.cos(joints.heading)
        x, y = self.ground[..., 0], self.ground[..., 1]
        for at in (x * cosine - y * sine, x * sine + y * cosine)[: 1 if joints.one_way else 2]:
            away = np.abs(at - joints.spacing * np.rint(at / joints.spacing))
            blur = np.maximum(self.footprint, 1e-6)
            share = np.clip((joints.width / 2 - away) / blur + 0.5, 0, 1) * np.minimum(joints.width / blur, 1)
            self._blend(image, share.astype(np.float32) * np.float32(joints.cover), joints.colour)

    def dapple(self, image: Floats, rng: np.random.Generator) -> None:
        """Darken the ground except where sunlight falls through leaves."""
        if self.look.dapple is not None:
            strength, size = self.look.dapple
            light = self.texture(1, size, 1.0, rng) + np.float32(rng.uniform(-0.5, 0.8))
            image *= (1 - np.float32(strength) / (1 + np.exp(6 * light)))[..., None]

    def mirror(self, image: Floats) -> None:
        """Draw what a polished floor mirrors."""
        look, width = self.look, self.camera.size[0]
        light = np.zeros(self.distance.shape, np.float32)
        below = replace(self.camera, height=self.camera.height + look.ceiling)
        for outline, strength in look.lamps:
            pixels, seen = below.project(outline)
            if seen.all() and _overlaps(pixels, self.camera.size):
                light += self.fill([pixels]) * np.float32(strength / 255)
        if look.lamps:
            # Rough floors smear upwards and downwards most, and glow around.
            sharp, glow = look.polish * width, HALO * width
            halo = cv2.GaussianBlur(light, (0, 0), glow, sigmaY=3 * glow)
            if sharp > 0.25:
                light = cv2.GaussianBlur(light, (0, 0), sharp, sigmaY=3 * sharp)
            light = light + np.float32(GLOW) * halo
            image += light[..., None]
        for thing in look.things if look.gloss else ():
            for band in thing.bands:
                self._fill_band(image, thing, band, -1.0, look.gloss)

    def stand(self, image: Floats, thing: Thing) -> None:
        """Draw a thing."""
        for band in thing.bands:
            self._fill_band(image, thing, band, 1.0, 1.0)

    def _fill_band(self, image: Floats, thing: Thing, band: Band, up: float, cover: float) -> None:
        outline = _standing(thing, self.camera, up * band.low, up * band.high)
        if outline is not None:
            self.fill_colour(image, self.fill([outline]), band.colour, cover)

    def fill(self, outlines: Sequence[Floats]) -> Mask:
        """Return the coverage of polygons given in pixels, uint8 (h, w)."""
        width, height = self.camera.size
        mask: Mask = np.zeros((height * self.scale, width * self.scale), np.uint8)
        points = [np.rint(np.clip(part, -9000, 9000) * (16 * self.scale) - 8).astype(np.int32) for part in outlines]
        cv2.fillPoly(mask, points, 255, cv2.LINE_AA if self.scale == 1 else cv2.LINE_8, 4)
        if self.scale > 1:
            mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        return mask

    def outline(self, ground: Floats) -> Mask:
        """Return the coverage of an area of ground."""
        dense = np.concatenate(
            [np.linspace(a, b, 12)[:-1] for a, b in zip(ground, np.roll(ground, -1, 0), strict=True)]
        )
        pixels, seen = self.camera.project(dense)
        return self.fill([pixels[seen]]) if seen.sum() > 2 else np.zeros(self.distance.shape, np.uint8)

    def stripe(self, stripe: Stripe) -> Mask | None:
        """Return the coverage of a stripe; None if it is out of view."""
        (left, left_seen), (right, right_seen) = (self.camera.project(edge) for edge in stripe.edges)
        near = np.abs(stripe.path).max(axis=1) < self.look.reach * 1.5
        parts = []
        for start, stop in runs(left_seen & right_seen & near & painted(stripe)):
            outline = np.concatenate([left[start:stop], right[start:stop][::-1]])
            if stop - start > 1 and _overlaps(outline, self.camera.size):
                parts.append(outline)
        return self.fill(parts) if parts else None

    def paint(self, image: Floats, stripe: Stripe, mask: Mask, rng: np.random.Generator) -> None:
        """Draw a stripe with its wear and ragged edges."""
        cover = mask.astype(np.float32) * np.float32(stripe.cover / 255)
        ragged = self.look.ragged
        if ragged:
            cover = cv2.GaussianBlur(cover, (0, 0), 0.3 + 0.004 * ragged * self.camera.size[0])
            frays = self.texture(0, self.look.grain_size * 1.5, 1.0, rng)
            cover = np.clip(cover * (1 + 0.6 * ragged) + ragged * 0.45 * frays * (cover > 0.03), 0, stripe.cover)
        if stripe.wear:
            worn = self.texture(1, stripe.width * 0.12, 2.0, rng) + self.texture(0, stripe.width * 0.05, 1.0, rng) * 0.6
            cover = cover * np.clip(1.5 - 2.2 * stripe.wear - 0.8 * worn, 0, 1)
        self._blend(image, cover, stripe.colour)

    def fill_colour(self, image: Floats, mask: Mask, colour: Rgb, cover: float) -> None:
        """Draw an area of one colour."""
        if mask.any():
            self._blend(image, mask.astype(np.float32) * np.float32(cover / 255), colour)

    @staticmethod
    def _blend(image: Floats, cover: Floats, colour: Rgb) -> None:
        rows, columns = (np.flatnonzero(cover.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return
        # Only the bounding box is blended: most paint covers a small part of the image.
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        image[part] += (np.array(colour, np.float32) - image[part]) * cover[part][..., None].astype(np.float32)

    def backdrop(self, image: Floats, rng: np.random.Generator) -> None:
        """Draw the backdrop beyond the ground, and feet of people in front of it."""
        height, width = image.shape[:2]
        rows = np.asarray(self.beyond.any(axis=1))
        foot = int(height - np.argmax(rows[::-1])) if rows.any() else 0
        if foot:
            scenery = backdrop_image(self.look.backdrop, width, foot, rng)
            beyond = self.beyond[:foot]
            image[:foot][beyond] = scenery[beyond]
        for _ in range(rng.poisson(0.6 if self.look.backdrop == 1 else 0.3)):
            x, wide = rng.uniform(0, width), rng.uniform(0.01, 0.05) * width
            bottom = foot + rng.uniform(0, 0.12) * height
            tone = rng.uniform(10, 90) * rng.uniform(0.6, 1.2, 3)
            shoe, sole = rng.choice([tone[0], rng.uniform(90, 250)]), rng.uniform(0.5, 1.2) * wide
            for leg in (x, x + wide * rng.uniform(1.2, 2.5)):
                top = max(0, int(rng.uniform(-0.5, 0.6) * foot))
                image[top : int(bottom), max(0, int(leg)) : max(0, int(leg + wide))] = tone
                toe = leg + rng.choice([-0.4, 0.4]) * wide
                image[max(0, int(bottom - sole)) : int(bottom), max(0, int(toe)) : max(0, int(toe + wide))] = shoe


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (start, stop) of each run of True."""
    edge = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True))


def _overlaps(points: Floats, size: tuple[int, int]) -> bool:
    low, high = points.min(axis=0), points.max(axis=0)
    return bool((high > 0).all() and (low < size).all())


def painted(stripe: Stripe) -> NDArray[np.bool_]:
    """Return which points of a stripe are painted, (n,): not those in the gaps of a dashed one."""
    if stripe.dash is None:
        return np.ones(len(stripe.path), bool)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(stripe.path, axis=0).T))])
    painted: NDArray[np.bool_] = np.mod(along, sum(stripe.dash)) < stripe.dash[0]
    return painted


@lru_cache(maxsize=4)
def _tile(kind: int) -> Floats:
    """Return a seamlessly repeating square of noise, standard deviation 1; kind 0 is fine speckle, 1 soft clouds."""
    rng = np.random.default_rng([kind, 99])
    noise = rng.normal(size=(TILE, TILE)).astype(np.float32)
    spectrum = np.fft.rfft2(noise)
    fy, fx = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]
    spectrum *= 1 / (1 + (np.hypot(fx, fy) * (3 if kind == 0 else 14)) ** 2)
    tile = np.fft.irfft2(spectrum, (TILE, TILE)).astype(np.float32)
    return np.ascontiguousarray((tile - tile.mean()) / tile.std())


def backdrop_image(kind: int, width: int, height: int, rng: np.random.Generator) -> Floats:
    """Return the backdrop, float32 RGB (height, width, 3); its lower edge meets the ground."""
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    if kind == 0:
        sky, tree = rng.uniform(150, 255, 3), rng.uniform(20, 130) * rng.uniform([0.6, 0.9, 0.5], [1.1, 1.2, 0.9])
        sky[:] = np.sort(sky)
        line = rng.uniform(0.2, 1.3)
        rough = cv2.resize(rng.normal(0, 0.12, (1, max(2, width // 6))), (width, 1)).astype(np.float32)[..., None]
        scene = np.where(y + rough < line, sky, tree).astype(np.float32)
        speckle = rng.normal(0, 18, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
        scene += cv2.resize(speckle, (width, height))[..., None] * (y > line - 0.1)
        _draw_outdoors(scene, rng)
    else:
        scene = np.empty((height, width, 3), np.float32)
        scene[:] = rng.uniform(40, 235) * rng.uniform(0.85, 1.1, 3)
        if kind == 1:
            _draw_furniture(scene, rng)
        for _ in range(rng.integers(0, 25) if kind == 1 else rng.integers(0, 4)):
            x0, y0 = rng.uniform(-0.1, 1, 2) * (width, height)
            wide, tall = rng.exponential(0.07) * width + 1, rng.exponential(0.3) * height + 1
            _draw_block(scene, x0, y0, wide, tall, rng)
        for _ in range(rng.poisson(2) if kind == 1 else 0):
            ends = (rng.uniform(0, 1, (2, 2)) * (width, height)).astype(int)
            cv2.line(scene, ends[0].tolist(), ends[1].tolist(), rng.uniform(0, 255, 3).tolist(), 1 + width // 200)
    return scene


def _draw_outdoors(scene: Floats, rng: np.random.Generator) -> None:
    """Draw cars, tents, posts and fences."""
    height, width = scene.shape[:2]
    for _ in range(rng.poisson(1.5)):
        wide = rng.exponential(0.06) * width + 1
        _draw_block(scene, rng.uniform(0, width), rng.uniform(0.6, 0.95) * height, wide, wide * 0.4, rng)
    if rng.random() < 0.25:
        tone, thick = (rng.uniform(60, 255) * rng.uniform(0.9, 1, 3)).tolist(), 1 + width // 300
        for share in rng.uniform(0.5, 1.0, rng.integers(1, 4)):
            rail = (int(share * height), int((share + rng.normal(0, 0.1)) * height))
            cv2.line(scene, (0, rail[0]), (width, rail[1]), tone, thick)
        for x in np.arange(rng.uniform(0, 0.1), 1, rng.uniform(0.04, 0.25)) * width:
            cv2.line(scene, (int(x), height // 2), (int(x), height), tone, thick)


def _draw_furniture(scene: Floats, rng: np.random.Generator) -> None:
    """Draw windows, a skirting board, table legs and people: bright and dark edges near the floor."""
    height, width = scene.shape[:2]
    if rng.random() < 0.5:
        top, tall, step = (
            rng.uniform(-0.2, 0.5) * height,
            rng.uniform(0.1, 0.5) * height,
            rng.uniform(0.05, 0.3) * width,
        )
        tone = rng.uniform(170, 255, 3)
        for x0 in np.arange(rng.uniform(-0.2, 0.6) * width, width * rng.uniform(0.4, 1.1), step):
            cv2.rectangle(
                scene, (int(x0), int(top)), (int(x0 + step * 0.85), int(top + tall)), np.sort(tone).tolist(), -1
            )
    if rng.random() < 0.5:
        board = max(1, round(rng.uniform(0.02, 0.2) * height))
        scene[-board:] = rng.choice([rng.uniform(5, 70), rng.uniform(170, 250)]) * rng.uniform(0.85, 1.1, 3)
    # Furniture is dark at the bottom and cluttered.
    if rng.random() < 0.7:
        low = int(rng.uniform(0.2, 0.9) * height)
        start, stop = np.sort(rng.uniform(-0.2, 1.2, 2) * width)
        for x0 in rng.uniform(start, stop, rng.integers(5, 50)):
            _draw_block(scene, x0, rng.uniform(low, height), rng.exponential(0.012) * width + 1, height, rng)
        for _ in range(rng.integers(0, 12)):
            _draw_block(scene, rng.uniform(start, stop), rng.uniform(low, height), rng.exponential(0.1) * width, 2, rng)


def _draw_block(scene: Floats, x: float, y: float, wide: float, tall: float, rng: np.random.Generator) -> None:
    level = rng.choice([rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(60, 180), rng.uniform(200, 255)])
    tone = level * rng.uniform(0.75, 1.1, 3)
    cv2.rectangle(scene, (int(x), int(y)), (int(x + wide), int(y + tall)), tone.tolist(), -1)


def _apply_camera(image: Floats, look: Look, noise: np.random.Generator, rng: np.random.Generator) -> Pixels:
    """Apply the effects of light, lens and sensor."""
    height, width = image.shape[:2]
    light = cv2.resize(look.light.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    image = image * (light[..., None] * np.array(look.cast, np.float32))
    if look.haze:
        image = image * np.float32(1 - look.haze) + np.float32(255 * look.haze)
    if look.glare:
        x, y = np.arange(width, dtype=np.float32)[None] / width, np.arange(height, dtype=np.float32)[:, None] / width
        for at_x, at_y, radius, strength, tall in look.glare:
            blob = np.exp(-((x - at_x) ** 2 + ((y - at_y * height / width) / tall) ** 2) / (2 * radius**2))
            image += (np.float32(strength) * blob)[..., None]
    if look.exposure:
        image = image * np.float32(np.clip(look.exposure / max(float(image.mean()), 1.0), *EXPOSURE_GAINS))
    if look.blur * width > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), look.blur * width)
    moved = np.hypot(*look.motion) * width
    if moved > 1:
        image = cv2.filter2D(image, -1, smear(look.motion[0] * width, look.motion[1] * width))
    if look.sharpened:
        soft = cv2.GaussianBlur(image, (0, 0), max(0.6, UNSHARP_BLUR * width))
        image = image + (image - soft) * np.float32(look.sharpened)
    image = np.clip(image * np.float32(1 / 255), 0, 1)
    if look.gamma != 1:
        image = cv2.pow(image, look.gamma)
    image *= 255
    if look.noise:
        grain = np.empty((height, width, 3), np.float32)
        noise.standard_normal(dtype=np.float32, out=grain)
        image += grain * np.float32(look.noise)
    pixels: Pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if look.jpeg:
        ok, encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, look.jpeg))
        if not ok:
            raise RuntimeError("OpenCV could not write a JPEG")
        pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def smear(x: float, y: float) -> Floats:
    """Return the kernel of a motion blur along (x, y) pixels."""
    side = 2 * int(np.ceil(max(abs(x), abs(y)) / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    middle = side // 2
    for t in np.linspace(-0.5, 0.5, 4 * side):
        kernel[round(middle + t * y), round(middle + t * x)] += 1
    kernel /= kernel.sum()
    return kernel
